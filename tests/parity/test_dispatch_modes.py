# SPDX-License-Identifier: BSD-3-Clause
"""Modes that see operators or functions, default device and dtype, and tensor subclasses of torch's own."""

import torch
import torch._dynamo  # torch does so on the first use of a dispatch mode: its classes are no leak
from harness import scenario
from harness.small_functions import make_product, make_square
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


def make_function_mode(s, label="function"):
    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            s.record(label, getattr(function, "__name__", "?"), len(args), types)
            return function(*args, **(kwargs or {}))

    return Mode()


def make_dispatch_mode(s, label="dispatch"):
    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            s.record(label, operator)
            return operator(*args, **(kwargs or {}))

    return Mode()


@scenario
def function_mode_sees_what_forward_calls(s):
    x = s.randn(2, requires_grad=True)
    with make_function_mode(s):
        y = make_square(s.Function).apply(x)
        y.sum().backward()
        make_product(s.Function).apply(x, x).sum().backward()
    s.record("input", x)


@scenario
def dispatch_mode_sees_what_forward_calls(s):
    x = s.randn(2, requires_grad=True)
    with make_dispatch_mode(s):
        y = make_square(s.Function).apply(x)
        y.sum().backward()
    s.record("input", x)


@scenario
def nested_modes(s):
    x = s.randn(2, requires_grad=True)
    with make_dispatch_mode(s, "outer"), make_dispatch_mode(s, "inner"), make_function_mode(s):
        s.record("output", make_product(s.Function).apply(x, x))


@scenario
def mode_that_changes_results(s):
    class Doubles(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            result = operator(*args, **(kwargs or {}))
            return result * 2 if operator is torch.ops.aten.mul.Tensor else result

    x = s.randn(2, requires_grad=True)
    with Doubles():
        y = make_square(s.Function).apply(x)
    s.record("output", y)


@scenario
def mode_entered_in_forward(s):
    class Enters(s.Function):
        @staticmethod
        def forward(ctx, x):
            with make_dispatch_mode(s), make_function_mode(s):
                return x * 2

        @staticmethod
        def backward(ctx, grad):
            with make_dispatch_mode(s):
                return grad * 2

    s.differentiate("enters", Enters.apply, s.randn(2, requires_grad=True))


@scenario
def mode_that_raises(s):
    class Raises(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            raise KeyError(str(operator))

    class RaisesOnFunctions(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            raise KeyError("function")

    x = s.randn(2, requires_grad=True)
    for mode in Raises, RaisesOnFunctions:

        def call(mode=mode):
            with mode():
                make_square(s.Function).apply(x)

        s.raises(mode.__name__, call)
    s.differentiate("still works", make_square(s.Function).apply, x)


@scenario
def backward_under_a_mode_that_raises(s):
    class Raises(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            raise KeyError(str(operator))

    x = s.randn(2, requires_grad=True)
    y = make_square(s.Function).apply(x)

    def backward():
        with Raises():
            y.backward(y.detach())

    s.raises("backward", backward)


@scenario
def fake_tensors(s):
    with FakeTensorMode():
        x = torch.empty(2, 3, device=s.device, requires_grad=True)
        y = make_product(s.Function).apply(x, x)
        s.record("output", type(y), y.shape, y.device, y.requires_grad, y.grad_fn)
        y.sum().backward()
        s.record("gradient", type(x.grad), x.grad.shape)


@scenario
def fake_tensor_with_a_real_one(s):
    mode = FakeTensorMode()
    fake = mode.from_tensor(s.randn(2))
    s.raises("outside of the mode", make_product(s.Function).apply, fake, s.randn(2))


@scenario
def data_dependent_forward_on_fake_tensors(s):
    class Item(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * x.sum().item()

        @staticmethod
        def backward(ctx, grad):
            return grad

    with FakeTensorMode():
        s.raises("item", Item.apply, torch.empty(2, requires_grad=True))


@scenario
def meta_tensors(s):
    x = torch.empty(2, 3, device="meta", requires_grad=True)
    y = make_product(s.Function).apply(x, x)
    s.record("output", y.shape, y.device, y.grad_fn)
    y.sum().backward()
    s.record("gradient", x.grad.shape, x.grad.device)


@scenario
def default_device(s):
    class Makes(s.Function):
        @staticmethod
        def forward(ctx, x):
            s.record("made in forward", torch.ones(2).device)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("made in backward", torch.ones(2).device)
            return grad * 2

    x = s.randn(2, requires_grad=True)
    with torch.device("meta"):
        y = Makes.apply(x)
        y.backward(torch.ones_like(y, device=s.device))
    s.record("input", x)
    Makes.apply(x)


@scenario
def default_dtype(s):
    class Makes(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x + torch.ones(2, device=x.device)

        @staticmethod
        def backward(ctx, grad):
            return torch.ones(2, device=grad.device)

    torch.set_default_dtype(torch.float64)
    try:
        s.differentiate("double", Makes.apply, s.randn(2, requires_grad=True))
        s.differentiate("float", Makes.apply, s.randn(2, dtype=torch.float32, requires_grad=True))
    finally:
        torch.set_default_dtype(torch.float32)


@scenario
def deterministic_algorithms(s):
    class Looks(s.Function):
        @staticmethod
        def forward(ctx, x):
            s.record("forward", torch.are_deterministic_algorithms_enabled())
            return torch.empty_like(x)

        @staticmethod
        def backward(ctx, grad):
            s.record("backward", torch.are_deterministic_algorithms_enabled())
            return grad

    before = torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(True)
    try:
        s.differentiate("looks", Looks.apply, s.randn(2, requires_grad=True))
    finally:
        torch.set_deterministic_debug_mode(before)


@scenario
def two_tensor_subclass(s):
    from torch.testing._internal.two_tensor import TwoTensor

    x = TwoTensor(s.randn(2), s.randn(2)).requires_grad_()
    y = make_square(s.Function).apply(x)
    s.record("output", type(y), y.a, y.b, y.grad_fn)
    y.sum().backward()
    s.record("gradient", type(x.grad), x.grad.a, x.grad.b)


@scenario
def disabled_torch_function(s):
    class Sub(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            s.record("function", getattr(function, "__name__", "?"))
            return super().__torch_function__(function, types, args, kwargs)

    x = s.randn(2).as_subclass(Sub).requires_grad_()
    y = make_square(s.Function).apply(x)
    s.record("type", type(y))
    with torch._C.DisableTorchFunctionSubclass():
        s.record("type without", type(make_square(s.Function).apply(x)))


@scenario
def python_dispatch_snapshot_in_backward(s):
    # What the engine restores if backward runs under a mode.
    class Looks(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("modes", torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack())
            return grad * 2

    x = s.randn(2, requires_grad=True)
    y = Looks.apply(x)
    with make_dispatch_mode(s), make_function_mode(s):
        y.backward(torch.ones_like(y))
    Looks.apply(x).backward(torch.ones_like(y))
