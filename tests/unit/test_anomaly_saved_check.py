# SPDX-License-Identifier: BSD-3-Clause
"""check_saved: values that changed after they were saved, though their version did not."""

import gc
import linecache
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import torch_ext
from torch_ext import _C, anomaly


@pytest.fixture(autouse=True)
def quiet(recwarn):
    """Failing backwards warn."""
    yield
    assert _C.set_anomaly_checks(False, False) == (False, False, False, False, -1)


def make(function):
    class Product(function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            return grad * y, grad * x

    return Product


Product, TorchsProduct = make(torch_ext.Function), make(torch.autograd.Function)


class Writer(torch_ext.Function):
    """Writes to its input and does not say so."""

    @staticmethod
    def forward(ctx, x, y):
        x.detach().numpy()[0] = 9
        return y * 1

    @staticmethod
    def backward(ctx, grad):
        return None, grad


# --- Who writes -----------------------------------------------------------------------------------------


def by_data(y, x):
    y.data.fill_(9)


def by_data_of_an_item(y, x):
    y.data[0] += 1


def by_numpy(y, x):
    y.detach().numpy()[-1] = 9


def by_dlpack(y, x):
    torch.from_dlpack(torch.utils.dlpack.to_dlpack(y.detach())).mul_(3)


def by_storage(y, x):
    y.untyped_storage()[0] = 77


def by_a_pointer(y, x):
    import ctypes

    ctypes.memset(y.data_ptr(), 1, 2)


def by_set_data(y, x):
    y.data = torch.full_like(y, 5)


def by_a_function(y, x):
    Writer.apply(y, x)


def by_swapping(y, x):
    """The same numbers in another order."""
    y.data.copy_(y.detach().flip(0).clone())


WRITERS = [
    by_data,
    by_data_of_an_item,
    by_numpy,
    by_dlpack,
    by_storage,
    by_a_pointer,
    by_set_data,
    by_a_function,
    by_swapping,
]

# --- Who has saved ----------------------------------------------------------------------------------------


def operator(y, x):
    return x * y  # saved


def a_function(y, x):
    return Product.apply(x, y)  # saved


def torchs_function(y, x):
    return TorchsProduct.apply(x, y)  # saved


def inside_a_composite(y, x):
    return nn.functional.linear(x, y[None])  # saved


HOLDERS = [operator, a_function, torchs_function, inside_a_composite]
NAMES = {operator: "other", a_function: "tensors[1]", torchs_function: "tensors[1]", inside_a_composite: "mat2"}


def make_y():
    return torch.tensor([1.0, 2.0, 3.0], requires_grad=True) * 2  # made


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("holder", HOLDERS)
def test_row(holder, writer):
    if writer is by_set_data and holder is inside_a_composite:
        return  # what is saved is a view, which keeps the old memory
    x = torch.ones(3, requires_grad=True)
    with anomaly.set_detect_anomaly(True, check_saved=True):
        y = make_y()
        out = holder(y, x)
        writer(y, x)
        with pytest.raises(RuntimeError, match="though its version has not") as raised:
            out.sum().backward()
    report = anomaly.last_report()
    assert report.found == "saved"
    assert report.modified.origin.name == report.node_name
    assert report.modified.saved == NAMES[holder]
    assert report.modified.expected == report.modified.version
    line = [frame.line for frame in report.frames if frame.file == __file__][-1]
    assert linecache.getline(__file__, line).endswith("# saved\n")
    assert x.grad is None
    assert any("no operator that autograd knows of" in note for note in raised.value.__notes__)


# --- Kinds of tensors -----------------------------------------------------------------------------------


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.complex128,
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["dense", "strided", "expanded", "transposed", "scalar"])
def test_kinds(dtype, layout):
    base = torch.ones(4, 6, dtype=dtype)
    y = {
        "dense": base,
        "strided": base[1::2, ::3],
        "expanded": base[:, :1].expand(4, 6),
        "transposed": base.t(),
        "scalar": base[2, 2],
    }[layout]
    x = torch.ones(y.shape, dtype=dtype, requires_grad=True)
    with anomaly.set_detect_anomaly(True, check_saved=True):
        out = (x * y).sum().abs()
        base.data.add_(0)  # changes nothing
        out.backward()
        out = (x * y).sum().abs()
        base.data.select(0, 3 if layout == "strided" else 2).fill_(2)
        with pytest.raises(RuntimeError, match="though its version has not"):
            out.backward()


@pytest.mark.parametrize("kind", ["mask", "index", "sparse", "nan", "empty"])
def test_other_kinds(kind):
    x = torch.ones(3, requires_grad=True)
    with anomaly.set_detect_anomaly(True, check_nan=False, check_saved=True):
        if kind == "mask":
            saved = torch.tensor([True, False, True])
            out = torch.where(saved, x, 0)
            saved.numpy()[0] = False
        elif kind == "index":
            saved = torch.tensor([0, 1])
            out = x[saved]
            saved.numpy()[0] = 2
        elif kind == "sparse":
            saved = torch.eye(3).to_sparse()
            out = torch.sparse.mm(saved, x[:, None])
            saved._values().data[0] = 5
        elif kind == "nan":
            saved = torch.tensor([float("nan"), 1, 2])
            (x * saved).sum().backward()  # equal to itself, bit by bit
            out = x * saved
            saved.data[0] = 0
        else:
            saved = torch.empty(0)
            (x[:0] * saved).sum().backward()
            return
        with pytest.raises(RuntimeError, match="though its version has not"):
            out.sum().backward()


