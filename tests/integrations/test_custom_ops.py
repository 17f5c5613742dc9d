# SPDX-License-Identifier: BSD-3-Clause
"""Custom operators: torch creates a Function for each, and people write them with Functions.

In the variant ``ours`` torch's Functions are its own, and those inside the operators are ours; in ``installed``
both are.
"""

import contextlib

import torch
import torch._dynamo  # torch does so on the first use of a dispatch mode: its classes are no leak
from harness import scenario
from harness.small_functions import make_product, make_square
from torch import Tensor
from torch._library.custom_ops import OPDEF_TO_LIB
from torch.func import grad, jacrev, vmap
from torch.utils._python_dispatch import TorchDispatchMode

NAMESPACE = "torch_ext_tests"


@contextlib.contextmanager
def operators():
    """``torch.library.custom_op`` without the namespace; removes the operators from torch at the end."""
    made = []

    def define(name, function, **options):
        options.setdefault("mutates_args", ())
        made.append(torch.library.custom_op(f"{NAMESPACE}::{name}", function, **options))
        return made[-1]

    try:
        yield define
    finally:
        for op in made:
            OPDEF_TO_LIB.pop(op._qualname)._destroy()


def make_sine(s, define):
    """sin(x) * scale: a Function in its kernel, in its backward, and around it."""
    product = make_product(s.Function)
    square = make_square(s.Function)

    def forward(x: Tensor, scale: float = 2.0) -> Tensor:
        s.record("kernel", torch.is_grad_enabled(), x.requires_grad, square.apply(x).requires_grad)
        return x.sin() * scale

    def setup_context(ctx, inputs, output):
        s.record("setup_context", inputs[1], ctx.needs_input_grad, output.grad_fn)
        ctx.save_for_backward(inputs[0])
        ctx.scale = inputs[1]

    def backward(ctx, y_grad):
        (x,) = ctx.saved_tensors
        s.record("backward", ctx.needs_input_grad, type(ctx).__name__, torch.is_grad_enabled())
        return product.apply(y_grad, x.cos()) * ctx.scale, None

    op = define("sine", forward)
    op.register_autograd(backward, setup_context=setup_context)
    return op


@scenario
def operator_with_a_formula(s):
    with operators() as define:
        sine = make_sine(s, define)
        square = make_square(s.Function)
        x = s.randn(3, requires_grad=True)
        s.differentiate("default", sine, x)
        s.differentiate("scale", sine, x, 3.0)
        s.differentiate("between two Functions", lambda x: square.apply(sine(square.apply(x), scale=0.5)), x)
        s.record("without gradient", sine(x.detach()))
        with torch.no_grad():
            s.record("no_grad", sine(x))
        s.differentiate("through torch.ops", torch.ops.torch_ext_tests.sine.default, x)
        s.outcome("wrong arguments", sine, x, "text")


@scenario
def operator_without_a_formula(s):
    with operators() as define:

        def forward(x: Tensor) -> Tensor:
            return x * 2

        op = define("plain", forward)
        y = op(s.randn(3, requires_grad=True))
        s.record("output", y)
        s.raises("backward", lambda: y.sum().backward())


@scenario
def several_outputs_and_lists(s):
    with operators() as define:
        square = make_square(s.Function)

        def forward(xs: list[Tensor], y: Tensor, number: int) -> tuple[list[Tensor], Tensor]:
            return [x * y * number for x in xs], y.argsort()

        def setup_context(ctx, inputs, output):
            s.record("setup_context", ctx.needs_input_grad)
            ctx.save_for_backward(*inputs[0], inputs[1])
            ctx.mark_non_differentiable(output[1])

        def backward(ctx, list_grads, order_grad):
            *xs, y = ctx.saved_tensors
            s.record("backward", ctx.needs_input_grad, list_grads, order_grad)
            return [g * y * 3 for g in list_grads], sum(g * x * 3 for g, x in zip(list_grads, xs, strict=True)), None

        op = define("lists", forward)
        op.register_autograd(backward, setup_context=setup_context)
        x, y = s.randn(3, requires_grad=True), s.randn(3, requires_grad=True)
        (a, b), order = op([square.apply(x), x.detach()], y, 3)
        s.record("outputs", a, b, order)
        s.record("gradients", torch.autograd.grad((square.apply(a) + b).sum(), (x, y)))
        s.record("no tensors", op([], y, 3))

        for name, result in {
            "a tuple": lambda: ((y, y), y, None),
            "one element too few": lambda: ([y], y, None),
            "one value": lambda: y,
            "nothing": lambda: ([None, None], None, None),
        }.items():
            op.register_autograd(lambda ctx, *grads, result=result: result(), setup_context=setup_context)
            (a, b), _ = op([x, x], y, 3)
            s.outcome(name, torch.autograd.grad, (a + b).sum(), (x, y), allow_unused=True)


