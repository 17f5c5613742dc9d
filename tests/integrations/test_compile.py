# SPDX-License-Identifier: BSD-3-Clause
"""Custom Functions under torch.compile: the same graphs, guards, breaks, recompilations, values and gradients."""

import functools
import sys
import threading
import types

import pytest
import torch
from compiling import compiling
from harness import scenario
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

import torch_ext

BACKENDS = ("eager", "aot_eager")


def scaled(Function):
    """A Function with a tensor saved, a ctx attribute, and an argument with a default."""

    class Scaled(Function):
        @staticmethod
        def forward(ctx, x, factor=2.0):
            ctx.factor = factor
            ctx.save_for_backward(x)
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * ctx.factor + 0 * x, None

    return Scaled


def compare_everywhere(s, function, *shapes, **options):
    """``function`` compiled as one graph with each backend, on leaves of these shapes."""
    for backend in BACKENDS:
        with compiling(s) as c:
            compiled = c(function, backend=backend, fullgraph=True, **options)
            c.differentiate(backend, compiled, *(s.randn(*shape, requires_grad=True) for shape in shapes))


@scenario
def ctx_in_forward(s):
    Scaled = scaled(s.Function)
    compare_everywhere(s, lambda x: Scaled.apply(x.cos(), 3.0).sin(), [3])


@scenario
def setup_context_apart(s):
    class Power(s.Function):
        @staticmethod
        def forward(x, exponent=2):
            return x**exponent

        @staticmethod
        def setup_context(ctx, inputs, output):
            x, ctx.exponent = inputs
            ctx.save_for_backward(x, output)

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            return grad * ctx.exponent * y / x, None

    compare_everywhere(s, lambda x: Power.apply(x, 3), [3])
    with compiling(s) as c:
        c.raises("default", c(lambda x: Power.apply(x), fullgraph=True), s.randn(3, requires_grad=True))
        c.raises("keyword", c(lambda x: Power.apply(x, exponent=3), fullgraph=True), s.randn(3, requires_grad=True))
        c.raises("no such", c(lambda x: Power.apply(x, power=3), fullgraph=True), s.randn(3, requires_grad=True))


