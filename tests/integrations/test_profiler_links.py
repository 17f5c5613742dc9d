# SPDX-License-Identifier: BSD-3-Clause
"""What profilers tell about a Function beyond one event: trees, links, traces, memory, stacks."""

import itertools
import json
import pathlib
import tempfile
import threading
from collections import Counter

import torch
import torch.autograd.profiler
import torch.profiler._memory_profiler
from harness import scenario
from harness.small_functions import make_product, make_square
from torch.profiler import ExecutionTraceObserver, ProfilerActivity, profile, record_function
from torch.utils.checkpoint import checkpoint

# Known only at run time, or different in each run.
_PER_RUN = ("External id", "Fwd thread id", "Process Group Ranks", "Module Hierarchy")


def relative():
    """Sequence numbers, less the first one."""
    first = []

    def number(value):
        first.append(value)
        return value - first[0]

    return number


def profiled(body, **options):
    options.setdefault("activities", [ProfilerActivity.CPU])
    with profile(**options) as p:
        body()
    return p


def trace_of(p):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "trace.json")
        p.export_chrome_trace(str(path))
        return json.loads(path.read_text())["traceEvents"]


def record_trace(s, p, numbered=True):
    """The operators of an exported trace, and its links from forward to backward.

    Each thread has sequence numbers of its own, and threads come in any order: ``numbered`` is for one thread.
    """
    events = trace_of(p)
    operators = sorted((e for e in events if e.get("cat") == "cpu_op"), key=lambda e: (e["ts"], -e["dur"]))
    number, threads = relative(), {}
    for event in operators:
        arguments = {key: value for key, value in event["args"].items() if key not in _PER_RUN}
        if not numbered:
            arguments = {key: value for key, value in arguments.items() if key not in ("Sequence number", "Ev Idx")}
        elif arguments.get("Sequence number", -1) >= 0:
            arguments["Sequence number"] = number(arguments["Sequence number"])
        s.record(event["name"], {"thread": threads.setdefault(event["tid"], len(threads)), **arguments})
    at = {(e["ts"], e["tid"]): e["name"] for e in reversed(operators)}
    ends = {kind: {e["id"]: e for e in events if e.get("cat") == "fwdbwd" and e["ph"] == kind} for kind in "sf"}
    for key, end in sorted(ends["f"].items(), key=lambda item: item[1]["ts"]):
        start = ends["s"][key]
        s.record("link", at[start["ts"], start["tid"]], at[end["ts"], end["tid"]])
    s.record("links without an end", len(ends["s"].keys() ^ ends["f"].keys()))


with profile(activities=[ProfilerActivity.CPU], with_stack=True), record_function("first"):
    pass  # in the first one torch imports something, and the profiler keeps names from memory that was freed


def is_the_users(name):
    """Whether a Python frame in an event's name is of this file, or a module's or a Function's own."""
    return pathlib.Path(__file__).name in name or "small_functions.py" in name or name.startswith("nn.Module")


def record_tree(s, p):
    """The profiler's own tree, with those of Python's frames that are the user's."""

    def walk(events, depth):
        for event in sorted(events, key=lambda e: (e.start_time_ns, -e.end_time_ns)):
            kind = str(event.tag).rpartition(".")[2]
            shown = kind not in ("PyCall", "PyCCall") or is_the_users(event.name)
            if shown:
                name = event.name.rpartition("/")[2] if kind == "PyCall" else event.name
                s.record("  " * depth + kind, name)
            walk(event.children, depth + shown)

    walk(p.profiler.kineto_results.experimental_event_tree(), 0)


def train(s):
    square, product = make_square(s.Function), make_product(s.Function)
    x, y = s.randn(2, 3, requires_grad=True), s.randn(2, 3, requires_grad=True)

    def body():
        product.apply(square.apply(x), y).sin().sum().backward()

    return body


# Links


@scenario
def links_from_forward_to_backward(s):
    record_trace(s, profiled(train(s), record_shapes=True))


