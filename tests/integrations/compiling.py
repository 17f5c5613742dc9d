# SPDX-License-Identifier: BSD-3-Clause
"""What torch's compiler does with a scenario's code, for the scenario's transcript."""

import contextlib
import logging
import re

import torch
from harness.describe import render
from torch._dynamo import compiled_autograd
from torch._dynamo.utils import clear_compilation_metrics, counters, get_compilation_metrics

METRICS = (
    "co_name",
    "cache_size",
    "accumulated_cache_size",
    "guard_count",
    "shape_env_guard_count",
    "graph_op_count",
    "graph_node_count",
    "graph_input_count",
    "graph_node_shapes",
    "has_guarded_code",
    "is_forward",
    "is_runtime",
    "num_graph_breaks",
    "fail_type",
    "fail_reason",
    "non_compliant_ops",
    "compliant_custom_ops",
    "restart_reasons",
    "recompile_reason",
)

# Stacks, which have a frame of torch's apply and none of ours, and reports with stacks.
_STACK = re.compile(r'^ *File ".*", line \d+, in .*\n(?: +.*\n)*', re.MULTILINE)
_VARYING = (
    (re.compile(r"^ *#.*\n?", re.MULTILINE), ""),  # comments, which name files
    (re.compile(r"\b0x[0-9a-f]+|\b\d{7,}\b"), "<id>"),
    (re.compile(r"__compiled_fn_(\d+)_[0-9a-f_]{30,}"), r"__compiled_fn_\1"),
    (re.compile(r"\baot\d+"), "aot"),  # counted in each process
    (re.compile(r"<eval_with_key>\.\d+"), "<eval_with_key>"),
    (re.compile(r"\bkey size(s?)[ =]\[?\d[\d, ]*\]?"), r"key size\1 <n>"),  # ids in it take more bytes as they grow
    (re.compile(r"__builtins_dict___\d+"), "__builtins_dict__"),
)


def comparable(text):
    """``text`` without what differs between two compilations of the same code."""
    text = _STACK.sub("", text)
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return text


class Compiler:
    """``torch.compile``, which remembers what it compiled.

    Arguments:
        s: the scenario.
    """

    def __init__(self, s):
        self._s = s
        self._made = []

    def __call__(self, function=None, *, backend="eager", **options):
        """``torch.compile`` with one of the backends ``eager``, ``aot_eager`` and ``inductor``, recording."""
        if function is None:
            return lambda function: self(function, backend=backend, **options)
        options["options"] = {"guard_filter_fn": self._note_guards}
        return torch.compile(function, backend=getattr(self, f"_{backend}"), **options)

    def _note(self, label, text):
        self._made.append((label, text))

    def _note_guards(self, guards):
        self._note("guards", "\n".join(sorted(f"{guard.guard_type} {guard.name}" for guard in guards)))
        return [True] * len(guards)

    def _note_graph(self, label, graph):
        self._note(label, graph.print_readable(print_output=False))

    def _eager(self, graph, inputs):
        self._note_graph("graph", graph)
        return graph.forward

    def _aot_eager(self, graph, inputs):
        from torch._dynamo.backends.debugging import aot_eager

        def noting(label):
            def compiler(graph, inputs):
                self._note_graph(label, graph)
                return graph.forward

            return compiler

        self._note_graph("graph", graph)
        return aot_eager(graph, inputs, fw_compiler=noting("forward"), bw_compiler=noting("backward"))

    def _inductor(self, graph, inputs):
        from torch._inductor.compile_fx import compile_fx

        self._note_graph("graph", graph)
        return compile_fx(graph, inputs)

    @contextlib.contextmanager
    def autograd(self, backend="eager", dynamic=True, **options):
        """Compiled autograd: backwards are captured, and compiled with ``backend``, recording."""

        def compiler(graph):
            self._note_graph("backward captured", graph)
            return self(graph, backend=backend, **{"fullgraph": True, "dynamic": True} | options)

        logger = _Noting(self)  # torch doesn't keep it alive
        with compiled_autograd._enable(compiler, dynamic):
            torch._C._dynamo.compiled_autograd.set_verbose_logger(logger)
            yield

    def record(self):
        """Write what was compiled since the last call, or since the start, to the transcript."""
        for label, text in self._made:
            self._write(label, text)
        self._made.clear()
        for metrics in get_compilation_metrics():
            self._write("compilation", {name: fact for name in METRICS if (fact := getattr(metrics, name)) is not None})
        clear_compilation_metrics()
        for name, counter in sorted(counters.items()):
            self._write(f"counted: {name}", counter)
        counters.clear()

    def _write(self, label, made):
        if isinstance(made, str):
            made = comparable(made)
        else:
            made = {comparable(key): comparable(str(value)) for key, value in sorted(made.items())}
        self._s.lines.extend(render(label, made))

    def raises(self, label, call, *args, **kwargs):
        """Record the exception of a call, with its text. Returns what the call returned, if it did."""
        try:
            result = call(*args, **kwargs)
        except Exception as error:
            self._write(f"{label} raised", f"{type(error).__qualname__}: {error}")
            return None
        self._s.record(f"{label} returned", result)
        return result

    def differentiate(self, label, function, *inputs):
        """Record outputs, gradients, and the gradients of those or why there are none. Returns the outputs."""
        outputs = function(*inputs)
        self._s.record(label, outputs)
        leaves = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
        if leaves:
            grads = self.raises(f"{label}: gradients", gradients, outputs, leaves)
            if grads is not None and any(grad is not None and grad.requires_grad for grad in grads):
                self.raises(f"{label}: double gradients", gradients, grads, leaves)
            self.raises(f"{label}: gradients alone", gradients, outputs, leaves, create_graph=False)
        return outputs


class _Noting(logging.Logger):
    """Notes what compiled autograd logs about its cache: why it captured a backward again."""

    def __init__(self, compiler):
        super().__init__("compiled autograd", logging.DEBUG)
        self._compiler = compiler

    def isEnabledFor(self, level):
        return True

    @torch._dynamo.disable
    def handle(self, record):
        self._compiler._note("compiled autograd", record.getMessage())


@contextlib.contextmanager
def no_logs():
    """No logs of others: pytest would keep their records alive, and what failed with them."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


def gradients(outputs, leaves, create_graph=True):
    """The gradients of every output that requires one, contracted with fixed weights."""
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    outputs = [y for y in outputs if isinstance(y, torch.Tensor) and y.requires_grad]
    weights = [torch.linspace(1, 2, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape) for y in outputs]
    return torch.autograd.grad(outputs, leaves, weights, create_graph=create_graph, allow_unused=True)


def _reset():
    torch._dynamo.reset()
    clear_compilation_metrics()
    counters.clear()


@contextlib.contextmanager
def compiling(s):
    """A :class:`Compiler` that starts from nothing and leaves nothing, and is recorded at the end."""
    _reset()
    # torch's caches keep them alive for a while.
    s.overlooked |= {"torch.Tensor", "torch._subclasses.fake_tensor.FakeTensor"}
    compiler = Compiler(s)
    try:
        with no_logs():
            yield compiler
        compiler.record()
    finally:
        _reset()