def test_what_is_beside_a_view_does_not_count():
    buffer = torch.ones(4, 2)
    x = torch.ones(4, requires_grad=True)
    with anomaly.set_detect_anomaly(True, check_saved=True):
        out = (x * buffer[:, 0]).sum()
        buffer.data[:, 1] = 7
        out.backward()


# --- What is not minded ---------------------------------------------------------------------------------


def test_torchs_own_error_stays():
    x = torch.ones(3, requires_grad=True)
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with anomaly.set_detect_anomaly(True, check_saved=True):
        loss = (x * weight).sum()
        weight.grad = torch.ones(3)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_running_statistics_are_torchs_to_change():
    norm = nn.BatchNorm1d(2)
    x = torch.randn(4, 2)
    with anomaly.set_detect_anomaly(True, check_saved=True):
        first = norm(x).square().sum()
        norm(x + 5)
        first.backward()


def test_hooks_of_the_user_do_not_run():
    ran = []
    x = torch.ones(3, requires_grad=True)
    y = torch.full((3,), 2.0)
    z = torch.full((3,), 3.0, requires_grad=True)
    with anomaly.set_detect_anomaly(True, check_saved=True):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: ran.append(1) or t):
            out = (x * y).sum()
        y.data.fill_(3)
        out.backward()  # not looked at
        assert ran == [1] * len(ran)
        unpacked = len(ran)
        out = torch.addcmul(x, x * 1, z)
        out.grad_fn._raw_saved_tensor1.register_hooks(lambda t: t, lambda t: ran.append(2) or t)
        z.data.fill_(4)
        with pytest.raises(RuntimeError, match="though its version has not") as raised:
            out.sum().backward()
    assert len(ran) == unpacked
    assert anomaly.last_report().modified.unchecked == 1
    assert "Not looked at: 1 more of what it saved, which a hook unpacks." in raised.value.__notes__[-1]


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints_and_double_backward(use_reentrant):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    with anomaly.set_detect_anomaly(True, check_saved=True):
        checkpoint(lambda x: (x * x).exp(), x, use_reentrant=use_reentrant).sum().backward()
        (grad,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        (grad * grad).sum().backward()
        # What a backward has made is looked at as well.
        (grad,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        x.data.fill_(7)
        with pytest.raises(RuntimeError, match="though its version has not"):
            grad.sum().backward()
    assert anomaly.last_report().parents


# --- That nothing else changes --------------------------------------------------------------------------


def test_it_keeps_no_tensor_and_leaves_no_hook():
    x = torch.ones(3, requires_grad=True)
    with anomaly.set_detect_anomaly(True, check_saved=True):
        y = torch.ones(3)
        ref = weakref.ref(y)
        out = x * y
        out.sum().backward()
        del y
        gc.collect()
        assert ref() is None
        z = (x * torch.ones(3)).sum()
        z.backward(retain_graph=True)
    calls = []
    z.grad_fn.register_prehook(lambda grads: calls.append(1))
    z.backward()
    assert calls == [1]


def test_only_what_is_made_in_the_mode_is_known():
    x = torch.ones(3, requires_grad=True)
    y = torch.ones(3)
    out = x * y
    with anomaly.set_detect_anomaly(True, check_saved=True):
        y.data.fill_(2)
        out.sum().backward()
    assert x.grad.tolist() == [2, 2, 2]


# --- What is said -----------------------------------------------------------------------------------------


def test_report():
    x = torch.ones(3, requires_grad=True)
    with anomaly.set_detect_anomaly(True, check_saved=True):
        y = make_y()
        out = operator(y, x).sum()
        y.data.fill_(9)
        with pytest.raises(RuntimeError) as raised:
            out.backward()
    assert str(raised.value) == (
        "Function 'MulBackward0' needs a saved tensor whose values have changed, though its version has not."
    )
    name = __file__.rpartition("/")[2]
    saved = operator.__code__.co_firstlineno + 1
    made = make_y.__code__.co_firstlineno + 1
    assert raised.value.__notes__[-1].splitlines() == [
        f"MulBackward0, made at {name}:{saved}: return x * y  # saved",
        "needs what it saved as other (3), and the values of that have changed since.",
        f"That tensor was made by MulBackward0 at {name}:{made}: return torch.tensor([1.0...",
        "Its version is 0 still: no operator that autograd knows of has changed it.",
        "What helps: write to a clone() of it, or change it by an operator in place, and not through .data,",
        "numpy, DLPack or a pointer.",
    ]
    report = anomaly.last_report()
    assert (report.found, report.path) == ("saved", ("SumBackward0", "MulBackward0"))
    assert report.modified.maker.name == "MulBackward0"
    assert '"found": "saved"' in report.to_json()
