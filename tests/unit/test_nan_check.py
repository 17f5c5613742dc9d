# SPDX-License-Identifier: BSD-3-Clause
"""The operators by which the engine looks for NaN go by kernels of ours where nobody can tell.

The oracle is torch's own kernel, which runs outside of a backward.
"""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torch_ext

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int32, torch.bool)
SIZES = ((), (0,), (1,), (63,), (64,), (65,), (200,), (3, 0), (7, 11), (2, 3, 5), (2, 3, 4, 5))


def special(dtype):
    """Numbers at the limits, all kinds of NaN among them."""
    if not dtype.is_floating_point:
        return torch.tensor([0, 1]).to(dtype)
    info = torch.finfo(dtype)
    numbers = torch.tensor([0.0, -0.0, 1.0, torch.inf, -torch.inf, info.max, info.min, info.tiny], dtype=dtype)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    infinity = numbers[3].view(bits)
    sign = torch.iinfo(bits).min
    nan = torch.stack([infinity + 1, infinity | (infinity // 2), (infinity + 1) | sign, infinity * 0 - 1]).view(dtype)
    return torch.cat([numbers, nan])


def whole(dtype, size):
    count = torch.Size(size).numel()
    numbers = special(dtype)
    return numbers.repeat(count // len(numbers) + 1)[:count].reshape(size)


def with_one_nan(dtype, size, where):
    tensor = torch.zeros(size, dtype=dtype)
    if tensor.numel():
        tensor.reshape(-1)[{"first": 0, "middle": tensor.numel() // 2, "last": -1}[where]] = torch.nan
    return tensor


LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(0, -1) if x.dim() > 1 else x,
    "permuted": lambda x: x.permute(*range(1, x.dim()), 0) if x.dim() > 1 else x,
    "expanded": lambda x: x.unsqueeze(0).expand(3, *x.shape),
    "every second": lambda x: x[::2] if x.dim() else x,
    "flipped narrow": lambda x: x.narrow(0, 1, x.shape[0] - 1) if x.dim() and x.shape[0] > 1 else x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last) if x.dim() == 4 else x,
    "of size one": lambda x: x[:1].transpose(0, -1) if x.dim() > 1 else x,
    "strange strides of size one": lambda x: x.reshape(-1).as_strided((1, x.numel()), (7, 1)),
    "conjugated": lambda x: x.conj() if x.is_complex() else x,
    "negated": lambda x: x if x.dtype is torch.bool else torch._neg_view(x),
    "sparse": lambda x: x.to_sparse() if x.dim() else x,
    "requires grad": lambda x: x.clone().requires_grad_() if x.is_floating_point() else x,
}


def facts(tensor):
    if tensor.layout is torch.sparse_coo:
        return tensor.dtype, tensor.shape, tensor.to_dense().tolist()
    storage = tensor.untyped_storage().nbytes()
    return (
        tensor.dtype,
        tensor.shape,
        tensor.stride(),
        tensor.storage_offset(),
        storage,
        tensor.tolist(),
        (
            tensor.requires_grad,
            tensor.is_leaf,
            tensor._version,
        ),
    )


def in_backward(call):
    """What ``call`` returns in a backward in anomaly mode, on a thread that observes operators."""
    results = []

    class Call(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            assert torch_ext._C.observes_operators()
            results.append(call())
            return grad

    if torch_ext._compat.has_compiled():
        torch._dynamo.reset()
    with torch_ext.anomaly.set_detect_anomaly(True):
        Call.apply(torch.ones(1, requires_grad=True)).backward()
    (result,) = results
    return result


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_isnan_is_torchs(dtype, layout):
    tensors = [LAYOUTS[layout](whole(dtype, size)) for size in SIZES]
    expected = [facts(torch.isnan(tensor)) for tensor in tensors]
    assert in_backward(lambda: [facts(torch.isnan(tensor)) for tensor in tensors]) == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_is_any_true_is_torchs(layout):
    def flags():
        for size, where in itertools.product(SIZES, ("first", "middle", "last", "nowhere")):
            flag = torch.zeros(size, dtype=torch.bool)
            if where != "nowhere":
                flag = with_one_nan(torch.float32, size, where).isnan()
            try:
                yield LAYOUTS[layout](flag)
            except RuntimeError:  # there is no such flag
                continue

    def ask(tensor):
        try:
            return facts(torch._is_any_true(tensor))
        except Exception as error:
            return type(error), str(error)

    tensors = list(flags())
    expected = [ask(tensor) for tensor in tensors]
    assert in_backward(lambda: [ask(tensor) for tensor in tensors]) == expected
    numbers = torch.ones(3)
    assert in_backward(lambda: ask(numbers)) == ask(numbers)


def loss_with(gradient):
    """A loss whose backward passes this gradient on from its only custom node."""

    class Give(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, grad):
            return gradient

    return Give.apply(torch.zeros(gradient.shape, dtype=gradient.dtype, requires_grad=True))


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("size", [(1,), (64,), (65,), (1000,), (7, 11)])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels last"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64], ids=str
)
@pytest.mark.filterwarnings("ignore:Error detected in")
def test_one_nan_is_found(dtype, layout, size, where):
    if torch_ext._compat.has_compiled():
        torch._dynamo.reset()
    good = loss_with(LAYOUTS[layout](torch.ones(size, dtype=dtype)))
    bad = loss_with(LAYOUTS[layout](with_one_nan(dtype, size, where)))
    with torch_ext.anomaly.set_detect_anomaly(True):
        torch.ones(1, requires_grad=True).sum().backward()  # observes from here on
        assert torch_ext._C.observes_operators()
        good.backward(torch.ones_like(good))
        with pytest.raises(RuntimeError, match=r"^Function 'GiveBackward' returned nan values in its 0th output"):
            bad.backward(torch.ones_like(bad))


# --- Somebody could tell -------------------------------------------------------------------------------

MODES = (torch.autograd.set_detect_anomaly, torch_ext.anomaly.set_detect_anomaly)


def run(mode):
    """A backward in this anomaly mode, on a thread that observes operators if it is ours."""
    if torch_ext._compat.has_compiled():
        torch._dynamo.reset()
    with mode(True):
        loss = (torch.ones(3, requires_grad=True) * 2).sum()
        assert torch_ext._C.observes_operators() is (mode is MODES[1])
        loss.backward()


class Dispatched(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append(str(func))
        return func(*args, **(kwargs or {}))


def dispatched(mode):
    with Dispatched() as seen:
        run(mode)
    return seen.calls


def profiled(mode):
    with torch.profiler.profile() as profile:
        run(mode)
    return [event.name for event in profile.events() if event.name.startswith("aten::")]


@pytest.mark.parametrize("watch", [dispatched, profiled])
def test_who_watches_sees_torchs_calls(watch):
    stock, ours = map(watch, MODES)
    assert any("isnan" in name for name in stock)
    assert ours == stock


# What a kernel of somebody's own returns.
KERNELS = {
    "isnan": lambda x: torch.from_numpy(x.numpy() != x.numpy()),
    "ne.Tensor": lambda x, y: torch.from_numpy(x.numpy() != y.numpy()),
    "_is_any_true": lambda x: torch.tensor(x.numpy().any().item()),
    "any": lambda x: torch.tensor(x.numpy().any().item()),
}


@pytest.mark.parametrize("key", ["CPU", "AutogradCPU"])
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.filterwarnings("ignore:Warning only once for all operators")
def test_a_kernel_that_somebody_has_replaced_is_called(name, key):
    calls = []

    def kernel(*args):
        calls.append(args[0].shape)
        with torch._C._AutoDispatchBelowAutograd():
            return KERNELS[name](*args)

    run(MODES[1])  # looks at what torch has, if nobody has before
    library = torch.library.Library("aten", "IMPL")
    try:
        library.impl(name, kernel, key)
        run(MODES[0])
        stock = calls[:]
        calls.clear()
        run(MODES[1])
    finally:
        library._destroy()
    assert calls == stock
    assert stock or (name, key) in {("ne.Tensor", "AutogradCPU"), ("any", "AutogradCPU")}, "these are below autograd"
