# SPDX-License-Identifier: BSD-3-Clause
"""Custom Functions under compiled autograd: the same captures, cache hits, graphs and gradients."""

import warnings

import pytest
import torch
from compiling import compiling
from harness import scenario
from harness.registering import hooks_of
from torch._dynamo.utils import counters
from torch.autograd import Variable

import torch_ext


def scaled(Function):
    class Scaled(Function):
        @staticmethod
        def forward(ctx, x, factor=2.0):
            ctx.factor = factor
            ctx.save_for_backward(x, None)
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            x, _ = ctx.saved_tensors
            return grad * ctx.factor + 0 * x, None

    return Scaled


def run(s, c, label, function, *inputs, **options):
    """Run backward of ``function(*inputs)`` under compiled autograd, and record the gradients."""
    with c.autograd(**options):
        outputs = function(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        total = sum(output.sum() for output in outputs)
        c.raises(label, total.backward)
    s.record("gradients", [x.grad for x in inputs if isinstance(x, torch.Tensor)])


@scenario
def captured_once(s):
    Scaled, Other = scaled(s.Function), scaled(s.Function)
    for backend in ("eager", "aot_eager"):
        with compiling(s) as c:
            for factor in (2.0, 2.0, 3.0):
                x = s.randn(3, requires_grad=True)
                run(s, c, f"factor {factor}", lambda x, f: Scaled.apply(x.cos(), f).sin(), x, factor, backend=backend)
            run(s, c, "another class", lambda x: Other.apply(x.cos()).sin(), s.randn(3, requires_grad=True))


@scenario
def sizes_that_change(s):
    Scaled = scaled(s.Function)
    for dynamic in (True, False):
        with compiling(s) as c:
            for size in (3, 4, 5):
                x = s.randn(size, requires_grad=True)
                run(s, c, f"size {size}", lambda x: Scaled.apply(x.cos()).sin(), x, dynamic=dynamic)


@scenario
def several_inputs_and_outputs(s):
    class Mixed(s.Function):
        @staticmethod
        def forward(ctx, x, text, y, z):
            ctx.save_for_backward(x, y)
            ctx.set_materialize_grads(False)
            order = y.argsort()
            ctx.mark_non_differentiable(order)
            return x * y, order, x + y

        @staticmethod
        def backward(ctx, of_product, _, of_sum):
            x, y = ctx.saved_tensors
            of_product = torch.zeros_like(x) if of_product is None else of_product
            return of_product * y, None, of_product * x if ctx.needs_input_grad[2] else None, None

    with compiling(s) as c:
        for right in (True, False):
            inputs = s.randn(3, requires_grad=True), "text", s.randn(3, requires_grad=right), s.randn(3)
            run(s, c, f"right {right}", lambda *args: Mixed.apply(*args)[0], *inputs)


@scenario
def functions_in_a_row(s):
    Scaled = scaled(s.Function)
    with compiling(s) as c:
        for depth in (1, 2, 2, 1):

            def chain(x, depth=depth):
                for _ in range(depth):
                    x = Scaled.apply(x)
                return x

            run(s, c, f"depth {depth}", chain, s.randn(3, requires_grad=True))


@scenario
def hooks_of_every_kind(s):
    Scaled, hooks = scaled(s.Function), hooks_of(s)

    def hooked(x):
        y = Scaled.apply(x.cos())
        hooks.register_tensor_hook(y, lambda grad: grad * 2)
        hooks.register_node_prehook(y.grad_fn, lambda grads: (grads[0] + 1,))
        hooks.register_node_posthook(y.grad_fn, lambda grad_inputs, _: (grad_inputs[0] * 3, None))
        hooks.register_post_accumulate_grad_hook(x, lambda x: x.grad.add_(10))
        return y.sin()

    with compiling(s) as c:
        for _ in range(2):
            run(s, c, "hooked", hooked, s.randn(3, requires_grad=True))


@scenario
def compiled_forward_too(s):
    Scaled = scaled(s.Function)
    with compiling(s) as c:
        for dynamic, sizes in ((False, (3, 3)), (True, (3, 5))):
            compiled = c(lambda x: Scaled.apply(x.cos()).sin() * x.shape[0], backend="aot_eager", dynamic=dynamic)
            for size in sizes:
                run(s, c, f"size {size}", compiled, s.randn(size, requires_grad=True), backend="aot_eager")


@scenario
def hooks_in_a_compiled_forward(s):
    """AOTAutograd keeps a backward state for them."""

    def hooked(x):
        y = x.cos()
        y.register_hook(lambda grad: grad * 2)
        return y.sin()

    with compiling(s) as c:
        for _ in range(2):
            run(s, c, "hooked", c(hooked, backend="aot_eager", fullgraph=True), s.randn(3, requires_grad=True))


@scenario
def a_backward_that_cannot_be_traced(s):
    class Broken(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            torch._dynamo.graph_break()
            return grad * 2

    class Failing(Broken):
        @staticmethod
        def backward(ctx, grad):
            raise ValueError("no gradient today")

    with compiling(s) as c:
        for cls in (Broken, Failing):
            for fullgraph in (True, False):
                run(s, c, f"{cls.__name__} {fullgraph}", cls.apply, s.randn(3, requires_grad=True), fullgraph=fullgraph)


@scenario
def a_key_of_its_own(s):
    class Keyed(scaled(s.Function)):
        keys = iter(())

        @staticmethod
        def _compiled_autograd_key(ctx):
            s.record("key", sorted(vars(ctx)))
            return next(Keyed.keys)

    Keyed.keys = iter([(1,), (1,), (2,), (1, 7), (1, 8), (1, 8, 9), [1], (-1,), ("one",), (1, "two")])
    with compiling(s) as c:
        for _ in range(10):
            run(s, c, "keyed", Keyed.apply, s.randn(3, requires_grad=True))


@scenario
def flags_of_the_class(s):
    class Boxed(scaled(s.Function)):
        boxed_grads_call = True

        @staticmethod
        def backward(ctx, grads):
            return grads.pop() * 2, None

    class Traceable(scaled(s.Function)):
        is_traceable = True

    class Clearing(scaled(s.Function)):
        clear_saved_tensors_on_access = True

    with compiling(s) as c:
        for cls in (Boxed, Traceable, Clearing):
            run(s, c, cls.__name__, cls.apply, s.randn(3, requires_grad=True))


@scenario
def opaque_objects_and_backward_state(s):
    class Holding(s.Function):
        @staticmethod
        def forward(ctx, x, objects, state):
            ctx.opaque_objects = objects
            if state is not None:
                ctx._compiled_autograd_backward_state = state
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 3, None, None

    with compiling(s) as c:
        for objects, state in (((), None), ((1, "two"), None), ([3], "a state"), (None, "a state"), (4, None)):
            run(s, c, f"{objects} {state}", Holding.apply, s.randn(3, requires_grad=True), objects, state)


@scenario
def options_of_backward(s):
    Scaled = scaled(s.Function)
    with compiling(s) as c:
        x = s.randn(3, requires_grad=True)
        with c.autograd():
            y = Scaled.apply(x.cos()).sin()
            c.raises("inputs", torch.autograd.grad, y.sum(), x, retain_graph=True)
            c.raises("create_graph", torch.autograd.grad, y.sum(), x, create_graph=True)
            c.raises("backward", y.sum().backward)
            c.raises("again", y.sum().backward)


@scenario
def saved_tensors_hooks(s):
    Scaled = scaled(s.Function)

    def packed(x):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t * 2, lambda t: t / 2):
            return Scaled.apply(x.cos()).sin()

    with compiling(s) as c:
        run(s, c, "packed", packed, s.randn(3, requires_grad=True))


@scenario
def views_changed_in_place(s):
    class AddOne(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.add_(1)

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    def on_a_view(x):
        y = x * 1
        AddOne.apply(y[:2])
        return y.sin()

    with compiling(s) as c:
        run(s, c, "view", on_a_view, s.randn(3, requires_grad=True))


@scenario
def callbacks_of_the_engine(s):
    class Calling(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            Variable._execution_engine.queue_callback(lambda: None)
            return grad * 2

    with compiling(s) as c:
        run(s, c, "callback", Calling.apply, s.randn(3, requires_grad=True))


@scenario
def a_training_step(s):
    Scaled = scaled(s.Function)
    layer = torch.nn.Linear(3, 3)

    def step(x):
        Scaled.apply(layer(x)).sum().backward()

    with torch._dynamo.config.patch(compiled_autograd=True), warnings.catch_warnings():
        # The first one in a process differs: later torch 2.14 compiles code of inspect's in backward, and warns.
        warnings.simplefilter("ignore")
        torch.compile(step, backend="aot_eager")(s.randn(2, 3))
    layer.zero_grad()
    with compiling(s) as c, torch._dynamo.config.patch(compiled_autograd=True):
        compiled = c(step, backend="aot_eager")
        for _ in range(2):
            compiled(s.randn(2, 3))
            s.record("gradients", [parameter.grad for parameter in layer.parameters()])
        # They count torch's own Python code in backward, less each time.
        del counters["frames"], counters["unimplemented"]


@pytest.mark.parametrize("Function", [torch_ext.Function, torch.autograd.Function])
def test_nodes_of_both_kinds_in_one_backward(Function):
    """A graph that holds torch's nodes and ours compiles to one graph."""
    Ours, Theirs = scaled(torch_ext.Function), scaled(Function)
    graphs = []

    def compiler(graph):
        graphs.append(graph)
        return graph

    x = torch.ones(3, requires_grad=True)
    torch._dynamo.reset()
    with torch._dynamo.compiled_autograd._enable(compiler):
        Ours.apply(Theirs.apply(x)).sum().backward()
    torch._dynamo.reset()
    assert x.grad.tolist() == [4.0] * 3
    assert len(graphs) == 1


def test_an_empty_key_is_an_error():
    """torch fails an internal assertion there."""

    class Keyless(scaled(torch_ext.Function)):
        @staticmethod
        def _compiled_autograd_key(ctx):
            return ()

    y = Keyless.apply(torch.ones(3, requires_grad=True))
    with (
        torch._dynamo.compiled_autograd._enable(lambda graph: graph),
        pytest.raises(RuntimeError, match="_compiled_autograd_key should not be empty"),
    ):
        y.sum().backward()
    torch._dynamo.reset()
