# SPDX-License-Identifier: BSD-3-Clause
"""Anomaly mode reads the values of tensors only where there are any: without memory, operators would crash."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

import torch_ext
from torch_ext import _C, anomaly
from torch_ext.anomaly import rules
from torch_ext.anomaly.values import look
from torch_ext.compare.recording import differences, see


class Wrapper(torch.Tensor):
    """Has no memory of its own. Its operators run on what it wraps."""

    @staticmethod
    def __new__(cls, inner, strides=None, **options):
        strides = strides or inner.stride()
        self = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=strides, dtype=inner.dtype, device=inner.device, **options
        )
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        def inner(values):
            return [each.inner if isinstance(each, Wrapper) else each for each in values]

        return Wrapper(operator(*inner(args), **(kwargs or {})))


class Labelled(torch.Tensor):
    """Has memory of its own, and operators that nobody may run aside."""

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        raise AssertionError(f"{operator} was run")


class Answering(Wrapper):
    """Answers itself for its sizes, its device and its layout, which nobody may ask for aside."""

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        raise AssertionError(f"{operator} was run")


def answering(**options):
    return lambda: Answering(torch.ones(2, 3), **options)


def fake(**options):
    with FakeTensorMode(**options):
        return torch.ones(2, 3)


def labelled(tensor):
    return torch.Tensor._make_subclass(Labelled, tensor)


def away(tensor):
    """As a sharded parameter, whose memory is given back between uses."""
    tensor.untyped_storage().resize_(0)
    return tensor


def partly_away(tensor):
    tensor.untyped_storage().resize_(8)
    return tensor


UNREADABLE = {
    "wrapper": lambda: Wrapper(torch.ones(2, 3)),
    "wrapper that isn't contiguous": lambda: Wrapper(torch.ones(2, 3), (1, 2)),
    "large wrapper": lambda: Wrapper(torch.ones(1, 1).expand(1000, 1000), (1000, 1)),
    "wrapper of integers": lambda: Wrapper(torch.ones(2, 3, dtype=torch.long)),
    "wrapper that answers for its sizes": answering(dispatch_sizes_strides_policy="sizes"),
    "wrapper that answers for its strides": answering(dispatch_sizes_strides_policy="strides"),
    "wrapper that answers for its device": answering(dispatch_device=True),
    "wrapper that answers for its layout": answering(dispatch_layout=True),
    "fake": fake,
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    "meta": lambda: torch.ones(2, 3, device="meta"),
    "empty meta": lambda: torch.ones(0, 3, device="meta"),
    "away": lambda: away(torch.ones(2, 3)),
    "partly away": lambda: partly_away(torch.ones(200, 300)),
    "sparse with values away": lambda: torch.sparse_coo_tensor([[0, 1]], away(torch.ones(2)), (3,)),
    "nested": lambda: torch._nested_tensor_from_tensor_list([torch.ones(2), torch.ones(3)]),
}
READABLE = {
    "dense": lambda: torch.ones(2, 3),
    "view": lambda: torch.ones(4, 5)[1:3, 1:4],
    "expanded": lambda: torch.ones(1).expand(2, 3),
    "complex, conjugate": lambda: torch.ones(2, 3, dtype=torch.complex64).conj(),
    "integers": lambda: torch.ones(2, 3, dtype=torch.long),
    "subclass with memory": lambda: labelled(torch.ones(2, 3)),
    "sparse": lambda: torch.ones(2, 3).to_sparse(),
    "compressed": lambda: torch.ones(2, 3).to_sparse_csr(),
    "zeros without memory": lambda: torch._efficientzerotensor((2, 3)) + 0,
}
# Nothing has to be read of them.
EMPTY = {
    "empty": lambda: torch.ones(0, 3),
    "empty wrapper": lambda: Wrapper(torch.ones(0, 3)),
    "empty, away": lambda: away(torch.ones(0, 3)),
}


@pytest.fixture(autouse=True)
def quiet(recwarn):
    """Failing backwards warn; the parity scenarios look at that."""


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_unknown(kind):
    tensor = UNREADABLE[kind]()
    assert not _C.can_be_read(tensor)
    assert look(tensor) is None


@pytest.mark.parametrize("kind", READABLE)
def test_what_can_be_read_is_known(kind):
    tensor = READABLE[kind]()
    assert _C.can_be_read(tensor)
    assert look(tensor).largest == (0 if kind.startswith("zeros") else 1)


@pytest.mark.parametrize("kind", EMPTY)
def test_what_is_empty_is_known(kind):
    tensor = EMPTY[kind]()
    assert _C.can_be_read(tensor)
    assert look(tensor).largest == 0


def test_what_a_transform_gives_is_unknown():
    seen = []
    torch.func.vmap(lambda x: seen.append(look(x)) or x)(torch.ones(2))
    torch.func.grad(lambda x: seen.append(look(x)) or x.sum())(torch.ones(2))
    torch.func.functionalize(lambda x: seen.append(look(x)) or x)(torch.ones(2))
    assert seen == [None] * 3


def test_no_tensor():
    with pytest.raises(TypeError, match="int"):
        _C.can_be_read(3)


@pytest.mark.parametrize("base", [torch.autograd.Function, torch_ext.Function])
@pytest.mark.parametrize("kind", [*UNREADABLE, *READABLE, *EMPTY])
def test_a_failure_of_a_node_that_saved_it_is_reported(kind, base):
    class Fails(base):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(UNREADABLE.get(kind, READABLE.get(kind, EMPTY.get(kind)))())
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("on purpose")

    with anomaly.set_detect_anomaly(True), pytest.raises(ValueError, match="on purpose") as caught:
        Fails.apply(torch.ones(2, requires_grad=True)).sum().backward()
    assert any("FailsBackward" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_nothing_is_computed_again_from_it(kind):
    product = torch.ones(2, 3, requires_grad=True) * torch.ones(2, 3)
    saved = {"self": torch.ones(2, 3), "other": torch.ones(2, 3)}
    assert rules.replay(product.grad_fn, saved, {}).sum() == 6
    for name in saved:
        assert rules.replay(product.grad_fn, {**saved, name: UNREADABLE[kind]()}, {}) is None


def test_a_leaf_whose_memory_is_away():
    """It isn't saved: its product with a constant needs only that."""
    weight = torch.ones(2, 3, requires_grad=True)
    with anomaly.set_detect_anomaly(True):
        loss = ((weight * torch.ones(2, 3)) * torch.zeros(2, 3)).sqrt().sum() * 0
        away(weight.detach())
        with pytest.raises(RuntimeError, match="returned nan values"):
            loss.backward()


def test_what_cannot_be_read_is_compared_without():
    def record(tensor):
        return {"output": see(tensor)}

    assert not list(differences(record(away(torch.ones(2))), record(away(torch.zeros(2)))))
    for shape in ((2, 3), (0, 3)):
        assert not list(differences(*[record(torch.ones(shape, device="meta")) for _ in range(2)]))
    ((what, stock, ours),) = differences(record(torch.ones(2)), record(away(torch.zeros(2))))
    assert (what, stock, ours) == ("output: values", "there", "not there")
