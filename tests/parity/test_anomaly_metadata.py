# SPDX-License-Identifier: BSD-3-Clause
"""grad_fn.metadata in anomaly mode: 'traceback_', a list of strings, and 'parent_'."""

import collections.abc
import copy
import gc
import pickle
import types
import weakref

import torch
from harness import scenario
from harness.anomaly_text import comparable, under
from harness.small_functions import make_identity, make_square


def stack_of(node):
    return comparable("".join(node.metadata["traceback_"]))


def make_nodes(s):
    """A node of torch and one of a Function, created in anomaly mode."""
    x = s.randn(2, requires_grad=True)
    with s.set_detect_anomaly(True):
        return {"torch": (x * 2).grad_fn, "function": s.keep(make_square(s.Function).apply(x)).grad_fn}


@scenario
def keys_and_text(s):
    for name, node in make_nodes(s).items():
        s.record(name, sorted(node.metadata), stack_of(node))


@scenario
def every_node_of_a_model(s):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3), torch.nn.GELU()).to(s.device)
    with s.set_detect_anomaly(True):
        nodes = [model(s.randn(2, 3)).sum().grad_fn]
        for node in nodes:
            s.record(node.name(), stack_of(node))
            nodes += [following for following, _ in node.next_functions if following is not None]


@scenario
def reads_as_a_list(s):
    for name, node in make_nodes(s).items():
        trace = node.metadata["traceback_"]
        plain = [line for line in trace]
        s.record(
            name,
            isinstance(trace, list),
            {type(line) for line in trace},
            len(trace) == len(plain) > 0,
            bool(trace),
            trace[-1] == plain[-1],
            trace[1:] == plain[1:],
            type(trace[1:]),
            plain[0] in trace,
            "nowhere" in trace,
            "".join(trace) == "".join(plain),
            trace == plain,
            plain == trace,
            trace != [],
            trace < plain,
            repr(trace) == repr(plain),
            str(trace) == str(plain),
            f"{trace}" == f"{plain}",
            list(trace) == plain,
            tuple(trace) == tuple(plain),
            [*trace] == plain,
            list(reversed(trace)) == plain[::-1],
            sorted(trace) == sorted(plain),
            trace + [] == plain,
            [] + trace == plain,
            trace * 2 == plain * 2,
            trace.copy() == plain,
            trace.index(plain[0]),
            trace.count("nowhere"),
            node.metadata["traceback_"] is trace,
        )
        first, *rest = trace
        s.record("unpacked", [first, *rest] == plain)
        s.record("hashable", isinstance(trace, collections.abc.Hashable))
        s.raises("past the end", lambda: trace[len(plain)])
        s.raises("with a string", lambda: trace["0"])


@scenario
def first_read(s):
    """Each on a trace that nobody has read: if the text is made on first use, any use has to make it."""
    reads = {
        "len": len,
        "bool": bool,
        "join": "".join,
        "list": list,
        "tuple": tuple,
        "reversed": lambda trace: list(reversed(trace)),
        "sorted": sorted,
        "slice": lambda trace: trace[:],
        "copy": lambda trace: trace.copy(),
        "star": lambda trace: [*trace],
        "add to a list": lambda trace: [] + trace,
        "extend": lambda trace: [].extend(trace),
        "slice assignment": lambda trace: [0].__setitem__(slice(0, 1), trace),
        "repr": lambda trace: "make_nodes" in repr(trace),
        "equality": lambda trace: trace == [],
        "reflected equality": lambda trace: [] == trace,
        "pickle": lambda trace: pickle.loads(pickle.dumps(trace)),
        "deepcopy": copy.deepcopy,
        "copy.copy": copy.copy,
        "any": any,
        "map": lambda trace: list(map(str, trace)),
        "zip": lambda trace: list(zip(trace, trace)),
        "writelines": lambda trace: __import__("io").StringIO().writelines(trace),
    }
    for label, read in reads.items():
        for name in ("torch", "function"):
            trace, same = (make_nodes(s)[name].metadata["traceback_"] for _ in range(2))
            plain = [line for line in same]
            s.record(f"{label}, {name}", read(trace) == read(plain))


@scenario
def copies_are_plain_lists(s):
    for node in make_nodes(s).values():
        trace = node.metadata["traceback_"]
        for make in (lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy, copy.copy):
            made = make(trace)
            s.record("copy", type(made), made == trace, made is trace)


