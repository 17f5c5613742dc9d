# SPDX-License-Identifier: BSD-3-Clause
"""check_nan="deferred": the same findings as with True, after backward."""

import dataclasses
import threading

import pytest
import test_anomaly_origins as origins
import torch
from test_anomaly_origins import INF, NAN, ORIGINS, leaf
from torch.utils.checkpoint import checkpoint

import torch_ext
from torch_ext import _C, anomaly

FOUND_LATER = " This was found after backward, which went on with it."


@pytest.fixture(autouse=True)
def quiet(recwarn):
    """Failing backwards warn."""
    yield
    assert _C.set_anomaly_checks(False, False) == (False, False, False, False, -1)
    assert _C.take_late_evidence() == []


def run(call, **options):
    """The report on the error of a call in the mode with these options."""
    torch.manual_seed(0)
    with anomaly.set_detect_anomaly(True, **options), pytest.raises(RuntimeError) as raised:
        call()
    return str(raised.value), anomaly.last_report()


def comparable(report):
    """What a report says, but for the stack of the call itself and what is said of when it was found."""

    def lines(frames):
        return tuple(frame for frame in frames if frame.file == origins.__file__ and frame.function != "backward")

    def origin(each):
        return each and dataclasses.replace(each, frames=lines(each.frames))

    born = origin(report.born)
    if born is not None and born.after is not None:
        born = dataclasses.replace(born, after=origin(born.after))
    return (
        report.node_name,
        report.found,
        report.output_index,
        report.error.removesuffix(FOUND_LATER),
        lines(report.frames),
        tuple(map(origin, report.parents)),
        tuple(map(origin, report.enclosing)),
        report.path,
        report.forward,
        born,
    )


@pytest.mark.parametrize("options", [{}, {"check_every": 1}, {"check_every": 3}], ids=["end", "each", "third"])
@pytest.mark.parametrize("retain_graph", [False, True], ids=["", "retained"])
@pytest.mark.parametrize("row, verdict", ORIGINS)
def test_same_findings(row, verdict, retain_graph, options):
    def call():
        origins.backward(row, retain_graph=retain_graph)

    message, there = run(call)
    deferred, here = run(call, check_nan="deferred", **options)
    assert deferred == message + FOUND_LATER
    if row is origins.before_a_reentrant_checkpoint:
        # What the outer node had saved is kept only if it has run to its end, so that another tensor shows the same.
        here, there = (
            dataclasses.replace(each, born=dataclasses.replace(each.born, tensor="")) for each in (here, there)
        )
    assert comparable(here) == comparable(there)


@pytest.mark.parametrize("layout", ["dense", "expanded", "sparse"])
@pytest.mark.parametrize("value, check_inf", [(NAN, False), (NAN, True), (INF, True)])
def test_kinds_of_gradients(layout, value, check_inf):
    """An expanded gradient is looked at as one on a GPU is: by operators whose results wait."""

    def call():
        x = leaf(1.0, 2.0)
        if layout == "sparse":
            table = torch.ones(3, 2, requires_grad=True)
            torch.nn.functional.embedding(torch.tensor([1]), table, sparse=True).mul(value).sum().backward()
        else:
            (x * 1 if layout == "expanded" else x * value).sum().mul(value).backward()

    message, report = run(call, check_nan="deferred", check_inf=check_inf)
    assert report.found == ("infinite" if value == INF else "nan")
    assert message.endswith(FOUND_LATER)


def test_gradients_are_there_by_then():
    x = leaf(-1.0, 4.0)
    run(lambda: x.sqrt().sum().backward(), check_nan="deferred")
    assert x.grad.isnan().tolist() == [True, False]


def test_nothing_is_wrong():
    x = leaf(1.0, 4.0)
    with anomaly.set_detect_anomaly(True, "deferred", check_inf=True):
        assert torch.is_anomaly_check_nan_enabled() is False
        (x.sqrt() * x.log()).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints(use_reentrant):
    x = leaf(0.0, 4.0)

    def call():
        y = checkpoint(lambda x: x.sqrt() * 1, x * 1, use_reentrant=use_reentrant)
        (y * 0).sum().backward()

    _, there = run(call)
    _, here = run(call, check_nan="deferred")
    assert (here.node_name, len(here.enclosing), here.forward) == (
        there.node_name,
        len(there.enclosing),
        there.forward,
    )


def test_double_backward():
    def call():
        x = leaf(0.0, 4.0)
        (grad,) = torch.autograd.grad((x**1.5).sum(), x, create_graph=True)
        (grad * 0).sum().backward()

    _, there = run(call)
    _, here = run(call, check_nan="deferred")
    assert (here.node_name, here.forward) == (there.node_name, there.forward)
    assert [each.name for each in here.parents] == [each.name for each in there.parents] != []


class Fails(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        raise KeyError("broken")


def test_an_error_half_way_is_that_error():
    x = leaf(-1.0, 4.0)
    with anomaly.set_detect_anomaly(True, "deferred"), pytest.raises(KeyError, match="broken"):
        Fails.apply(x * 1).sqrt().sum().backward()
    with anomaly.set_detect_anomaly(True, "deferred"):
        leaf(1.0).sqrt().backward()


def test_backwards_at_a_time():
    errors = []
    shared = leaf(-1.0, 4.0)
    root = shared.sqrt()

    def work(bad):
        try:
            for _ in range(20):
                loss = (root if bad else leaf(1.0, 2.0).sqrt()).sum()
                torch.autograd.grad(loss, shared, retain_graph=True) if bad else loss.backward()
        except RuntimeError as error:
            errors.append((bad, str(error)))

    with anomaly.set_detect_anomaly(True, "deferred"):
        threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    text = "Function 'SqrtBackward0' returned nan values in its 0th output." + FOUND_LATER
    assert errors == [(True, text)] * 2


@pytest.mark.parametrize("options", [{"check_every": 0}, {"check_every": 3, "check_nan": True}])
def test_wrong_numbers(options):
    with pytest.raises(ValueError, match="check_every is for check_nan='deferred' and at least 1"):
        anomaly.set_detect_anomaly(True, **{"check_nan": "deferred", **options})