@scenario
def keyword_only_arguments(s):
    with operators() as define:

        def forward(x: Tensor, y: Tensor | None = None, *, scale: float, bias: float = 1.0) -> Tensor:
            return x * scale + bias if y is None else x * y * scale

        def setup_context(ctx, inputs, keyword_only_inputs, output):
            s.record("setup_context", inputs, keyword_only_inputs)
            ctx.scale = keyword_only_inputs["scale"]
            ctx.save_for_backward(*inputs)

        def backward(ctx, y_grad):
            x, y = ctx.saved_tensors
            return (y_grad * ctx.scale, None) if y is None else (y_grad * y * ctx.scale, y_grad * x * ctx.scale)

        op = define("keywords", forward)
        op.register_autograd(backward, setup_context=setup_context)
        x, y = s.randn(3, requires_grad=True), s.randn(3, requires_grad=True)
        s.differentiate("none", lambda x: op(x, scale=2.0), x)
        s.differentiate("both", lambda x, y: op(x, y, scale=2.0, bias=3.0), x, y)


@scenario
def operator_that_changes_its_argument(s):
    with operators() as define:

        def forward(x: Tensor, out: Tensor) -> None:
            out.copy_(x * 2)

        op = define("fills", forward, mutates_args=("out",))
        out, x = s.randn(3), s.randn(3, requires_grad=True)
        op(make_square(s.Function).apply(x), out)
        s.record("changed", out)
        s.outcome("a leaf", op, x, s.randn(3, requires_grad=True))
        s.outcome("what requires grad", op, x, s.randn(3, requires_grad=True).clone())
        s.raises("a formula", op.register_autograd, lambda ctx: None)


@scenario
def wrong_formulas(s):
    with operators() as define:
        where = None

        def forward(x: Tensor, y: Tensor) -> Tensor:
            return x * y

        def setup_context(ctx, inputs, output):
            if where == "setup_context":
                raise KeyError(where)
            if where == "saves what is no tensor":
                ctx.save_for_backward(3)

        def backward(ctx, y_grad):
            if where == "backward":
                raise KeyError(where)
            return {"one": y_grad, "three": (y_grad,) * 3, "text": ("x", y_grad)}.get(where, (y_grad, y_grad))

        op = define("wrong", forward)
        op.register_autograd(backward, setup_context=setup_context)
        x, y = s.randn(3, requires_grad=True), s.randn(3, requires_grad=True)
        for where in "setup_context", "saves what is no tensor", "backward", "one", "three", "text", None:
            s.outcome(f"{where}", lambda: torch.autograd.grad(op(x, y).sum(), (x, y)))


@scenario
def operator_under_transforms(s):
    with operators() as define:
        product = make_product(s.Function)

        def forward(x: Tensor) -> Tensor:
            return x.sin()

        def rule(info, in_dims, x):
            s.record("rule", info.batch_size, in_dims, x.shape)
            return sine(x), in_dims[0]

        sine = define("plain_sine", forward)
        sine.register_autograd(
            lambda ctx, y_grad: product.apply(y_grad, ctx.saved_tensors[0].cos()),
            setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
        )
        torch.library.register_vmap(sine, rule)
        x = s.randn(3)
        s.outcome("grad", grad(lambda x: product.apply(sine(x), x).sum()), x)
        s.outcome("vmap", vmap(sine), x)
        s.outcome("grad of vmap", grad(lambda x: vmap(sine)(product.apply(x, x)).sum()), x)
        s.outcome("vmap of grad", vmap(grad(lambda x: product.apply(sine(x), x).sum())), s.randn(2, 3))
        s.outcome("grad of grad", grad(lambda x: grad(lambda x: sine(x).sum())(x).sum()), x)
        s.outcome("jacrev", jacrev(lambda x: sine(product.apply(x, x))), x)
        s.outcome("batched gradients", lambda: torch.autograd.functional.jacobian(sine, x, vectorize=True))
        y = vmap(sine)(s.randn(2, 3, requires_grad=True))
        s.record("backward of vmap", y, y.sum().backward())


