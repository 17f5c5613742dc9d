# SPDX-License-Identifier: BSD-3-Clause
"""What torch_ext.Function has on every torch, and stock Functions have on newer ones only."""

import pytest
import torch
from torch.torch_version import TorchVersion

import torch_ext
from torch_ext import _compat

TORCH = TorchVersion(torch.__version__)


def scale(Function, **attributes):
    class Scale(Function):
        vars().update(attributes)

        @staticmethod
        def forward(ctx, x, factor=2, shift=0):
            ctx.factor = factor
            return x * factor + shift

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor, None, None

    return Scale


def scale_with_setup(Function):
    class Scale(Function):
        @staticmethod
        def forward(x, factor=2, shift=0):
            return x * factor + shift

        @staticmethod
        def setup_context(ctx, inputs, output):
            _, ctx.factor, _ = inputs

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor, None, None

    return Scale


@pytest.fixture
def x():
    return torch.tensor([1.0, 2.0], requires_grad=True)


@pytest.mark.parametrize("make", [scale, scale_with_setup])
def test_keyword_arguments(make, x):
    y = make(torch_ext.Function).apply(x=x, factor=3)
    assert y.tolist() == [3, 6]
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.tolist() == [3, 3]
    assert make(torch_ext.Function).apply(x, shift=1, factor=3).tolist() == [4, 7]


@pytest.mark.parametrize("make", [scale, scale_with_setup])
def test_wrong_keyword_arguments(make, x):
    Scale = make(torch_ext.Function)
    for arguments, keywords in (((x,), {"other": 1}), ((x,), {"x": x}), ((), {"factor": 3}), ((x, 3, 4, 5), {"x": 6})):
        with pytest.raises(TypeError):
            Scale.apply(*arguments, **keywords)


def test_keyword_arguments_under_a_transform(x):
    Scale = scale_with_setup(torch_ext.Function)
    gradient = torch.func.grad(lambda x: Scale.apply(x, factor=3, shift=0).sum())(x.detach())
    assert gradient.tolist() == [3, 3]


def test_keyword_only_parameters_keep_their_defaults(x):
    class Scale(torch_ext.Function):
        @staticmethod
        def forward(ctx, x, *, factor=2):
            return x * factor

    assert Scale.apply(x).tolist() == [2, 4]


def test_boxed_gradients(x):
    seen = []

    class Splits(torch_ext.Function):
        boxed_grads_call = True

        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, grads):
            seen.append(type(grads))
            a = grads.pop(0)
            return a * 2 + grads.pop(0) * 3

    a, b = Splits.apply(x)
    (a + b).sum().backward()
    assert x.grad.tolist() == [5, 5]
    assert a.grad_fn.apply(torch.ones(2), torch.ones(2)).tolist() == [5, 5]
    assert seen == [list, list]
    assert not torch_ext.Function.boxed_grads_call


def test_saved_tensors_are_let_go_of_on_access(x):
    class Square(torch_ext.Function):
        clear_saved_tensors_on_access = True

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            with pytest.raises(RuntimeError, match="can only be accessed once"):
                ctx.saved_tensors
            return 2 * x * grad

    Square.apply(x).sum().backward()
    assert x.grad.tolist() == [2, 4]


def declaring(Function, *dtypes, outputs=lambda x: (x.to(torch.bfloat16), x * 2)):
    class Declares(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_output_grad_dtype(*dtypes)
            return outputs(x)

        @staticmethod
        def backward(ctx, *grads):
            ctx.seen = [grad.dtype for grad in grads]
            return torch.ones(2)

    return Declares


def gradient_dtypes(Function, x):
    outputs = Function.apply(x)
    torch.autograd.backward(outputs, [torch.ones(2, dtype=torch.float64) for _ in outputs])
    return outputs[0].grad_fn.seen


def test_gradient_dtypes_of_outputs(x):
    assert gradient_dtypes(declaring(torch_ext.Function, torch.float32, None), x) == [torch.float32, torch.float64]
    assert gradient_dtypes(declaring(torch_ext.Function, None, torch.bfloat16), x) == [torch.float64, torch.bfloat16]


@pytest.mark.parametrize(
    "dtypes, message",
    [
        ((torch.float32,), "the Function returned 2 values but 1 declarations were provided"),
        ((torch.float32, 3), "expects each declaration to be a torch.dtype or None, but got int"),
    ],
)
def test_gradient_dtypes_that_do_not_fit(x, dtypes, message):
    with pytest.raises(RuntimeError, match=message):
        declaring(torch_ext.Function, *dtypes).apply(x)


def test_gradient_dtype_of_an_output_without_gradient(x):
    Declares = declaring(torch_ext.Function, None, torch.float32, outputs=lambda x: (x * 2, "text"))
    with pytest.raises(RuntimeError, match="got a concrete dtype for output 1, but that output is not a diff"):
        Declares.apply(x)


def test_gradient_dtypes_are_declared_once(x):
    def twice(ctx):
        ctx.set_output_grad_dtype(None)
        ctx.set_output_grad_dtype(None)

    class Twice(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            twice(ctx)

    with pytest.raises(RuntimeError, match="set_output_grad_dtype can only be called once"):
        Twice.apply(x)


def test_buffers_of_input_gradients(x):
    class Reads(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            ctx.buffers = ctx.input_grad_buffers
            return grad * 2

    y = Reads.apply(x)
    if TORCH >= "2.15":
        (y + x * 3).sum().backward()
        assert len(y.grad_fn.buffers) == 1
        return
    version = torch.__version__.replace("+", r"\+")
    with pytest.raises(AttributeError, match=f"ctx.input_grad_buffers needs torch 2.15 or newer.* torch {version}"):
        y.sum().backward()
    assert not hasattr(y.grad_fn, "input_grad_buffers")


def test_stock_functions_get_nothing(x):
    def seen(Function):
        Scale = scale(Function, boxed_grads_call=True)
        y = Scale.apply(x)
        names = [name for name in (*_compat.ctx_backports(), "boxed_grads_call") if hasattr(y.grad_fn, name)]
        try:
            named = Scale.apply(x, factor=3)
        except TypeError as error:
            named = str(error)
        return names, str(named)

    before = seen(torch.autograd.Function)
    with torch_ext.installed():
        assert seen(torch.autograd.Function) == before
    assert seen(torch_ext.accelerate(scale(torch.autograd.Function))) == before  # the base class of another one


def test_names_on_a_stock_ctx_are_its_own(x):
    """On a torch without set_output_grad_dtype its attribute has no meaning."""

    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.output_grad_dtypes = "mine"
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    with torch_ext.installed():
        if TORCH >= "2.14":
            with pytest.raises(RuntimeError, match="expects the declarations to be a tuple"):
                Keeps.apply(x)
        else:
            assert Keeps.apply(x).grad_fn.output_grad_dtypes == "mine"