@scenario
def links_of_each_output_and_use(s):
    class Two(s.Function):
        @staticmethod
        def forward(ctx, x, scale):
            return x * scale, x + 1

        @staticmethod
        def backward(ctx, a, b):
            return a + b, None

    x = s.randn(3, requires_grad=True)

    def body():
        a, b = Two.apply(x, 2.0)
        c, _ = Two.apply(a, 3.0)
        (b * c).sum().backward(retain_graph=True)
        (b * c).sum().backward()

    record_trace(s, profiled(body, record_shapes=True))


@scenario
def links_of_double_backward(s):
    square = make_square(s.Function)
    x = s.randn(3, requires_grad=True)

    def body():
        (g,) = torch.autograd.grad(square.apply(x).sum(), x, create_graph=True)
        square.apply(g).sum().backward()

    record_trace(s, profiled(body))


@scenario
def links_through_a_checkpoint(s):
    square = make_square(s.Function)
    x = s.randn(3, requires_grad=True)
    for reentrant in True, False:
        record_trace(
            s, profiled(lambda r=reentrant: checkpoint(square.apply, square.apply(x), use_reentrant=r).sum().backward())
        )


@scenario
def links_between_threads(s):
    square = make_square(s.Function)
    x = s.randn(3, requires_grad=True)
    outputs = []

    def in_a_thread(work):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    def body():
        outputs.append(square.apply(x).sum())
        in_a_thread(lambda: outputs.append(square.apply(square.apply(x)).sum()))
        in_a_thread(lambda: outputs[0].backward())
        outputs[1].backward()

    record_trace(s, profiled(body), numbered=False)
    options = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    outputs.clear()
    record_trace(s, profiled(body, experimental_config=options), numbered=False)


@scenario
def calls_that_fail(s):
    class Fails(s.Function):
        where = None

        @staticmethod
        def forward(ctx, x):
            if Fails.where == "forward":
                raise KeyError("forward")
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise KeyError("backward")

    x = s.randn(3, requires_grad=True)
    square = make_square(s.Function)
    for Fails.where in "forward", "backward":

        def body():
            s.raises("call", lambda: Fails.apply(square.apply(x)).sum().backward())
            square.apply(x).sum().backward()

        record_trace(s, profiled(body, record_shapes=True))


# Trees


# A gradient is let go of as soon as backward has it as a Python object, as by torch from 2.13 on.
@scenario(not_before="2.13")
def tree_with_frames_and_memory(s):
    # The profiler sees frames from the scenario's on: how many there are before depends on the runner.
    record_tree(s, profiled(train(s), with_stack=True, profile_memory=True, record_shapes=True))


@scenario
def tree_of_modules(s):
    square = make_square(s.Function)

    class Inner(torch.nn.Module):
        def forward(self, x):
            return square.apply(x)

    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Inner(), Inner()

        def forward(self, x):
            with record_function("between"):
                return self.second(square.apply(self.first(x)))

    model, x = Outer(), s.randn(3, requires_grad=True)
    model.first.register_full_backward_hook(lambda *_: None)
    record_tree(s, profiled(lambda: model(x).sum().backward(), with_stack=True, with_modules=True))


@scenario
def tree_of_user_annotations(s):
    class Annotated(s.Function):
        @staticmethod
        def forward(ctx, x):
            with record_function("in forward"), torch.no_grad():
                return x * 2

        @staticmethod
        def backward(ctx, grad):
            with record_function("in backward"):
                return grad * 2

    x = s.randn(3, requires_grad=True)

    def body():
        with record_function("around"):
            y = Annotated.apply(x)
            y.register_hook(lambda g: record_function("in a hook")(lambda: g * 3)())
            with torch._C._profiler._RecordFunctionFast("fast", [x], {"k": 1}):
                y = Annotated.apply(y)
        y.sum().backward()

    record_tree(s, profiled(body, record_shapes=True))


@scenario
def stacks_of_events(s):
    options = torch._C._profiler._ExperimentalConfig(verbose=True)
    p = profiled(train(s), with_stack=True, experimental_config=options)
    for event in p.events():
        frames = [frame.rpartition("/")[2] for frame in event.stack if is_the_users(frame)]
        if frames and ".py(" not in event.name and not event.name.startswith("<"):
            s.record(event.name, frames)


