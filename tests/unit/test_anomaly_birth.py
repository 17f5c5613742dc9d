# SPDX-License-Identifier: BSD-3-Clause
"""Where a report says that values stopped being finite."""

import gc
import threading
import weakref
from typing import ClassVar

import pytest
import torch

import torch_ext
from torch_ext import anomaly
from torch_ext.anomaly import failures
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


# --- What is kept, and for how long ---------------------------------------------------------------


class Keep(torch_ext.Function):
    """Saves a tensor that nobody else holds, and notes which of those are alive as its backward begins."""

    saved: ClassVar[list[weakref.ref]] = []
    alive: ClassVar[list[int]] = []

    @staticmethod
    def forward(ctx, x):
        kept = x * 1
        Keep.saved.append(weakref.ref(kept))
        ctx.save_for_backward(kept)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        Keep.alive.append(sum(ref() is not None for ref in Keep.saved))
        return grad


class TorchsKeep(torch.autograd.Function):
    forward, backward = Keep.forward, Keep.backward


@pytest.fixture
def keeping():
    Keep.saved.clear()
    Keep.alive.clear()


@pytest.mark.parametrize("function", [Keep, TorchsKeep])
def test_what_nodes_had_saved_is_gone_as_the_next_one_runs(keeping, function):
    with anomaly.set_detect_anomaly(True):
        x = leaf(1.0, 2.0)
        for _ in range(4):
            x = function.apply(x)
        x.sum().backward()
    assert Keep.alive == [4, 3, 2, 1]
    assert [ref() for ref in Keep.saved] == [None] * 4


def test_what_operators_had_saved_is_gone_as_the_next_one_runs():
    seen = []
    with anomaly.set_detect_anomaly(True):
        first = leaf(1.0, 2.0) * 1
        h = first * 2
        saved = weakref.ref(h)
        loss = h.sin().sum()
        # Runs before the node of `first`, and so after that of `h`.
        first.register_hook(lambda grad: seen.append(saved() is None))
        del h
        assert saved() is not None
        loss.backward()
    assert seen == [True]


@pytest.mark.parametrize("ends", ["well", "with NaN", "with an exception"])
def test_nothing_is_kept_after_backward(keeping, ends):
    class Last(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            if ends == "with an exception":
                raise KeyError
            return grad * float("nan") if ends == "with NaN" else grad

    def backward():
        Keep.apply(Last.apply(Keep.apply(leaf(1.0, 2.0)))).sum().backward()

    with anomaly.set_detect_anomaly(True):
        try:
            backward()
        except (RuntimeError, KeyError):
            assert ends != "well"
        else:
            assert ends == "well"
    gc.collect()
    assert [ref() for ref in Keep.saved] == [None] * 2


def test_nothing_is_kept_if_nan_is_not_looked_for(keeping):
    with anomaly.set_detect_anomaly(True, check_nan=False):
        (Keep.apply(leaf(1.0)) * leaf(2.0)).sum().backward()
    assert [ref() for ref in Keep.saved] == [None]


def test_threads_keep_nothing(keeping):
    def run():
        x = leaf(1.0, 2.0)
        Keep.apply(Keep.apply(x)).sum().backward()

    with anomaly.set_detect_anomaly(True):
        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    gc.collect()
    assert [ref() for ref in Keep.saved] == [None] * 16


def test_a_backward_inside_a_backward_keeps_the_outer_nodes_evidence():
    class Inner(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                leaf(1.0).sin().sum().backward()
            return grad * float("nan")

    birth = born(lambda: Inner.apply(log(leaf(-1.0))))
    assert (birth.name, birth.exact, birth.tensor) == ("LogBackward0", True, "tensors[0] of InnerBackward")
    # The result of log is replayed only if its node has something left to replay it from.
    assert torch_ext.anomaly.last_report().node_name == "InnerBackward"


def test_evidence_of_a_backward_that_cpp_code_calls():
    @torch.jit.script
    def backward(loss: torch.Tensor) -> None:
        loss.backward()

    failures._unfinished.clear()  # another test may have called backward so too
    with anomaly.set_detect_anomaly(True):
        y = log(leaf(-1.0)) * leaf(1.0)
        with pytest.raises(RuntimeError, match="returned nan values"):
            backward(y.sum())
    (failure,) = failures._unfinished.values()
    failures._unfinished.clear()
    assert [sight.label for sight in failure.kept] == [
        "other of MulBackward0",
        "self of MulBackward0",
        "the result of MulBackward0, computed again",
    ]


def test_no_mode_of_torch_sees_the_looking():
    calls = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            calls.append(str(function))
            return function(*args, **(kwargs or {}))

    def run(detect_anomaly):
        calls.clear()
        with detect_anomaly(True), pytest.raises(RuntimeError), Watch():
            (log(leaf(-1.0)) * leaf(1.0)).sum().backward()
        return list(calls)

    assert run(anomaly.set_detect_anomaly) == run(torch.autograd.set_detect_anomaly)
