# SPDX-License-Identifier: BSD-3-Clause
"""Tensor subclasses with __torch_function__ and __torch_dispatch__."""

import torch
from harness import scenario
from torch.utils._pytree import tree_map_only


class Plain(torch.Tensor):
    """A subclass with torch's own __torch_function__, which keeps the type."""


class Opaque(torch.Tensor):
    """A subclass whose operations return ordinary tensors."""

    __torch_function__ = torch._C._disabled_torch_function_impl


def make_function_logger(s):
    """A subclass that records each function called with it."""

    class Logger(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            s.record("function", getattr(function, "__name__", "?"))
            return super().__torch_function__(function, types, args, kwargs or {})

    return Logger


def make_wrapper(s):
    """A wrapper subclass that records each operator dispatched to it."""

    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(
                cls, inner.shape, dtype=inner.dtype, device=inner.device, requires_grad=inner.requires_grad
            )

        def __init__(self, inner):
            self.inner = inner.detach()

        def __repr__(self):
            return f"Wrapper({self.inner.tolist()})"

        @classmethod
        def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
            s.record("dispatch", str(operator))
            unwrap = lambda t: t.inner  # noqa: E731
            args, kwargs = tree_map_only(cls, unwrap, args), tree_map_only(cls, unwrap, kwargs or {})
            return tree_map_only(torch.Tensor, cls, operator(*args, **kwargs))

    return Wrapper


def doubling(s):
    class Double(s.Function):
        @staticmethod
        def forward(ctx, x):
            s.record("type in forward", type(x))
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("types in backward", type(grad), type(ctx.saved_tensors[0]))
            return grad * 2

    return Double


def product(s):
    class Product(s.Function):
        @staticmethod
        def forward(x, y):
            return x * y

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            return grad * y, grad * x

    return Product


@scenario
def plain_subclass(s):
    x = s.randn(2).as_subclass(Plain).requires_grad_()
    y = doubling(s).apply(x)
    s.record("output", y)
    y.sum().backward()
    s.record("leaf", x)


@scenario
def subclass_that_hides_torch_function(s):
    x = s.randn(2).as_subclass(Opaque).requires_grad_()
    y = doubling(s).apply(x)
    s.record("output", y)
    y.sum().backward()
    s.record("leaf", x)


@scenario
def subclass_next_to_a_tensor(s):
    x = s.randn(2).as_subclass(Plain).requires_grad_()
    y = s.randn(2, requires_grad=True)
    s.differentiate("first", product(s).apply, x, y)
    s.differentiate("second", product(s).apply, y, x)


@scenario
def apply_is_not_overridable(s):
    Logger = make_function_logger(s)
    x = s.randn(2).as_subclass(Logger).requires_grad_()
    y = doubling(s).apply(x)
    s.record("type", type(y))
    y.sum().backward()
    s.record("gradient", x.grad)


@scenario
def torch_function_that_raises(s):
    class Raises(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            raise ValueError("no functions")

    x = s.randn(2).as_subclass(Raises)
    s.raises("call", doubling(s).apply, x)


@scenario
def torch_function_that_is_looked_at_by_ctx(s):
    Logger = make_function_logger(s)

    class Marks(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            ctx.save_for_backward(x)
            ctx.save_for_forward(x)
            ctx.mark_non_differentiable()
            return x

        @staticmethod
        def backward(ctx, grad):
            ctx.saved_tensors
            return grad

    x = s.randn(2).as_subclass(Logger)
    y = Marks.apply(x)
    s.record("same", y is x)


@scenario
def subclass_input_returned(s):
    class Same(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad

    x = s.randn(2).as_subclass(Plain).requires_grad_()
    y = Same.apply(x)
    s.record("output", y, y is x)
    y.sum().backward()


@scenario
def subclass_view_returned(s):
    class View(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            return grad

    x = s.randn(2).as_subclass(Plain).requires_grad_()
    s.record("output", View.apply(x.clone()))


@scenario
def subclass_made_in_forward(s):
    class Make(s.Function):
        @staticmethod
        def forward(ctx, x):
            return (x * 2).as_subclass(Plain)

        @staticmethod
        def backward(ctx, grad):
            s.record("gradient", type(grad))
            return grad

    x = s.randn(2, requires_grad=True)
    y = Make.apply(x)
    s.record("output", y)
    y.sum().backward()
    s.record("leaf", x)


@scenario
def subclass_dirty(s):
    class AddOne(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.add_(1)

        @staticmethod
        def backward(ctx, grad):
            return grad

    a = s.randn(2).as_subclass(Plain).requires_grad_().clone()
    y = AddOne.apply(a)
    s.record("output", y, y is a)
    y.sum().backward()


@scenario
def subclass_gradient(s):
    class Returns(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad.as_subclass(Plain)

    x = s.randn(2, requires_grad=True)
    Returns.apply(x).sum().backward()
    s.record("leaf", x)


@scenario
def subclass_of_parameter(s):
    class Special(torch.nn.Parameter):
        pass

    p = Special(s.randn(2))
    y = doubling(s).apply(p)
    s.record("output", y)
    y.sum().backward()
    s.record("parameter", p)


@scenario
def wrapper_subclass(s):
    Wrapper = make_wrapper(s)
    x = Wrapper(s.randn(2)).requires_grad_()
    y = doubling(s).apply(x)
    s.record("output", type(y), y.requires_grad, y.grad_fn, y.inner)
    y.sum().backward()
    s.record("gradient", type(x.grad), x.grad.inner)


@scenario
def wrapper_subclass_with_setup_context(s):
    Wrapper = make_wrapper(s)
    x = Wrapper(s.randn(2)).requires_grad_()
    y = product(s).apply(x, x)
    s.record("output", type(y), y.inner)
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    s.record("gradient", type(grad), grad.inner, grad.grad_fn)


@scenario
def wrapper_subclass_input_returned(s):
    class Same(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad

    Wrapper = make_wrapper(s)
    x = Wrapper(s.randn(2)).requires_grad_()
    y = s.outcome("call", lambda: type(Same.apply(x)))
    s.record("type", y)


@scenario
def wrapper_subclass_gradient_materialized(s):
    Wrapper = make_wrapper(s)

    class Two(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, a, b):
            s.record("types", type(a), type(b))
            return a

    x = Wrapper(s.randn(2)).requires_grad_()
    Two.apply(x)[0].sum().backward()
    s.record("gradient", x.grad.inner)


@scenario
def wrapper_subclass_made_in_forward(s):
    Wrapper = make_wrapper(s)

    class Wrap(s.Function):
        @staticmethod
        def forward(ctx, x):
            return Wrapper(x)

        @staticmethod
        def backward(ctx, grad):
            s.record("gradient", type(grad))
            return grad.inner

    class Unwrap(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.inner * 1

        @staticmethod
        def backward(ctx, grad):
            s.record("gradient", type(grad))
            return Wrapper(grad)

    x = s.randn(2, requires_grad=True)
    y = Wrap.apply(x)
    s.record("wrapped", type(y), y.requires_grad, y.grad_fn)
    z = Unwrap.apply(y)
    s.record("unwrapped", z)
    z.sum().backward()
    s.record("leaf", x)


@scenario
def wrapper_subclass_saved(s):
    Wrapper = make_wrapper(s)

    class Saves(s.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(w)
            ctx.w = w
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            (w,) = ctx.saved_tensors
            s.record("saved", type(w), w is ctx.w, w.inner)
            return grad, None

    y = Saves.apply(s.randn(2, requires_grad=True), Wrapper(s.randn(2)))
    y.sum().backward()


@scenario
def wrapper_subclass_gradient_of_a_tensor(s):
    Wrapper = make_wrapper(s)

    class Returns(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return Wrapper(grad)

    x = s.randn(2, requires_grad=True)
    s.outcome("backward", lambda: Returns.apply(x).sum().backward())
    s.record("type", type(x.grad))


@scenario
def wrapper_subclass_that_raises(s):
    class Raises(torch.Tensor):
        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

        @classmethod
        def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
            raise ValueError(f"no {operator}")

    x = Raises(s.randn(2))
    s.raises("call", doubling(s).apply, x)

    class Same(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            return y * 2

        @staticmethod
        def backward(ctx, grad):
            return None, grad

    s.record("untouched", Same.apply(x, s.randn(2, requires_grad=True)))


@scenario
def two_subclasses(s):
    class Other(Plain):
        pass

    x, y = s.randn(2).as_subclass(Plain).requires_grad_(), s.randn(2).as_subclass(Other).requires_grad_()
    s.differentiate("product", product(s).apply, x, y)


@scenario
def subclass_with_a_grad_of_its_own(s):
    class WithGrad(torch.Tensor):
        @property
        def requires_grad(self):
            s.record("requires_grad looked up")
            return torch.Tensor.requires_grad.__get__(self)

    x = s.randn(2).as_subclass(WithGrad)
    y = doubling(s).apply(x)
    s.record("type", type(y))


@scenario
def class_swapped(s):
    x = s.randn(2, requires_grad=True)
    y = doubling(s).apply(x)
    y.__class__ = Plain
    s.record("output", y)
    y.sum().backward()
