# SPDX-License-Identifier: BSD-3-Clause
"""torch.jit.trace over a Function: the graph, and what the traced function returns."""

import io
import threading

import torch
from harness import scenario
from harness.small_functions import make_doubler, make_identity, make_product, make_square
from traced_graphs import graph_text, own_lines, record_calls


def trace(s, label, function, *inputs):
    """Record the graph of a traced function, and its outputs and gradients on other inputs."""
    try:
        traced = torch.jit.trace(function, inputs, check_trace=False)
    except Exception as error:
        s.record(f"{label}: trace raised", error)
        return None
    s.record(f"{label}: graph", graph_text(traced.graph))
    record_calls(s, label, traced.graph)
    others = [x.detach().neg().requires_grad_(x.requires_grad) for x in inputs]
    try:
        outputs = traced(*others)
    except RuntimeError as error:
        s.record(f"{label}: raised", own_lines(error))
        return traced
    s.record(f"{label}: outputs", outputs)
    if isinstance(outputs, torch.Tensor) and outputs.requires_grad:
        outputs.sum().backward()
        s.record(f"{label}: inputs", others)
    return traced


def calling(function):
    """The Function's call as a Python function: from torch 2.14 on torch.jit.trace doesn't take apply itself."""
    return lambda *args: function.apply(*args)


@scenario
def old_style(s):
    trace(s, "square", make_square(s.Function).apply, s.randn(3, requires_grad=True))


@scenario
def setup_context_style(s):
    trace(s, "product", make_product(s.Function).apply, s.randn(3, requires_grad=True), s.randn(3))


@scenario
def without_gradient(s):
    trace(s, "square", make_square(s.Function).apply, s.randn(3))


@scenario
def between_other_operators(s):
    square = make_square(s.Function)
    trace(s, "mixed", lambda x: square.apply(x.sin()).cos() + square.apply(x), s.randn(3, requires_grad=True))


