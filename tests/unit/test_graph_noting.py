# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.graph.noting, and what the look at operators leaves alone."""

import gc
import threading
import warnings
import weakref

import pytest
import torch
from harness.marked_lines import line
from torch import nn

import torch_ext
from torch_ext import _C, anomaly
from torch_ext.anomaly.graph import frames_of
from torch_ext.graph import noting, set_noting

METHODS = [
    (torch.set_grad_enabled, "__init__"),
    (torch.set_grad_enabled, "__enter__"),
    (torch.set_grad_enabled, "__exit__"),
    (torch.inference_mode, "__enter__"),
    (torch.inference_mode, "__exit__"),
]


def state():
    return (
        torch.is_anomaly_enabled(),
        torch.is_anomaly_check_nan_enabled(),
        _C.observes_operators(),
        [vars(cls)[name] for cls, name in METHODS],
        anomaly.is_noting(),
    )


@pytest.fixture(autouse=True)
def nothing_left():
    if torch_ext._compat.has_compiled():
        torch._dynamo.reset()
    _C.observe_operators(False)  # a thread looks on until its next operator after the mode, which was another test's
    before = state()
    yield
    set_noting(False)
    assert state() == before


def leaf():
    return torch.ones(3, requires_grad=True)


def has_line(tensor):
    return bool(frames_of(tensor.grad_fn.metadata))


def second_backward():
    loss = (leaf() ** 2).sum()
    loss.backward()
    loss.backward()


# --- What it does ------------------------------------------------------------------------------------


def test_nodes_note_where_they_are_made():
    outside = leaf() * 2
    with noting():
        inside = leaf() * 2
    assert (has_line(outside), has_line(inside)) == (False, True)
    assert _C.notes_of(outside.grad_fn) is None
    assert _C.notes_of(inside.grad_fn) == (_C.backwards(), 0)


def test_it_checks_nothing_and_prints_nothing():
    with noting(), warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torch.zeros(1, requires_grad=True)
        (x.sqrt() * 0).sum().backward()
        assert x.grad.isnan().all()
        with pytest.raises(RuntimeError, match="a second time") as raised:
            second_backward()
    assert "was freed by the backward that was called at test_graph_noting.py:" in raised.value.__notes__[-1]
    assert anomaly.last_report().freed is not None


def test_anomaly_mode_inside_prints_and_checks():
    x = torch.zeros(1, requires_grad=True)
    with noting():
        with (
            torch_ext.set_detect_anomaly(True),
            pytest.warns(UserWarning, match="Error detected in SqrtBackward0"),
            pytest.raises(RuntimeError, match="returned nan values"),
        ):
            (x.sqrt() * 0).sum().backward()
        (x.sqrt() * 0).sum().backward()


def test_inside_anomaly_mode_it_changes_nothing():
    with (
        torch_ext.set_detect_anomaly(True),
        noting(),
        pytest.warns(UserWarning, match="Error detected in PowBackward0"),
        pytest.raises(RuntimeError, match="a second time"),
    ):
        second_backward()


@pytest.mark.parametrize("installed", [False, True])
def test_inside_torchs_anomaly_mode(installed):
    if installed:
        torch_ext.install()
    try:
        with torch.autograd.set_detect_anomaly(True, check_nan=False):
            with noting():
                y = leaf() * 2
            assert torch.is_anomaly_enabled()
        assert _C.notes_of(y.grad_fn) is not None
    finally:
        torch_ext.uninstall()
        torch.ones(1).add_(1)  # sees that the mode is off


def test_operators_are_observed_if_asked():
    for operators in (False, True):
        with noting(operators=operators):
            y = leaf() * 2
            z = y * y
            y.detach().add_(1)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                z.sum().backward()
        (change,) = anomaly.last_report().modified.changes
        assert change.operator == ("aten::add_" if operators else "")


def test_it_can_last():
    set_noting(True)
    assert has_line(leaf() * 2)
    set_noting(True, operators=True)
    assert _C.observes_operators()
    set_noting(False)
    assert not has_line(leaf() * 2)
    set_noting(False)


def test_it_can_be_entered_again():
    context = noting(operators=True)
    with context, context:
        assert has_line(leaf() * 2)
    with context:
        assert has_line(leaf() * 2)