# A gradient is let go of as soon as backward has it as a Python object, as by torch from 2.13 on.
@scenario(not_before="2.13")
def averages(s):
    p = profiled(lambda body=train(s): (body(), body()), record_shapes=True, profile_memory=True, with_flops=True)
    for grouping in {}, {"group_by_input_shape": True}:
        for average in p.key_averages(**grouping):
            memory = average.cpu_memory_usage, average.self_cpu_memory_usage
            s.record(average.key, average.count, average.input_shapes, memory, average.flops, average.is_legacy)
    table = p.key_averages().table(sort_by="count", row_limit=-1, max_name_column_width=60)
    s.record("table", Counter(line.split()[0] for line in table.splitlines() if line.strip()))


@scenario
def memory_of_a_training_step(s):
    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.product = make_product(s.Function)
            self.weight = torch.nn.Parameter(s.randn(3))

        def forward(self, x):
            return self.product.apply(x, self.weight)

    model, x = Scale(), s.randn(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False, fused=False)

    def body():
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()

    p = profiled(body, record_shapes=True, profile_memory=True, with_stack=True)
    memory = p._memory_profile()
    for _, action, (key, version), size in memory.timeline:
        if isinstance(key, torch.profiler._memory_profiler.TensorKey):
            s.record("change", action.name, str(memory._categories.get(key, version)), version, size)


@scenario
def scheduled_in_steps(s):
    steps, body = [], train(s)

    def ready(p):
        steps.append([e.name for e in p.events()])

    schedule = torch.profiler.schedule(wait=1, warmup=1, active=1, repeat=2)
    with profile(activities=[ProfilerActivity.CPU], schedule=schedule, on_trace_ready=ready, acc_events=True) as p:
        for _ in range(7):
            body()
            p.step()
    s.record("steps", [[name for name in names if not name.startswith("ProfilerStep")] for names in steps])


# Other observers


def record_execution_trace(s, text):
    nodes = json.loads(text)["nodes"]
    names = {node["id"]: node["name"] for node in nodes}
    number = relative()
    for node in nodes:
        facts = {a["name"]: a["value"] for a in node["attrs"] if a["name"] not in ("rf_id", "tid", "fw_tid")}
        if facts.get("seq_id", -1) >= 0:
            facts["seq_id"] = number(facts["seq_id"])
        facts["fw_parent"] = names.get(facts.get("fw_parent"))
        shapes = [node[side][part] for side, part in itertools.product(("inputs", "outputs"), ("shapes", "types"))]
        s.record(node["name"], names.get(node["ctrl_deps"]), shapes, facts)


@scenario
def execution_trace(s):
    body = train(s)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "trace.json")
        observer = ExecutionTraceObserver().register_callback(str(path))
        observer.start()
        body()
        observer.stop()
        observer.unregister_callback()
        record_execution_trace(s, path.read_text())


@scenario
def ranges_for_other_profilers(s):
    body = train(s)
    for emit in torch.autograd.profiler.emit_itt, torch.autograd.profiler.emit_nvtx:
        for shapes in False, True:

            def run(emit=emit, shapes=shapes):
                with emit(record_shapes=shapes):
                    body()
                return "ran"

            s.outcome(f"{emit.__name__}, shapes: {shapes}", run)
    s.outcome("afterwards", body)


@scenario
def autograds_own_profiler(s):
    body = train(s)
    for options in {"use_kineto": True}, {"use_kineto": False}, {"use_kineto": True, "record_shapes": True}:
        with torch.autograd.profiler.profile(**options) as p:
            body()
        number = relative()
        for event in p.function_events:
            sequence = number(event.sequence_nr) if event.sequence_nr >= 0 else None
            parent = event.cpu_parent and event.cpu_parent.name
            s.record(event.name, sequence, parent, event.input_shapes, event.scope, event.is_async, event.is_legacy)
        s.record("total", Counter(event.key for event in p.key_averages()))


@scenario
def observers_switched_off(s):
    body = train(s)

    def without():
        torch.autograd._enable_record_function(False)
        try:
            body()
        finally:
            torch.autograd._enable_record_function(True)

    s.record("events", [event.name for event in profiled(without).events()])
    s.record("again", [event.name for event in profiled(body).events()])