@scenario
def several_outputs(s):
    class Split(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            return x * y, "between", x + y

        @staticmethod
        def backward(ctx, of_product, nothing, of_sum):
            return of_product + of_sum, of_sum * 2

    def add_up(x, y):
        product, text, total = Split.apply(x, y)
        return product.sin() + len(text), total

    compare_everywhere(s, add_up, [3], [3])


@scenario
def non_differentiable_outputs(s):
    class Sorted(s.Function):
        @staticmethod
        def forward(ctx, x):
            values, order = x.sort()
            ctx.mark_non_differentiable(order)
            ctx.save_for_backward(order)
            return values, order

        @staticmethod
        def backward(ctx, grad, _):
            (order,) = ctx.saved_tensors
            return torch.zeros_like(grad).scatter(0, order, grad)

    compare_everywhere(s, Sorted.apply, [4])


@scenario
def grads_left_unmaterialized(s):
    class Pair(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, left, right):
            return left * 2 if right is None else right * 3

    for backend in BACKENDS:
        with compiling(s) as c:
            for function in (lambda x: Pair.apply(x)[0].sin(), Pair.apply):
                c.raises(backend, c(function, backend=backend, fullgraph=True), s.randn(3, requires_grad=True))
                c.differentiate(backend, c(function, backend=backend), s.randn(3, requires_grad=True))


@scenario
def needs_input_grad_in_backward(s):
    class Product(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            return grad * y if ctx.needs_input_grad[0] else None, grad * x if ctx.needs_input_grad[1] else None

    for backend in BACKENDS:
        with compiling(s) as c:
            compiled = c(Product.apply, backend=backend, fullgraph=True)
            for left, right in ((True, True), (True, False), (False, True), (False, False)):
                inputs = s.randn(3, requires_grad=left), s.randn(3, requires_grad=right)
                c.differentiate(f"{backend} {left} {right}", compiled, *inputs)


@scenario
def inputs_marked_dirty(s):
    class AddInPlace(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.mark_dirty(x)
            return x.add_(y)

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    def in_place(x, y):
        z = x.clone()
        AddInPlace.apply(z, y)
        return z * z

    for backend in BACKENDS:
        with compiling(s) as c:
            inputs = s.randn(3, requires_grad=True), s.randn(3, requires_grad=True)
            c.raises(backend, c(in_place, backend=backend, fullgraph=True), *inputs)
            c.differentiate(backend, c(in_place, backend=backend), *inputs)


@scenario
def once_differentiable_backward(s):
    class Once(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @s.once_differentiable
        def backward(ctx, grad):
            return grad * 2

    for backend in BACKENDS:
        with compiling(s) as c:
            c.raises(backend, c(Once.apply, backend=backend, fullgraph=True), s.randn(3, requires_grad=True))
            c.differentiate(backend, c(Once.apply, backend=backend), s.randn(3, requires_grad=True))


@scenario
def classmethods_and_inheritance(s):
    class Base(s.Function):
        factor = 2.0

        @classmethod
        def forward(cls, ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    class Derived(scaled(s.Function)):
        pass

    class Refined(Derived):
        @staticmethod
        def backward(ctx, grad):
            gradient, _ = Derived.backward(ctx, grad)
            return gradient * 10, None

    for backend in BACKENDS:
        with compiling(s) as c:
            for cls in (Base, Derived, Refined):
                compiled = c(lambda x, cls=cls: cls.apply(x.cos()).sin(), backend=backend)
                c.raises(cls.__name__, compiled, s.randn(3, requires_grad=True))


@scenario
def an_apply_of_its_own(s):
    class Shifted(scaled(s.Function)):
        @classmethod
        def apply(cls, x):
            return super().apply(x + 1)

    class Derived(Shifted):
        pass

    alias = Shifted.apply
    with compiling(s) as c:
        for function in (lambda x: Shifted.apply(x), lambda x: Derived.apply(x), lambda x: alias(x), Shifted.apply):
            c.raises("own", c(function), s.randn(3, requires_grad=True))


@scenario
def a_metaclass_of_its_own(s):
    class Meta(type(s.Function)):
        pass

    class Twice(s.Function, metaclass=Meta):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    with compiling(s) as c:
        c.differentiate("broken", c(lambda x: Twice.apply(x.cos()).sin()), s.randn(3, requires_grad=True))
        c.raises("one graph", c(lambda x: Twice.apply(x), fullgraph=True), s.randn(3, requires_grad=True))


@scenario
def what_dynamo_refuses(s):
    class Jvp(scaled(s.Function)):
        @staticmethod
        def jvp(ctx, tangent, _):
            return tangent * ctx.factor

    class Vjp(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def vjp(ctx, grad):
            return grad * 2

    class Calls(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.something_else = ctx.saved_tensors
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            ctx.maybe_clear_saved_tensors()
            return grad * 2

    with compiling(s) as c:
        for cls in (Jvp, Vjp, Calls):
            c.raises(f"{cls.__name__}: one graph", c(cls.apply, fullgraph=True), s.randn(3, requires_grad=True))
            compiled = c(lambda x, cls=cls: cls.apply(x.cos()).sin())
            c.differentiate(cls.__name__, compiled, s.randn(3, requires_grad=True))
            c.record()


@scenario
def vmap_of_its_own(s):
    class Vmapped(scaled(s.Function)):
        @staticmethod
        def vmap(info, in_dims, x, factor):
            return Vmapped.apply(x, factor), in_dims[0]

    class Generated(scaled(s.Function)):
        generate_vmap_rule = True

    for cls in (Vmapped, Generated):
        compare_everywhere(s, cls.apply, [3])
        with compiling(s) as c:
            mapped = c(torch.vmap(lambda x, cls=cls: cls.apply(x, 2.0)))
            c.raises("under vmap", mapped, s.randn(2, 3, requires_grad=True))


@scenario
def reached_in_every_way(s):
    Scaled = scaled(s.Function)
    alias, table = Scaled.apply, {"apply": Scaled.apply, "cls": Scaled}
    partial = functools.partial(Scaled.apply, factor=4.0)
    ways = {
        "alias": lambda x: alias(x),
        "partial": lambda x: partial(x),
        "in a dict": lambda x: table["apply"](x) + table["cls"].apply(x),
        "getattr": lambda x: getattr(Scaled, "apply")(x),  # noqa: B009
        "map": lambda x: list(map(Scaled.apply, [x, x + 1])),
        "instance": lambda x: Scaled().apply(x),
        "__func__": lambda x: Scaled.apply.__func__(Scaled, x),
        "__name__": lambda x: x + len(Scaled.apply.__name__),
        "equal": lambda x: x + (Scaled.apply == Scaled.apply),
        "is a class": lambda x: x + isinstance(Scaled, type) + issubclass(Scaled, torch.autograd.Function),
        "callable": lambda x: x + callable(Scaled.apply),
        "of the base": lambda x: s.Function.apply(x),
    }
    with compiling(s) as c:
        for name, way in ways.items():
            c.raises(name, c(way, fullgraph=True), s.randn(3, requires_grad=True))
            c.record()


@scenario
def made_in_the_compiled_function(s):
    def local(x):
        class Twice(s.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 2

            @staticmethod
            def backward(ctx, grad):
                return grad * 2

        return Twice.apply(x.cos()).sin()

    with compiling(s) as c:
        c.raises("one graph", c(local, fullgraph=True), s.randn(3, requires_grad=True))
        c.differentiate("broken", c(local), s.randn(3, requires_grad=True))


@scenario
def made_anew_for_each_call(s):
    with compiling(s) as c:
        compiled = c(lambda x, cls: cls.apply(x.cos()).sin())
        for _ in range(3):
            c.differentiate("a class of its own", compiled, s.randn(3, requires_grad=True), scaled(s.Function))


@scenario
def changed_between_calls(s):
    Scaled = scaled(s.Function)
    with compiling(s) as c:
        compiled = c(lambda x: Scaled.apply(x.cos()).sin())
        c.differentiate("first", compiled, s.randn(3, requires_grad=True))
        Scaled.backward = staticmethod(lambda ctx, grad: (grad * 100, None))
        c.differentiate("another backward", compiled, s.randn(3, requires_grad=True))
        Scaled.forward = staticmethod(lambda ctx, x: x * 5)
        c.differentiate("another forward", compiled, s.randn(3, requires_grad=True))


@scenario(since="2.13")
def in_a_module(s):
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.function = scaled(s.Function).apply
            self.cls = scaled(s.Function)
            self.weight = torch.nn.Parameter(s.randn(3))

        def forward(self, x):
            return self.function(self.weight * x) + self.cls.apply(x, factor=3.0)

    with compiling(s) as c:
        layer = Layer()
        c.differentiate("module", c(layer, backend="aot_eager", fullgraph=True), s.randn(2, 3, requires_grad=True))
        s.record("modes", layer.training, layer.weight)


@scenario
def modes_inside(s):
    Scaled = scaled(s.Function)

    def modes(x):
        with torch.no_grad():
            constant = Scaled.apply(x)
        with torch.inference_mode():
            inference = Scaled.apply(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = Scaled.apply(x @ x)
        return constant * x, inference, cast

    compare_everywhere(s, modes, [3, 3])


@scenario
def modes_around(s):
    Scaled = scaled(s.Function)
    with compiling(s) as c:
        compiled = c(lambda x: Scaled.apply(x.cos()).sin(), backend="aot_eager")
        for mode in (torch.no_grad(), torch.inference_mode(), s.detect_anomaly(check_nan=False)):
            with mode:
                c.raises(type(mode).__name__, compiled, s.randn(3, requires_grad=True))
        c.differentiate("none", compiled, s.randn(3, requires_grad=True))


@scenario
def sizes_that_change(s):
    Scaled = scaled(s.Function)
    with compiling(s) as c:
        compiled = c(lambda x: Scaled.apply(x).sin(), backend="aot_eager")
        for size in (3, 4, 5, 1):
            c.differentiate(f"size {size}", compiled, s.randn(size, requires_grad=True))
        c.record()
        factors = c(lambda x, factor: Scaled.apply(x, factor))
        for factor in (1.0, 2.0, 3, 4, 5):
            c.differentiate(f"factor {factor}", factors, s.randn(3, requires_grad=True), factor)


@scenario
def sizes_as_arguments(s):
    class Folded(s.Function):
        @staticmethod
        def forward(ctx, x, rows):
            ctx.rows = rows
            return x.reshape(rows, -1) * rows

        @staticmethod
        def backward(ctx, grad):
            return grad.reshape(-1) * ctx.rows, None

    with compiling(s) as c:
        compiled = c(lambda x: Folded.apply(x, x.shape[0] // 2), backend="aot_eager", dynamic=True)
        for size in (6, 4, 2):
            c.differentiate(f"size {size}", compiled, s.randn(size, requires_grad=True))
        x = s.randn(6, requires_grad=True)
        torch._dynamo.mark_dynamic(x, 0)
        c.differentiate("marked", c(lambda x: Folded.apply(x, 2) + 1), x)


@scenario
def graph_breaks_inside(s):
    class Broken(s.Function):
        @staticmethod
        def forward(ctx, x):
            y = x * 2
            torch._dynamo.graph_break()
            return y + 1

        @staticmethod
        def backward(ctx, grad):
            y = grad * 3
            torch._dynamo.graph_break()
            return y + 1

    for backend in BACKENDS:
        with compiling(s) as c:
            compiled = c(lambda x: Broken.apply(x.cos()).sin(), backend=backend)
            c.differentiate(backend, compiled, s.randn(3, requires_grad=True))
            c.record()
            c.raises("one graph", c(Broken.apply, backend=backend, fullgraph=True), s.randn(3, requires_grad=True))


@scenario
def disabled_calls(s):
    for recursive in (True, False):
        disabled = torch._dynamo.disable(scaled(s.Function).apply, recursive=recursive)
        with compiling(s) as c:
            c.differentiate("disabled", c(lambda x: disabled(x.cos()).sin()), s.randn(3, requires_grad=True))


@scenario
def allowed_in_graph(s):
    ByClass, ByApply, NotTraced = (scaled(s.Function) for _ in range(3))
    torch.compiler.allow_in_graph(ByClass)
    by_apply = torch.compiler.allow_in_graph(ByApply.apply)
    not_traced = torch._dynamo.nonstrict_trace(NotTraced.apply)

    @torch._dynamo.nonstrict_trace
    def around(x):
        return NotTraced.apply(x)

    class Derived(ByClass):
        pass

    functions = {
        "class": lambda x: ByClass.apply(x.cos()).sin(),
        "subclass": lambda x: Derived.apply(x.cos()).sin(),
        "apply": lambda x: by_apply(x.cos()).sin(),
        "apply, by the class": lambda x: ByApply.apply(x.cos()).sin(),
        "not traced": lambda x: not_traced(x.cos()).sin(),
        "in what is not traced": lambda x: around(x.cos()).sin(),
    }
    for name, function in functions.items():
        for backend in BACKENDS:
            with compiling(s) as c:
                result = c.raises(name, c(function, backend=backend, fullgraph=True), s.randn(3, requires_grad=True))
                s.record("differentiable", result is not None and result.requires_grad)


@scenario
def checkpointed(s):
    Scaled = scaled(s.Function)
    compare_everywhere(s, lambda x: checkpoint(lambda x: Scaled.apply(x.cos()).sin(), x, use_reentrant=False), [3])


@scenario
def on_a_tensor_subclass(s):
    Scaled = scaled(s.Function)
    s.overlooked.add("torch.testing._internal.two_tensor.TwoTensor")
    with compiling(s) as c:
        x = TwoTensor(s.randn(3), s.randn(3)).requires_grad_()
        compiled = c(lambda x: Scaled.apply(x.cos()).sin(), backend="aot_eager", fullgraph=True)
        result = compiled(x)
        result.sum().backward()
        s.record("result", type(result), result.a, result.b, x.grad.a, x.grad.b)


@scenario
def asked_whether_compiling(s):
    class Asking(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.compiling = torch.compiler.is_compiling()
            return x * (2 if torch.compiler.is_compiling() else 3) * (5 if torch.compiler.is_dynamo_compiling() else 7)

        @staticmethod
        def backward(ctx, grad):
            return grad * (11 if torch.compiler.is_compiling() else 13) * (17 if ctx.compiling else 19)

    compare_everywhere(s, Asking.apply, [3])
    s.differentiate("eager", Asking.apply, s.randn(3, requires_grad=True))


@scenario
def compiled_inside_eager(s):
    with compiling(s) as c:

        class CompiledInside(s.Function):
            @staticmethod
            @c(backend="aot_eager")
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x.sin()

            @staticmethod
            @c(backend="aot_eager")
            def backward(ctx, grad):
                (x,) = ctx.saved_tensors
                return grad * x.cos()

        c.differentiate("eager", CompiledInside.apply, s.randn(3, requires_grad=True))


@scenario
def through_inductor(s):
    class Logistic(s.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.sigmoid()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, grad):
            (y,) = ctx.saved_tensors
            return grad * y * (1 - y)

    with compiling(s) as c:
        compiled = c(lambda x: Logistic.apply(x * 2).sin(), backend="inductor", fullgraph=True)
        c.differentiate("inductor", compiled, s.randn(8, requires_grad=True))


# Without a GIL this ends the process in torch's own code, on stock torch too.
if getattr(sys, "_is_gil_enabled", lambda: True)():

    @scenario
    def in_threads(s):
        Scaled = scaled(s.Function)
        with compiling(s) as c:
            compiled = c(lambda x: Scaled.apply(x.cos()).sin(), backend="aot_eager", fullgraph=True)
            x = s.randn(3, requires_grad=True)
            results = []

            def run():
                y = compiled(x)
                results.append((y.tolist(), torch.autograd.grad(y.sum(), x)[0].tolist()))

            # Compiled on one thread: what several would compile at once comes in any order.
            for count in (1, 4):
                threads = [threading.Thread(target=run) for _ in range(count)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            s.record("results", results)


def explained(Function):
    """What torch._dynamo.explain counts."""
    torch._dynamo.reset()

    class Broken(scaled(Function)):
        @staticmethod
        def forward(ctx, x, factor=2.0):
            torch._dynamo.graph_break()
            return x * 2

    explanation = torch._dynamo.explain(lambda x: Broken.apply(scaled(Function).apply(x)))(torch.ones(2))
    return explanation.graph_count, explanation.graph_break_count, explanation.op_count


def test_explain():
    expected = explained(torch.autograd.Function)
    assert explained(torch_ext.Function) == expected
    with torch_ext.installed():
        assert explained(torch.autograd.Function) == expected


@scenario
def alias_from_before_install(s):
    """An alias taken before install(), used under it, is still recognised as the Function's apply."""
    installed = torch_ext.is_installed()
    torch_ext.uninstall()
    Scaled = scaled(s.Function)
    alias = Scaled.apply
    if installed:
        torch_ext.install()
    if isinstance(alias, types.MethodType):  # as up to torch 2.13
        s.record("the same", alias == Scaled.apply, hash(alias) == hash(Scaled.apply))
    with compiling(s) as c:
        c.differentiate("compiled", c(lambda x: alias(x.cos()).sin(), fullgraph=True), s.randn(3, requires_grad=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_installing_between_calls_recompiles_nothing(backend):
    Scaled = scaled(torch.autograd.Function)
    graphs = []

    def noting(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    compiled = torch.compile(lambda x: Scaled.apply(x.cos()).sin(), backend=noting, fullgraph=True)

    def gradient():
        x = torch.ones(3, requires_grad=True)
        compiled(x).sum().backward()
        return x.grad.tolist()

    torch._dynamo.reset()
    try:
        expected = gradient()
        for _ in range(2):
            with torch_ext.installed():
                assert gradient() == expected
            assert gradient() == expected
        assert len(graphs) == 1
    finally:
        torch._dynamo.reset()