@scenario
def functions_inside_operators_under_transforms(s):
    with operators() as define:
        square, product = make_square(s.Function), make_product(s.Function)
        for name, call in ("old", square.apply), ("new", lambda x: product.apply(x, x)):

            def rule(info, in_dims, x, call=call):
                return call(x), in_dims[0]

            op = define(f"{name}_style", lambda x, call=call: call(x), schema="(Tensor x) -> Tensor")
            op.register_autograd(lambda ctx, y_grad, call=call: call(y_grad))
            s.outcome(f"{name}, grad", grad(lambda x: op(x).sum()), s.randn(3))
            torch.library.register_vmap(op, rule)
            s.outcome(f"{name}, vmap", vmap(op), s.randn(3))


@scenario
def operator_under_modes(s):
    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            s.record("dispatched", func)
            return func(*args, **kwargs or {})

    with operators() as define:
        sine = make_sine(s, define)
        x = s.randn(3, requires_grad=True)
        with Mode():
            s.differentiate("dispatch mode", sine, x)
        sine.register_autocast("cpu", torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            s.differentiate("autocast", sine, x)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: s.record("pack", t) or t * 2, lambda t: t / 2):
            y = sine(x)
        s.record("gradient of what was packed", torch.autograd.grad(y.sum(), x))
        with torch.inference_mode():
            s.record("inference", sine(s.randn(3)))
        with s.detect_anomaly():
            y = sine(x)
            s.record("in anomaly mode", y)
            y.sum().backward()
        s.record("input", x)


@scenario
def operator_under_checkpoint(s):
    with operators() as define:
        sine = make_sine(s, define)
        square = make_square(s.Function)
        for reentrant in True, False:
            x = s.randn(3, requires_grad=True)
            y = torch.utils.checkpoint.checkpoint(lambda x: square.apply(sine(x)), x, use_reentrant=reentrant)
            y.sum().backward()
            s.record(f"use_reentrant={reentrant}", y, x)


@scenario
def checked_by_torch(s):
    with operators() as define:
        sine = make_sine(s, define)

        @sine.register_fake
        def _(x, scale=2.0):
            return torch.empty_like(x)

        x = s.randn(3, dtype=torch.float64, requires_grad=True)
        checks = "test_schema", "test_autograd_registration", "test_faketensor"
        s.outcome("opcheck", torch.library.opcheck, sine, (x,), test_utils=checks)
        s.outcome("gradcheck", torch.autograd.gradcheck, sine, (x,))


@scenario
def library_with_functions(s):
    # The low-level way: kernels by dispatch key, a Function as the kernel of autograd.
    class Triple(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            with torch._C._AutoDispatchBelowAutograd():
                return torch.ops.torch_ext_low.triple(x)

        @staticmethod
        def backward(ctx, y_grad):
            (x,) = ctx.saved_tensors
            return torch.ops.torch_ext_low.triple(y_grad) * x.sign()

    calls = {"triple": Triple.apply}  # torch keeps a kernel until the next of its name: it must not keep the class
    with torch.library._scoped_library("torch_ext_low", "DEF") as library:
        library.define("triple(Tensor x) -> Tensor")
        library.define("cube(Tensor x) -> Tensor")
        for key in "CPU", "CUDA":
            library.impl("triple", lambda x: x.abs() * 3, key)
            library.impl("cube", lambda x: x**3, key)
        library.impl("triple", lambda x: calls["triple"](x), "Autograd")
        x = s.randn(3, requires_grad=True)
        s.differentiate("kernel of autograd", torch.ops.torch_ext_low.triple, x)

        torch.library.register_autograd(
            "torch_ext_low::cube",
            lambda ctx, y_grad: calls["triple"](y_grad) * ctx.saved_tensors[0] ** 2,
            setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
            lib=library,
        )
        s.differentiate("registered", torch.ops.torch_ext_low.cube, x)
    calls.clear()


@scenario
def what_calls_leave_alive(s):
    with operators() as define:
        product = make_product(s.Function)

        def forward(x: Tensor) -> Tensor:
            return product.apply(x, x)

        op = define("leaves", forward)
        op.register_autograd(
            lambda ctx, y_grad: y_grad * ctx.saved_tensors[0] * 2,
            setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
        )
        x = s.randn(3, requires_grad=True)
        s.references("calls and backwards", lambda: op(x).sum().backward(), x, op, True)
        s.references("calls", lambda: op(x), x, op, True)
