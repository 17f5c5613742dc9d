# SPDX-License-Identifier: BSD-3-Clause
"""Custom Functions on fake and functional tensors, which have no values: the same shapes, nodes, errors."""

import torch
from compiling import no_logs
from harness import scenario
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
from torch.func import functionalize
from torch.fx.experimental.symbolic_shapes import ShapeEnv


def facts(tensor):
    """What can be seen of a tensor that has no values."""
    if not isinstance(tensor, torch.Tensor):
        return tensor
    node = tensor.grad_fn
    return (
        type(tensor).__name__,
        str(tuple(tensor.shape)),
        str(tensor.stride()),
        tensor.dtype,
        tensor.device,
        tensor.requires_grad,
        tensor._version,
        node and (node.name(), [parent and parent.name() for parent, _ in node.next_functions]),
    )


def matmul(Function, seen=None):
    class Product(Function):
        @staticmethod
        def forward(ctx, x, y, flag=True):
            ctx.save_for_backward(x, y)
            ctx.flag = flag
            return x @ y, (x.detach().sum(), flag)[0]

        @staticmethod
        def backward(ctx, grad, of_sum):
            if seen is not None:
                seen("in backward", grad, of_sum, *ctx.saved_tensors)
            x, y = ctx.saved_tensors
            return grad @ y.T, x.T @ grad if ctx.needs_input_grad[1] else None, None

    return Product


def noting(s):
    return lambda label, *tensors: s.record(label, [facts(tensor) for tensor in tensors])


@scenario
def shapes_without_values(s):
    note = noting(s)
    Product = matmul(s.Function, note)
    with FakeTensorMode():
        x, y = (torch.empty(shape, device=s.device, requires_grad=True) for shape in ((2, 3), (3, 4)))
        outputs = Product.apply(x, y)
        note("outputs", *outputs)
        (outputs[0] * outputs[1]).sum().backward()
        note("gradients", x.grad, y.grad)
        note("saved", *s.keep(Product.apply(x, y))[0].grad_fn.saved_tensors)
        second = torch.autograd.grad(Product.apply(x, y)[0].sum(), x, create_graph=True)
        note("with a graph", *second)


@scenario
def fakes_outside_their_mode(s):
    note = noting(s)
    Product = matmul(s.Function, note)
    mode = FakeTensorMode()
    x, y = (mode.from_tensor(s.randn(*shape, requires_grad=True)) for shape in ((2, 3), (3, 4)))
    outputs = Product.apply(x, y)
    note("outputs", *outputs)
    outputs[0].sum().backward()
    note("gradients", x.grad, y.grad)


@scenario
def sizes_as_symbols(s):
    note = noting(s)
    Product = matmul(s.Function, note)
    env = ShapeEnv()
    mode = FakeTensorMode(shape_env=env)
    x, y = (mode.from_tensor(s.randn(*shape, requires_grad=True)) for shape in ((5, 3), (3, 4)))
    output = Product.apply(x, y)[0]
    note("output", output)
    output.sum().backward()
    note("gradients", x.grad, y.grad)
    s.record("guards", [str(guard.expr) for guard in env.guards])


@scenario
def errors_on_fakes(s):
    class Reading(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * x.sum().item()

        @staticmethod
        def backward(ctx, grad):
            return grad[:1]

    class Short(Reading):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    Product = matmul(s.Function)
    with no_logs(), FakeTensorMode() as mode:
        x = torch.empty(2, 3, requires_grad=True)
        s.raises("values read", Reading.apply, x)
        s.raises("sizes that don't fit", Product.apply, x, x)
        s.raises("a gradient of another size", Short.apply(x).sum().backward)
    with no_logs():
        s.raises("mixed with real ones", lambda: Product.apply(mode.from_tensor(s.randn(2, 3)), s.randn(3, 4)))


@scenario
def changed_in_place(s):
    class AddOne(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.add_(1)

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    note = noting(s)
    with FakeTensorMode():
        x = torch.empty(3, requires_grad=True)
        y = x * 1
        z = AddOne.apply(y)
        note("changed", y, z)
        s.record("the same", y is z)
        view = AddOne.apply(y[1:])
        note("view", view, y)
        y.sum().backward()
        note("gradient", x.grad)


@scenario
def functional_tensors(s):
    note = noting(s)
    Product = matmul(s.Function, note)
    x, y = (s.randn(*shape, requires_grad=True) for shape in ((2, 3), (3, 4)))
    with FunctionalTensorMode():
        inside = [FunctionalTensor.to_functional(t) for t in (x, y)]
        outputs = Product.apply(*inside)
        s.record("outputs", [(type(t).__name__, t.requires_grad, str(t.grad_fn and t.grad_fn.name())) for t in outputs])
        outputs[0].add_(1)
        grads = torch.autograd.grad(outputs[0].sum(), inside)
    s.record("values", [torch._from_functional_tensor(t.elem) for t in (*outputs, *grads)])


@scenario
def under_functionalize(s):
    class Changing(s.Function):
        @staticmethod
        def forward(x):
            y = x.clone()
            y[0].mul_(2)
            return y

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = s.randn(3, 2, requires_grad=True)
    for remove in ("mutations", "mutations_and_views"):
        s.outcome(remove, functionalize(lambda x: Changing.apply(x).add_(1), remove=remove), x)
    s.outcome("gradient", lambda: torch.func.grad(lambda x: functionalize(Changing.apply)(x).sum())(x.detach()))


@scenario
def fakes_and_reals_by_turns(s):
    """One class is called on both, and what is remembered about it has to suit both."""
    note = noting(s)
    Product = matmul(s.Function, note)
    x, y = s.randn(2, 3, requires_grad=True), s.randn(3, 4, requires_grad=True)
    for _ in range(2):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            output = Product.apply(mode.from_tensor(x), y)[0]
            note("fake", output)
            s.record("is fake", isinstance(output, FakeTensor))
        Product.apply(x, y)[0].sum().backward()
        s.record("real", x.grad, y.grad)