@scenario
def several_outputs(s):
    class Two(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x.exp()

        @staticmethod
        def backward(ctx, a, b):
            return a * 2 + b

    trace(s, "two", Two.apply, s.randn(3, requires_grad=True))
    trace(s, "second only", lambda x: Two.apply(x)[1], s.randn(3, requires_grad=True))


@scenario
def arguments_that_are_no_tensors(s):
    class Scale(s.Function):
        @staticmethod
        def forward(ctx, x, factor, name, pair):
            ctx.factor = factor
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor, None, None, None

    trace(s, "scale", lambda x: Scale.apply(x, 3, "name", (1, None)), s.randn(3, requires_grad=True))


@scenario
def tensors_inside_arguments(s):
    class Sum(s.Function):
        @staticmethod
        def forward(ctx, pair):
            return pair[0] + pair[1]

        @staticmethod
        def backward(ctx, grad):
            return grad

    trace(s, "sum", lambda x: Sum.apply((x, x)), s.randn(3, requires_grad=True))


@scenario
def in_place_and_view(s):
    Doubles = make_doubler(s.Function)

    class Row(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x[0]

        @staticmethod
        def backward(ctx, grad):
            return torch.stack([grad, grad * 0])

    trace(s, "in place", lambda x: Doubles.apply(x * 1), s.randn(3, requires_grad=True))
    trace(s, "view", Row.apply, s.randn(2, 2, requires_grad=True))


@scenario
def function_inside_a_function(s):
    square = make_square(s.Function)

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return square.apply(x) + 1

        @staticmethod
        def backward(ctx, grad):
            return 2 * ctx.saved_tensors[0] * grad

    trace(s, "outer", Outer.apply, s.randn(3, requires_grad=True))


@scenario
def module_with_a_function(s):
    identity = make_identity(s.Function)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(s.randn(3))

        def forward(self, x):
            return identity.apply(self.weight * x)

    trace(s, "module", Layer(), s.randn(3))


@scenario
def function_that_raises(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            raise KeyError("forward")

    s.raises("trace", torch.jit.trace, Fails.apply, (s.randn(3, requires_grad=True),))
    s.record("tracing state", torch._C._get_tracing_state())
    s.differentiate("still works", make_square(s.Function).apply, s.randn(3, requires_grad=True))


@scenario
def traced_with_a_check(s):
    s.record("graph", str(torch.jit.trace(calling(make_square(s.Function)), (s.randn(3, requires_grad=True),)).graph))


@scenario
def is_tracing_in_forward(s):
    class Looks(s.Function):
        @staticmethod
        def forward(ctx, x):
            s.record("forward", torch.jit.is_tracing(), torch._C._get_tracing_state() is None)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("backward", torch.jit.is_tracing())
            return grad * 2

    def body(x):
        (grad,) = torch.autograd.grad(Looks.apply(x).sum(), x)
        return grad

    trace(s, "looks", body, s.randn(3, requires_grad=True))


@scenario
def traced_names_follow_the_class(s):
    class Named(make_identity(s.Function)):
        pass

    Named.__name__ = "Renamed"
    trace(s, "renamed", Named.apply, s.randn(3, requires_grad=True))


@scenario
def saving_a_traced_function(s):
    traced = torch.jit.trace(calling(make_square(s.Function)), (s.randn(3, requires_grad=True),), check_trace=False)
    try:
        torch.jit.save(traced, io.BytesIO())
    except RuntimeError as error:
        # The lines are those of the whole call stack, the test runner included.
        s.record("save", str(error).splitlines()[:2])


@scenario
def call_from_torchscript(s):
    square = make_square(s.Function)

    def body(x):
        return square.apply(x) + 1

    try:
        scripted = torch.jit.script(body)
    except Exception as error:
        s.record("script raised", error)
        return
    s.record("graph", str(scripted.graph))
    s.differentiate("scripted", scripted, s.randn(3, requires_grad=True))


@scenario
def scalars_of_many_kinds(s):
    class Odd:
        def __str__(self):
            return "odd\nobject é"

    class Takes(s.Function):
        @staticmethod
        def forward(ctx, x, *scalars):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2, *[None] * 14

    scalars = 3, 2.5, True, 1j, None, "tëxt", b"bytes", (), (1,), (1, ("a", None)), [1, "b"], {"k": 1}, torch.float16
    trace(s, "scalars", lambda x: Takes.apply(x, *scalars, Odd()), s.randn(3, requires_grad=True))


@scenario
def scalar_that_cannot_be_printed(s):
    class Silent:
        def __str__(self):
            raise ValueError("no text")

    class Takes(s.Function):
        @staticmethod
        def forward(ctx, x, silent):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2, None

    traced = torch.jit.trace(lambda x: Takes.apply(x, Silent()), s.randn(3), check_trace=False)
    s.raises("print", lambda: str(traced.graph))
    s.record("runs", traced(s.randn(3)))


@scenario(since="2.13")
def keyword_arguments(s):
    class Old(s.Function):
        @staticmethod
        def forward(ctx, x, factor, shift=0):
            ctx.factor = factor
            return x * factor + shift

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor, None, None

    class New(s.Function):
        @staticmethod
        def forward(x, factor=2, *, shift=None):
            return x * factor

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.factor = inputs[1]

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor, None, None

    x = s.randn(3, requires_grad=True)
    trace(s, "old, by position", lambda x: Old.apply(x, 3, 1), x)
    trace(s, "old, by name", lambda x: Old.apply(x, shift=1, factor=3), x)
    trace(s, "old, default", lambda x: Old.apply(x, 3), x)
    trace(s, "new, default", lambda x: New.apply(x), x)
    trace(s, "new, by name", lambda x: New.apply(factor=4, x=x), x)
    trace(s, "missing", lambda x: Old.apply(x), x)
    s.record("tracing afterwards", torch._C._get_tracing_state())


@scenario
def outputs_of_all_kinds(s):
    class Gives(s.Function):
        @staticmethod
        def forward(ctx, x, kind):
            y = x * 2
            return {
                "one tuple": (y,),
                "with others": (y, 5, None, x + 1),
                "twice": (y, y),
                "the input": x,
                "the input and more": (x, y),
                "a list": [y, y],
                "a list in a tuple": (y, [y]),
                "a number": 7,
                "none": None,
                "no tuple": (),
            }[kind]

        @staticmethod
        def backward(ctx, *grads):
            return sum(grad for grad in grads if grad is not None) * 2, None

    def first(x, kind):
        result = Gives.apply(x, kind)
        return result[0] if isinstance(result, (tuple, list)) and result else x if result is None else result

    kinds = "one tuple", "with others", "twice", "the input", "the input and more", "a list", "a list in a tuple"
    for kind in (*kinds, "a number", "none", "no tuple"):
        trace(s, kind, lambda x: first(x * 1, kind), s.randn(3, requires_grad=True))


@scenario
def different_types_of_outputs(s):
    class Split(s.Function):
        @staticmethod
        def forward(ctx, x):
            index = x.argmax()
            ctx.mark_non_differentiable(index)
            return x.double(), index, x.new_zeros(0, 2), x.t()

        @staticmethod
        def backward(ctx, grad, *others):
            return grad.float()

    trace(s, "types", lambda x: Split.apply(x)[0], s.randn(2, 3, requires_grad=True))


@scenario
def nested_functions(s):
    square, product = make_square(s.Function), make_product(s.Function)

    class Inner(s.Function):
        @staticmethod
        def forward(ctx, x):
            return square.apply(x) + 1, x

        @staticmethod
        def backward(ctx, grad, other):
            return grad

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            return product.apply(Inner.apply(x)[0], y)

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    x, y = s.randn(3, requires_grad=True), s.randn(3)
    trace(s, "three levels", Outer.apply, x, y)


@scenario
def inlining_turned_off(s):
    from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

    square = make_square(s.Function)
    for inlining in (False, True):
        before, GLOBALS.autograd_inlining = GLOBALS.autograd_inlining, inlining
        try:
            trace(s, f"inlining {inlining}", square.apply, s.randn(3, requires_grad=True))
        finally:
            GLOBALS.autograd_inlining = before


@scenario
def tensors_from_outside_forward(s):
    outside = s.randn(3)
    seen = []

    class TakesConstant(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * outside

        @staticmethod
        def backward(ctx, grad):
            return grad * outside

    class TakesTraced(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * seen[-1]

        @staticmethod
        def backward(ctx, grad):
            return grad

    def with_traced(x):
        seen.append(x.sin())
        return TakesTraced.apply(x)

    trace(s, "a constant", TakesConstant.apply, s.randn(3, requires_grad=True))
    trace(s, "a traced one", with_traced, s.randn(3, requires_grad=True))
    seen.clear()


@scenario
def same_tensor_for_two_arguments(s):
    product = make_product(s.Function)
    trace(s, "product", lambda x: product.apply(x, x), s.randn(3, requires_grad=True))
    double = torch.jit.trace(calling(product), (s.randn(2), s.randn(2)), check_trace=False)
    x = s.randn(2, requires_grad=True)
    s.differentiate("twice the same", double, x, x)


@scenario
def no_tensor_among_the_arguments(s):
    class Makes(s.Function):
        @staticmethod
        def forward(ctx, size):
            return torch.ones(size, device=s.device)

        @staticmethod
        def backward(ctx, grad):
            return None

    trace(s, "makes", lambda x: x + Makes.apply(3), s.randn(3, requires_grad=True))


@scenario
def parameters_and_subclasses_as_arguments(s):
    product = make_product(s.Function)
    weight = torch.nn.Parameter(s.randn(3))

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = weight
            self.register_buffer("shift", s.randn(3))

        def forward(self, x):
            return product.apply(product.apply(x, self.weight), self.shift)

    traced = torch.jit.trace(Layer(), s.randn(3), check_trace=False)
    s.record("graph", graph_text(traced.graph))
    s.record("inlined", graph_text(traced.inlined_graph))
    record_calls(s, "inlined", traced.inlined_graph)
    traced(s.randn(3)).sum().backward()
    s.record("weight", weight)
    s.outcome("frozen", lambda: graph_text(torch.jit.freeze(traced.eval()).graph))


@scenario
def modules_and_scopes(s):
    square = make_square(s.Function)

    class Inner(torch.nn.Module):
        def forward(self, x):
            return square.apply(x)

    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Inner(), Inner()

        def forward(self, x):
            return self.second(self.first(x)) + square.apply(x)

        def other(self, x):
            return self.first(x)

    traced = torch.jit.trace_module(Outer(), {"forward": s.randn(3), "other": s.randn(3)}, check_trace=False)
    s.record("forward", graph_text(traced.forward.graph))
    s.record("other", graph_text(traced.other.graph))
    s.record("inlined", graph_text(traced.inlined_graph))
    s.differentiate("runs", traced, s.randn(3, requires_grad=True))


@scenario(since="2.13")
def inputs_by_name(s):
    product = make_product(s.Function)

    class Layer(torch.nn.Module):
        def forward(self, x, y):
            return product.apply(x, y) + y

    def function(x, y):
        return product.apply(x, y=y)

    inputs = {"y": s.randn(3), "x": s.randn(3)}
    s.record("function", graph_text(torch.jit.trace(function, example_kwarg_inputs=inputs).graph))
    s.record("module", graph_text(torch.jit.trace(Layer(), example_kwarg_inputs=inputs).inlined_graph))


@scenario
def copies_and_passes(s):
    class Scale(s.Function):
        @staticmethod
        def forward(ctx, x, factor, pair):
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            return grad * 3, None, None

    traced = torch.jit.trace(lambda x: Scale.apply(x, 3, (1, "a")) + 1, s.randn(3), check_trace=False)
    copy = traced.graph.copy()
    s.record("lint", copy.lint())
    del traced
    record_calls(s, "copy", copy)
    s.record("copy of the copy", graph_text(copy.copy()))
    torch._C._jit_pass_cse(copy)
    torch._C._jit_pass_dce(copy)
    torch._C._jit_pass_inline(copy)
    s.record("after passes", graph_text(copy))
    function = torch._C._create_function_from_graph("copied", copy)
    s.differentiate("runs", function, s.randn(3, requires_grad=True))


@scenario
def called_from_a_script(s):
    traced = torch.jit.trace(calling(make_square(s.Function)), s.randn(3), check_trace=False)

    @torch.jit.script
    def twice(x: torch.Tensor):
        return traced(traced(x))

    s.record("graph", graph_text(twice.graph))
    s.differentiate("scripted", twice, s.randn(3, requires_grad=True))


@scenario
def other_shapes_and_modes(s):
    traced = torch.jit.trace(calling(make_square(s.Function)), s.randn(3, requires_grad=True), check_trace=False)
    s.outcome("another shape", traced, s.randn(2, 2, requires_grad=True))
    s.outcome("no gradient", traced, s.randn(3))
    with torch.no_grad():
        s.outcome("no_grad", traced, s.randn(3, requires_grad=True))
        trace(s, "traced under no_grad", make_square(s.Function).apply, s.randn(3, requires_grad=True))
    with torch.inference_mode():
        s.outcome("inference mode", traced, s.randn(3))


@scenario
def warnings_of_the_tracer(s):
    class Looks(s.Function):
        @staticmethod
        def forward(ctx, x):
            if x.sum() > 0:
                x = x + 1
            return x * float(x[0]) * len(x)

        @staticmethod
        def backward(ctx, grad):
            return grad

    # The harness would record each warning with its text.
    trace(s, "looks", Looks.apply, s.randn(3, requires_grad=True))


@scenario
def checker_finds_a_difference(s):
    class Counts(s.Function):
        calls = 0

        @staticmethod
        def forward(ctx, x):
            Counts.calls += 1
            return x + Counts.calls if Counts.calls < 3 else x - Counts.calls

        @staticmethod
        def backward(ctx, grad):
            return grad

    class Random(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x + torch.rand_like(x)

        @staticmethod
        def backward(ctx, grad):
            return grad

    for name, function in (("counts", Counts), ("random", Random)):
        try:
            s.record(f"{name}: graph", graph_text(torch.jit.trace(calling(function), s.randn(3)).graph))
        except torch.jit.TracingCheckError as error:
            s.record(f"{name}: raised", graph_text(error))


@scenario
def forward_that_pauses_the_trace(s):
    class Pauses(s.Function):
        @staticmethod
        def forward(ctx, x):
            state = torch._C._get_tracing_state()
            torch._C._set_tracing_state(None)
            y = x.exp() * 3
            torch._C._set_tracing_state(state)
            return y + 1

        @staticmethod
        def backward(ctx, grad):
            return grad

    trace(s, "pauses", lambda x: Pauses.apply(x).cos(), s.randn(3, requires_grad=True))


@scenario
def trace_inside_a_trace(s):
    square = make_square(s.Function)

    class Traces(s.Function):
        @staticmethod
        def forward(ctx, x):
            state = torch._C._get_tracing_state()
            torch._C._set_tracing_state(None)
            inner = torch.jit.trace(calling(square), torch.ones(3), check_trace=False)
            torch._C._set_tracing_state(state)
            s.record("inner", graph_text(inner.graph))
            return square.apply(x)

        @staticmethod
        def backward(ctx, grad):
            return grad

    trace(s, "outer", Traces.apply, s.randn(3, requires_grad=True))


@scenario
def calls_on_other_threads(s):
    square = make_square(s.Function)

    def body(x):
        result = []
        thread = threading.Thread(target=lambda: result.append(square.apply(torch.full((3,), 2.0, device=s.device))))
        thread.start()
        thread.join()
        return square.apply(x) + result[0]

    trace(s, "threads", body, s.randn(3, requires_grad=True))


@scenario
def values_are_named_by_the_frames_around(s):
    inner_product = make_product(s.Function)

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, p, q):
            inner = q * 3
            return p * inner_product.apply(inner, inner)

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    def body(x, z):
        y = x * 2
        w = y + z
        return Outer.apply(y, w)

    class Module(torch.nn.Module):
        def forward(self, x, z):
            first = x * 2
            return body(first, z)

    x = s.randn(3, requires_grad=True)
    trace(s, "function", body, x, x)
    trace(s, "module", Module(), x, x)
    trace(s, "apply", calling(Outer), x, x)


@scenario
def places_of_nodes_inside_forward(s):
    class Sine(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sin(), x

        @staticmethod
        def backward(ctx, grad, other):
            return grad

    def body(x):
        return Sine.apply(x)

    graph = torch.jit.trace(body, s.randn(3, requires_grad=True), check_trace=False).graph
    for node in graph.nodes():
        s.record(f"place of {node.kind()}", own_lines(node.sourceRange()))
        if node.hasAttribute("Subgraph"):
            for inside in node.g("Subgraph").nodes():
                s.record(f"place of {inside.kind()} inside", own_lines(inside.sourceRange()))


@scenario
def names_of_modules_and_classes(s):
    identity = make_identity(s.Function)

    class NoModule(identity):
        pass

    class Inherits(NoModule):
        pass

    del NoModule.__module__
    for cls in (NoModule, Inherits):
        trace(s, cls.__name__, cls.apply, s.randn(3, requires_grad=True))


@scenario
def apply_replaced_after_tracing(s):
    square = make_square(s.Function)
    traced = torch.jit.trace(calling(square), s.randn(3), check_trace=False)
    square.apply = lambda x: x
    record_calls(s, "replaced", traced.graph)
    s.record("still squares", traced(s.tensor([3.0])))
    trace(s, "no longer a node", lambda x: square.apply(x) + 1, s.randn(3))


@scenario
def what_a_traced_function_keeps_alive(s):
    import weakref

    class Argument:
        def __str__(self):
            return "argument"

    def build():
        class Takes(s.Function):
            @staticmethod
            def forward(ctx, x, argument):
                return x * 2

            @staticmethod
            def backward(ctx, grad):
                return grad * 2, None

        argument = Argument()
        refs = weakref.ref(argument), weakref.ref(Takes)
        return (lambda x: Takes.apply(x, argument)), refs

    function, (argument, cls) = build()
    graph, _ = torch._C._create_graph_by_tracing(function, [s.randn(3)], lambda tensor: "", True, False)
    copy = graph.copy()
    del function, graph
    s.alive("argument, by the copy", argument)
    s.alive("class, by the copy", cls)
    del copy
    s.alive("argument", argument)
    s.alive("class", cls)


@scenario
def references_of_a_traced_call(s):
    square = make_square(s.Function)
    x, scalar = s.randn(3, requires_grad=True), object()

    class Takes(s.Function):
        @staticmethod
        def forward(ctx, x, scalar):
            if x.numel() > 3:
                raise ValueError("too many")
            return square.apply(x), scalar

        @staticmethod
        def backward(ctx, grad, _):
            return grad, None

    def once(x):
        torch.jit.trace(lambda x: Takes.apply(x, scalar)[0], x, check_trace=False)(x).sum().backward()

    s.references("a trace and a backward", lambda: once(x), x, scalar, square, Takes, True, 7)
    s.references("forward raises", lambda: once(s.randn(4)), x, scalar, square, Takes)