def test_exceptions_leave_nothing():
    for options in ({}, {"operators": True}, {"follow": True}):
        with pytest.raises(KeyError), noting(**options), torch.no_grad():
            raise KeyError


def test_threads():
    nodes = []
    with noting():
        thread = threading.Thread(target=lambda: nodes.append((leaf() * 2).grad_fn))
        thread.start()
        thread.join()
    assert frames_of(nodes[0].metadata)


def test_ages():
    with noting():
        x = leaf()
        begun = _C.backwards()
        first = x * 2
        first.sum().backward()
        second = x * 2
        kept = second.sum()
        kept.backward(retain_graph=True)
    assert _C.notes_of(first.grad_fn) == (begun, begun + 1)
    assert _C.notes_of(second.grad_fn) == (begun + 1, 0)
    assert line(frames_of({"traceback_": _C.backward_call(begun + 1)})) == line(frames_of(first.grad_fn.metadata)) + 1
    assert _C.backward_call(10**6) is None


def test_only_what_a_backward_reaches_is_freed():
    with noting():
        x, w = leaf(), leaf()
        left, right = x.exp(), w.exp()
        loss = (left * right).sum()
        torch.autograd.grad(loss, x)
        assert _C.notes_of(left.grad_fn)[1] == _C.backwards()
        assert _C.notes_of(right.grad_fn)[1] == 0
        right.sum().backward()  # it was not freed


def test_the_node_that_a_gradient_is_asked_of_is_not_freed():
    with noting():
        x = leaf()
        middle = x.exp()
        deep = middle.exp()
        torch.autograd.grad(deep.sum(), middle)
        assert (_C.notes_of(middle.grad_fn)[1], _C.notes_of(deep.grad_fn)[1]) == (0, _C.backwards())
        middle.sum().backward()
        assert _C.notes_of(middle.grad_fn)[1] == _C.backwards()
        # One that is on the way to another is.
        first = (x * 2).exp()
        last = first.exp()
        torch.autograd.grad(last.sum(), (first, x))
        assert _C.notes_of(first.grad_fn)[1] == _C.backwards()


def test_a_view_whose_base_was_changed():
    """It gets its node in the backward itself: what that leads to is freed, and nothing leads to it."""
    with noting():
        x = leaf()
        base = x.exp() * 2
        view, inner = base[:1], base.grad_fn
        base.mul_(2)
        unused = torch.autograd.grad(x.exp().sum(), [view], allow_unused=True)
        assert unused == (None,) and _C.notes_of(inner)[1] == 0
        view.backward(torch.ones(1))
        assert _C.notes_of(inner)[1] == _C.backwards()


def test_inputs_that_nothing_leads_to():
    with noting():
        node = (loss := leaf().exp().sum()).grad_fn
        assert torch.autograd.grad(loss, [leaf()], allow_unused=True) == (None,)
        assert _C.notes_of(node)[1] == 0
        loss.backward()
        assert _C.notes_of(node)[1] == _C.backwards()