@scenario
def can_be_changed(s):
    for node in make_nodes(s).values():
        trace = node.metadata["traceback_"]
        trace[:] = ["first\n"]
        trace.append("second\n")
        trace += ["third\n"]
        trace.insert(0, "zeroth\n")
        del trace[1]
        s.record("changed", "".join(node.metadata["traceback_"]))
        trace.clear()
        s.record("empty", len(trace), bool(trace), trace == [])


@scenario
def changing_it_before_it_is_read(s):
    changes = {
        "append": lambda trace: trace.append("end"),
        "delete": lambda trace: trace.__delitem__(-1),
        "set": lambda trace: trace.__setitem__(-1, "end"),
        "extend": lambda trace: trace.extend(["end"]),
        "inplace add": lambda trace: trace.__iadd__(["end"]),
        "pop": lambda trace: trace.pop(),
        "reverse": lambda trace: trace.reverse(),
    }
    for name, change in changes.items():
        trace, untouched = (make_nodes(s)["torch"].metadata["traceback_"] for _ in range(2))
        change(trace)
        s.record(name, len(trace) - len(untouched), trace[-1] if trace[-1] == "end" else comparable(trace[-1]))


@scenario
def metadata_is_the_users_to_write(s):
    output = make_square(s.Function).apply(s.randn(2, requires_grad=True))
    for node in (*make_nodes(s).values(), output.grad_fn):
        node.metadata["note"] = [1]
        s.record("kept", sorted(node.metadata), node.metadata["note"], node.metadata is node.metadata)
        node.metadata.clear()
        s.record("cleared", node.metadata)


@scenario
def nodes_made_outside(s):
    x = s.randn(2, requires_grad=True)
    nodes = (x * 2).grad_fn, s.keep(make_square(s.Function).apply(x)).grad_fn
    with s.set_detect_anomaly(True):
        s.record("metadata", *(node.metadata for node in nodes))


@scenario
def parent_of_a_node_made_in_backward(s):
    x = s.randn(2, requires_grad=True)
    with s.set_detect_anomaly(True):
        for name, make in (("torch", torch.exp), ("function", make_square(s.Function).apply)):
            y = make(x)
            (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            metadata = grad.grad_fn.metadata
            s.record(name, sorted(metadata), metadata["parent_"] is y.grad_fn, "parent_" in y.grad_fn.metadata)


@scenario
def no_parent_without_create_graph(s):
    seen = []

    class Looks(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                made = grad.detach().requires_grad_() * 2
            seen.append(sorted(made.grad_fn.metadata))
            return grad

    x = s.randn(2, requires_grad=True)
    with s.set_detect_anomaly(True):
        Looks.apply(x).sum().backward()
    s.record("keys", seen)


# --- What a stack keeps alive ---------------------------------------------------------------------


class Local:
    """Something that a frame of forward holds."""


def forward_with_locals(s, make, refs):
    local, tensor = Local(), s.randn(2)
    module = torch.nn.Linear(2, 2).to(s.device)
    refs |= {"local": weakref.ref(local), "tensor": weakref.ref(tensor), "module": weakref.ref(module)}
    return make(s.randn(2, requires_grad=True))


@scenario
def frames_keep_nothing_alive(s):
    for name, make in (("torch", lambda x: x.clone()), ("function", make_identity(s.Function).apply)):
        for read in (False, True):
            refs = {}
            with s.set_detect_anomaly(True):
                out = forward_with_locals(s, make, refs)
            if read:
                list(out.grad_fn.metadata["traceback_"])
            for label, ref in refs.items():
                s.alive(f"{label} in the forward of {name}", ref)
            del out


@scenario
def module_namespace_is_not_kept(s):
    """Nor is a module that forward ran in: a trace knows code, not globals."""
    module = types.ModuleType("short_lived")
    exec("def forward(x):\n    return x * 2\n", vars(module))
    with s.set_detect_anomaly(True):
        out = module.forward(s.randn(2, requires_grad=True))
    ref = weakref.ref(module)
    del module
    s.alive("module", ref)
    s.record("still read", "in forward" in "".join(out.grad_fn.metadata["traceback_"]))


@scenario
def a_failure_keeps_nothing_alive(s):
    class Holder(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise KeyError("backward")

    refs = {}

    def fail(name, make):
        x = torch.zeros(2, device=s.device, requires_grad=True)
        refs[name] = weakref.ref(x)
        under(s, name, lambda: make(x).sum().backward())

    fail("torch", lambda x: x.sqrt() * 0)
    fail("function", Holder.apply)
    gc.collect()
    # The thread's queue may hold what the last backward left until it is next used.
    s.randn(1, requires_grad=True).sum().backward()
    for name, ref in refs.items():
        s.alive(name, ref)
