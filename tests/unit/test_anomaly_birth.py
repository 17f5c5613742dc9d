# SPDX-License-Identifier: BSD-3-Clause
"""Where a report says that values stopped being finite."""

from typing import ClassVar

import pytest
import torch

import torch_ext
from torch_ext import anomaly
from torch_ext.anomaly.facts import Value
from torch_ext.anomaly.values import look


def born(forward, **options):
    """``born`` in the report on the NaN in backward of forward()'s result."""
    with anomaly.set_detect_anomaly(True), pytest.raises(RuntimeError, match="returned nan values") as raised:
        forward().sum().backward(**options)
    report = anomaly.last_report()
    (note,) = [note for note in raised.value.__notes__ if not note.startswith(("Forward call", "The forward call"))]
    if report.born is not None:
        assert report.born.name in note
    return report.born


@pytest.fixture(autouse=True)
def quiet(recwarn):
    """Failing backwards warn; the parity scenarios look at that."""


def numbers(tensor):
    value = look(tensor)
    return value.nans, value.infs


def leaf(*values):
    return torch.tensor(values, requires_grad=True)


def log(x):
    return x.log()


def test_operator_whose_result_a_later_one_saved():
    birth = born(lambda: log(leaf(-1.0, 2.0)).sin() * leaf(1.0, 1.0))
    seen = "the result of LogBackward0, computed again"
    assert (birth.name, birth.exact, birth.produced, birth.tensor) == ("LogBackward0", True, True, seen)
    assert (birth.nans, birth.infs) == (1, 0)
    assert (birth.frames[-1].function, birth.frames[-1].source) == ("log", "return x.log()")


def test_operator_that_saved_its_own_result():
    birth = born(lambda: leaf(1000.0).exp() * 0, retain_graph=True)
    assert (birth.name, birth.produced, birth.tensor) == ("ExpBackward0", True, "result of ExpBackward0")
    assert (birth.nans, birth.infs) == (0, 1)


def test_the_earliest_of_several():
    birth = born(lambda: (log(leaf(-1.0)).sin().exp() + 1).cos() * leaf(1.0))
    assert birth.name == "LogBackward0"


def test_parameter_that_is_not_finite():
    birth = born(lambda: torch.nn.functional.linear(torch.ones(1, 1), leaf(float("nan")).reshape(1, 1)) * leaf(1.0))
    assert birth.name == "torch::autograd::AccumulateGrad"
    assert (birth.produced, birth.tensor) == (False, "variable of torch::autograd::AccumulateGrad")


def test_input_that_is_not_finite():
    data = torch.tensor([[float("nan")]])
    birth = born(lambda: torch.nn.functional.linear(data, leaf(1.0).reshape(1, 1)).relu(), retain_graph=True)
    assert (birth.produced, birth.nans) == (False, 1)


def test_infinities_of_a_mask_are_there_on_purpose():
    mask = torch.tensor([float("-inf")])
    assert born(lambda: torch.maximum(leaf(0.0).sqrt(), mask) * 0, retain_graph=True) is None


def test_finite_forward():
    assert born(lambda: leaf(0.0).sqrt() * 0) is None


@pytest.mark.parametrize("retain_graph", [False, True])
def test_what_the_failing_node_had_saved(retain_graph):
    birth = born(lambda: log(leaf(-1.0)) * leaf(1.0), retain_graph=retain_graph)
    assert (birth.name, birth.tensor, birth.exact) == ("LogBackward0", "self of MulBackward0", True)


def test_tensors_saved_by_a_function():
    class Product(torch_ext.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            return grad * y, grad * x

    birth = born(lambda: Product.apply(leaf(1.0), log(leaf(-1.0))), retain_graph=True)
    assert (birth.name, birth.tensor) == ("LogBackward0", "tensors[1] of ProductBackward")


def test_hooks_of_saved_tensors_do_not_run():
    unpacked = []

    def unpack(packed):
        unpacked.append(packed)
        return packed

    def forward():
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            y = log(leaf(-1.0)).sin()
        return y * leaf(1.0)

    birth = born(forward)
    assert (birth.name, birth.exact, unpacked) == ("LogBackward0", True, [])


@pytest.mark.parametrize(
    "convert",
    [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr, torch.Tensor.cfloat, torch.Tensor.bfloat16],
    ids=lambda convert: convert.__name__,
)
def test_counts_by_layout_and_dtype(convert):
    values = convert(torch.tensor([[1.0, float("nan")]]))
    assert numbers(values) == (1, 0)


@pytest.mark.parametrize(
    "options, known",
    [({"device": "meta"}, None), ({"dtype": torch.int64}, Value(largest=1.0))],
    ids=["meta", "int"],
)
def test_tensors_without_such_values(options, known):
    values = torch.ones(2, **options)
    assert look(values) == known


def test_looking_runs_no_code_of_a_subclass():
    class Watched(torch.Tensor):
        calls: ClassVar = []

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.calls.append(function)
            return super().__torch_function__(function, types, args, kwargs)

    values = torch.tensor([float("inf")]).as_subclass(Watched)
    Watched.calls.clear()
    assert numbers(values) == (0, 1)
    assert Watched.calls == []
