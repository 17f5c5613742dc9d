# SPDX-License-Identifier: BSD-3-Clause
"""torch.onnx's exporter of traced graphs over Functions: their ``symbolic``, or what is inside them."""

import io
import re

import onnx
import onnx.reference
import torch
from harness import scenario
from harness.small_functions import make_doubler, make_product, make_square

OPSET = 17

# Where a node comes from, down to the runner's frames: the tests of the tracer compare that.
_PLACES = re.compile(r"^/.*\(\d+\): .*\n|# /.*$", re.MULTILINE)


class Wrapped(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def export(s, label, function, *inputs, run=True, **options):
    """Record the exported model as text, and what onnx's reference implementation computes with it."""
    module = function if isinstance(function, torch.nn.Module) else Wrapped(function)
    file = io.BytesIO()

    def call():
        torch.onnx.export(module, inputs, file, dynamo=False, opset_version=OPSET, **options)
        return onnx.load_from_string(file.getvalue())

    try:
        model = call()
    except Exception as error:
        s.record(f"{label} raised", type(error), _PLACES.sub("", str(error)).splitlines())
        return
    s.record(label, dict(enumerate(onnx.printer.to_text(model).splitlines())))
    if run:
        names = [value.name for value in model.graph.input]
        feed = dict(zip(names, (x.detach().cpu().numpy() for x in inputs), strict=True))
        outputs = onnx.reference.ReferenceEvaluator(model).run(None, feed)
        s.record(f"{label}: outputs", [out.tolist() for out in outputs])


def make_leaky(s):
    """A Function with a ``symbolic`` of several nodes, and attributes."""

    class Leaky(s.Function):
        @staticmethod
        def forward(ctx, x, slope, name="leaky"):
            s.record("forward", torch.onnx.is_in_onnx_export(), torch.jit.is_tracing())
            ctx.save_for_backward(x)
            return torch.where(x > 0, x, x * slope)

        @staticmethod
        def symbolic(g, x, slope, name="leaky"):
            s.record("symbolic", type(g).__name__, type(x).__name__, slope, name)
            return g.op("LeakyRelu", x, alpha_f=slope)

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return torch.where(x > 0, grad, grad * 2), None, None

    return Leaky


@scenario
def symbolic_of_one_node(s):
    leaky = make_leaky(s)
    x = s.randn(2, 3)
    export(s, "model", lambda x: leaky.apply(x, 0.25), x)
    export(s, "default", lambda x: leaky.apply(x.exp(), 0.5, "named").sin(), x)
    export(s, "input requires grad", lambda x: leaky.apply(x, 0.25), s.randn(2, 3, requires_grad=True))
    s.record("afterwards", leaky.apply(x, 0.25))


@scenario
def symbolic_of_several_nodes(s):
    class MinMax(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            return torch.minimum(x, y), torch.maximum(x, y)

        @staticmethod
        def symbolic(g, x, y):
            return g.op("Min", x, y), g.op("Neg", g.op("Min", g.op("Neg", x), g.op("Neg", y)))

    x, y = s.randn(3), s.randn(3)
    export(s, "both", lambda x, y: MinMax.apply(x, y), x, y)
    export(s, "one used", lambda x, y: MinMax.apply(x, y)[1] * 2, x, y)
    export(s, "names", MinMax.apply, x, y, input_names=["a", "b"], output_names=["low", "high"])
    export(s, "dynamic", MinMax.apply, x, y, input_names=["a", "b"], dynamic_axes={"a": {0: "n"}, "b": {0: "n"}})


@scenario
def symbolic_in_another_domain(s):
    class Mine(s.Function):
        @staticmethod
        def forward(ctx, x, sizes, mode):
            return x * sizes[0]

        @staticmethod
        def symbolic(g, x, sizes, mode):
            out = g.op("mine::Scale", x, sizes_i=sizes, mode_s=mode, names_s=["a", "b"], outputs=1)
            return out.setType(x.type())

    export(s, "model", lambda x: Mine.apply(x, [2, 3], "fast"), s.randn(2), run=False, custom_opsets={"mine": 3})
    export(s, "opset not given", lambda x: Mine.apply(x, [2, 3], "fast"), s.randn(2), run=False)


@scenario
def symbolic_that_is_wrong(s):
    class Raises(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def symbolic(g, x):
            raise KeyError("symbolic")

    class Two(Raises):
        @staticmethod
        def symbolic(g, x):
            return g.op("Neg", x), g.op("Abs", x)

    class NoValue(Raises):
        @staticmethod
        def symbolic(g, x):
            return 3

    class OneArgument(Raises):
        @staticmethod
        def symbolic(g):
            return g.op("Constant", value_t=torch.ones(2))

    class NotStatic(Raises):
        def symbolic(g, x):
            return g.op("Neg", x)

    class NotCallable(Raises):
        symbolic = 3

    for function in Raises, Two, NoValue, OneArgument, NotStatic, NotCallable:
        export(s, function.__name__, lambda x, function=function: function.apply(x), s.randn(2), run=False)


@scenario
def inlined(s):
    square, product = make_square(s.Function), make_product(s.Function)

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x, scale, flag=True):
            y = square.apply(x) * scale
            return product.apply(y, x) if flag else y

        @staticmethod
        def backward(ctx, grad):
            return grad, None, None

    x = s.randn(2, 3)
    export(s, "old style", square.apply, x)
    export(s, "new style", lambda x: product.apply(x, x), x)
    export(s, "nested", lambda x: Outer.apply(x.sin(), 3.0).relu(), x)
    export(s, "the other branch", lambda x: Outer.apply(x, 3.0, False), x)
    export(s, "requires grad", square.apply, s.randn(3, requires_grad=True))


@scenario
def inlined_with_several_outputs(s):
    class Split(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.mark_non_differentiable(order := x.argmax(-1))
            return x + y, order, x

        @staticmethod
        def backward(ctx, grad, _, same):
            return grad, grad

    x, y = s.randn(2, 3), s.randn(2, 3)
    export(s, "all", Split.apply, x, y)
    export(s, "some", lambda x, y: Split.apply(x, y)[0].sum(1), x, y, run=False)
    export(s, "the input itself", lambda x: Split.apply(x, x)[2] * 2, x)


@scenario
def inlined_in_place_and_views(s):
    Doubler = make_doubler(s.Function)

    class Row(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x[0]

        @staticmethod
        def backward(ctx, grad):
            return grad.expand(2, 3)

    x = s.randn(2, 3)
    export(s, "in place", lambda x: Doubler.apply(x.exp()) + 1, x)
    export(s, "view", lambda x: Row.apply(x * 2) + 1, x)


@scenario
def not_inlined(s):
    leaky, square = make_leaky(s), make_square(s.Function)
    x = s.randn(2, 3)
    export(s, "symbolic", lambda x: leaky.apply(x, 0.5), x, autograd_inlining=False)
    export(s, "no symbolic", square.apply, x, autograd_inlining=False)
    fall_through = torch.onnx.OperatorExportTypes.ONNX_FALLTHROUGH
    for inlining in True, False:
        options = {"autograd_inlining": inlining, "operator_export_type": fall_through, "run": False}
        export(s, f"falls through, inlining {inlining}", square.apply, x, **options)


@scenario
def symbolic_registered_for_every_python_op(s):
    square, product = make_square(s.Function), make_product(s.Function)

    def symbolic(g, *args, **kwargs):
        node = g.original_node
        s.record("node", node.kind(), node.pyname(), node.cconv(), node.scalar_args(), sorted(kwargs), len(args))
        s.record("what is called", type(node.pyobj()).__name__, node.pyobj().__self__.__name__)
        s.record("block", [inner.kind() for block in node.blocks() for inner in block.nodes()])
        if kwargs["name"] == "Square":
            return g.op("Mul", args[0], args[0])
        return g.op("Mul", args[0], args[1])

    torch.onnx.register_custom_op_symbolic("prim::PythonOp", symbolic, 1)
    try:
        body = lambda x: product.apply(square.apply(x), x)  # noqa: E731
        export(s, "not inlined", body, s.randn(3), autograd_inlining=False)
        export(s, "inlined", body, s.randn(3))
    finally:
        torch.onnx.unregister_custom_op_symbolic("prim::PythonOp", 1)


@scenario
def modules_and_their_parameters(s):
    leaky, product = make_leaky(s), make_product(s.Function)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 3)
            self.weight = torch.nn.Parameter(s.randn(3))
            with torch.no_grad():
                self.linear.weight.copy_(s.randn(3, 3))
                self.linear.bias.zero_()

        def forward(self, x):
            return leaky.apply(self.linear(x), 0.5) + product.apply(x, self.weight.expand_as(x))

    model, x = Model(), s.randn(2, 3)
    model.linear.register_full_backward_hook(lambda *_: None)  # torch puts a Function of its own around the module
    export(s, "evaluation", model, x)
    export(s, "training", model.train(), x, training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False)
    export(s, "not folded", model.eval(), x, keep_initializers_as_inputs=True, export_params=False, run=False)
    s.differentiate("afterwards", model, s.randn(2, 3, requires_grad=True))


@scenario
def traced_before_the_export(s):
    leaky, square = make_leaky(s), make_square(s.Function)
    x = s.randn(2, 3)
    traced = torch.jit.trace(lambda x: square.apply(leaky.apply(x, 0.5)), x)
    export(s, "traced", traced, x)


@scenario
def function_that_raises(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            raise KeyError("forward")

    export(s, "model", Fails.apply, s.randn(2))
    s.record("state", torch.onnx.is_in_onnx_export(), torch.jit.is_tracing(), torch._C._get_tracing_state())
    export(s, "next", make_square(s.Function).apply, s.randn(2))