def test_backwards_on_several_threads():
    x = leaf()
    with noting():
        graphs = [x.exp().exp().sum() for _ in range(40)]
        threads = [threading.Thread(target=torch.autograd.grad, args=(graph, x)) for graph in graphs]
        threads += [threading.Thread(target=graph.backward) for graph in [x.exp().exp().sum() for _ in range(40)]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(_C.notes_of(graph.grad_fn)[1] for graph in graphs)


def test_a_wrong_argument():
    for function in (_C.notes_of, _C.cuts_of):
        assert not function(object())
    with pytest.raises(TypeError):
        _C.changes_of(object(), 0)
    with pytest.raises(TypeError):
        _C.cuts_from(3)
    with pytest.raises(TypeError):
        _C.backward_call("first")
    with pytest.raises(OverflowError):
        _C.cut(-1)


# --- What it leaves alone ----------------------------------------------------------------------------


def step():
    """What a program may do in place, with the results."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=0.1, foreach=True)
    results = []
    for _ in range(3):
        optimizer.zero_grad()
        out = model(torch.randn(5, 3))
        out[:, 0] += out.detach().argmax(1)
        loss = out.square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        results += [loss.item(), *(each.grad.tolist() for each in model.parameters())]
    buffer = torch.zeros(4)
    for change in (
        lambda: buffer.resize_(6).fill_(1),
        lambda: torch.add(buffer, 1, out=buffer),
        lambda: torch.sort(buffer, out=(torch.empty(0), torch.empty(0, dtype=torch.long))),
        lambda: buffer.view(2, 3).t_(),
        lambda: buffer.random_(5),
        lambda: buffer.unsqueeze_(0).squeeze_(),
        lambda: torch._foreach_add_([buffer, buffer], [1.0, 2.0]),
        lambda: buffer.index_put_((torch.tensor([0, 0]),), torch.ones(2), accumulate=True),
        lambda: buffer.set_(torch.ones(6)),
        lambda: buffer.add_("text"),
        lambda: buffer.add_(torch.ones(7)),
        lambda: leaf().add_(1),
        lambda: buffer.to_sparse().coalesce().mul_(2).to_dense(),
        lambda: torch.ones(2, dtype=torch.complex64).mul_(1j),
    ):
        try:
            results.append(repr(change()))
        except (RuntimeError, TypeError) as error:
            results.append(str(error))
        results += [buffer.tolist(), buffer._version]
    with torch.inference_mode():
        inference = torch.ones(2).add_(1)
    results.append(repr(inference))
    return results


@pytest.mark.parametrize("options", [{}, {"operators": True}, {"follow": True}])
def test_results_are_the_same(options):
    expected = step()
    with noting(**options):
        assert step() == expected
    with torch_ext.set_detect_anomaly(True):
        assert step() == expected


def test_subclasses_and_modes_see_the_same():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    def run():
        with Names():
            y = leaf() * 2
            y.add_(1).detach().argmax()
            torch._foreach_add_([y], 1)
        return list(names)

    names = []
    expected = run()
    names.clear()
    with noting(follow=True):
        assert run() == expected


def test_vmap_and_grad():
    def f(x):
        y = x * 2
        y.add_(1)
        return (y * y.detach()).sum()

    x = torch.arange(6.0).reshape(2, 3)
    expected = torch.vmap(torch.func.grad(f))(x)
    with noting(follow=True):
        assert torch.equal(torch.vmap(torch.func.grad(f))(x), expected)


def test_a_higher_order_operator():
    def run(x):
        return torch._higher_order_ops.wrap.wrap(lambda y: y.clone().add_(1), x)

    with noting(operators=True):
        assert _C.observes_operators()
        assert torch.equal(run(leaf().detach()), torch.full((3,), 2.0))
        assert _C.observes_operators()


def test_operators_that_are_registered_later():
    with noting(operators=True):
        pass
    with torch.library._scoped_library("torch_ext_later", "DEF") as library:
        library.define("twice(Tensor(a!) x) -> ()")
        library.impl("twice", twice, "CompositeExplicitAutograd")
        library.impl("twice", increment, "ADInplaceOrView", with_keyset=True)
        with noting(operators=True):
            y = leaf() * 2
            z = y * y
            torch.ops.torch_ext_later.twice(y.detach())
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                z.sum().backward()
    assert [each.operator for each in anomaly.last_report().modified.changes] == ["torch_ext_later::twice"]


def twice(x):
    x.data.mul_(2)


def increment(keys, x):
    with torch._C._AutoDispatchBelowADInplaceOrView():
        torch.ops.torch_ext_later.twice.default.redispatch(keys & torch._C._after_ADInplaceOrView_keyset, x)
    torch.autograd.graph.increment_version(x)


def test_no_tensor_is_kept():
    def run():
        x = torch.ones(1000, requires_grad=True)
        y = x * 2
        y.detach().add_(1)
        cut = y.detach() + 1
        with torch.no_grad():
            z = y * 3
        sparse = torch.ones(3, 3, requires_grad=True).to_sparse().detach()
        wrapped = torch.func.grad(lambda v: (v.detach() * v).sum())(x.detach())
        return [weakref.ref(each) for each in (x, y, cut, z, sparse, wrapped)] + [
            weakref.ref(each.untyped_storage()) for each in (x, y, cut, z)
        ]

    with noting(follow=True):
        references = run()
        gc.collect()
        assert [reference() for reference in references] == [None] * len(references)


def remembered(x, first):
    """How many changes of ``x``, calls of backward since ``first``, and cuts are remembered."""
    calls = [_C.backward_call(number) for number in range(first, _C.backwards() + 1)]
    return len(_C.changes_of(x, 0)), sum(call is not None for call in calls), len(_C.recent_cuts(0))


def test_memory_is_bounded():
    x, y, z = leaf(), torch.ones(1), torch.ones(1)
    with noting(operators=True):
        first = _C.backwards() + 1
        for _ in range(3_000):
            x.detach()
            x.sum().backward()
        for _ in range(40_000):
            y.add_(1)
        z.add_(1)
    changes, calls, cuts = remembered(y, first)
    assert 10_000 < changes <= 20_000
    assert 500 < calls <= 2_000
    assert 1_000 < cuts <= 3_000
    assert [each[0] for each in _C.changes_of(z, 0)] == ["aten::add_"]
    assert _C.changes_of(y, 0)[-1][1:3] == (39_999, 40_000)
    assert _C.backward_call(_C.backwards()) is not None


def test_what_is_remembered_is_forgotten_at_once_and_then_noted_anew():
    x, y = leaf(), torch.ones(1)

    def run():
        y.add_(1)
        cut = x.detach()
        (x * cut).sum().backward()
        return cut

    with noting(operators=True):
        first = _C.backwards() + 1
        _C.forget_notes()
        before = run()
        assert remembered(y, first) == (1, 1, 1)
        _C.forget_notes()
        assert remembered(y, first) == (0, 0, 0)
        (old,) = _C.cuts_of(before)
        assert _C.cut(old) is None
        *_, new = _C.cuts_of(run())  # the storage is that of x, and the old one known of it
        assert new == old + 1
        assert _C.cut(new)[:2] == ("aten::detach", "detach")
        assert remembered(y, first) == (1, 1, 1)


def test_somebody_elses_no_grad_stays():
    original = vars(torch.set_grad_enabled)["__enter__"]

    def theirs(self):
        original(self)

    with noting(operators=True):
        torch.set_grad_enabled.__enter__ = theirs
    assert vars(torch.set_grad_enabled)["__enter__"] is theirs
    torch.set_grad_enabled.__enter__ = original


def test_regions_that_the_mode_begins_or_ends_in():
    with torch.no_grad(), noting(operators=True):
        (leaf() * 2).sum()
    context = noting(operators=True)
    context.__enter__()
    region = torch.no_grad()
    region.__enter__()
    context.__exit__(None, None, None)
    leaf() * 2  # so that the callback sees it
    region.__exit__(None, None, None)
    assert torch.is_grad_enabled()


def test_a_change_between_others_that_nobody_saw():
    with noting(operators=True):
        y = leaf() * 2
        z = y * y
        y.detach().add_(1)
        torch.autograd.graph.increment_version(y)
        y.detach().mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation") as raised:
            z.sum().backward()
    changes = anomaly.last_report().modified.changes
    assert [each.operator for each in changes] == ["aten::add_", "", "aten::mul_"]
    assert [(each.before, each.after) for each in changes] == [(0, 1), (1, 2), (2, 3)]
    assert "  to version 2 by something unseen: increment_version(), compiled code" in raised.value.__notes__[-1]


def test_a_region_that_began_before():
    x = leaf()
    with torch.no_grad(), noting(operators=True):
        y = x * 2
        assert [_C.cut(number)[1] for number in _C.cuts_of(y)] == ["no_grad"]


def test_an_optimizer_is_not_followed():
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1, momentum=0.9)
    with noting(operators=True):
        for _ in range(2):
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
        assert [_C.cuts_from(parameter) for parameter in model.parameters()] == [(), ()]


def test_what_a_report_looks_at_is_no_cut():
    x = torch.zeros(1, requires_grad=True)
    with torch_ext.set_detect_anomaly(True), pytest.raises(RuntimeError, match="nan values"):
        (x.sqrt() * 0).sum().backward()
    root = torch.ones(1)
    with torch_ext.set_detect_anomaly(True), pytest.raises(RuntimeError, match="does not require grad"):
        root.backward()
    assert anomaly.last_report().cuts == ()
