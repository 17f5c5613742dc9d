# SPDX-License-Identifier: BSD-3-Clause
"""What anomaly mode checks besides NaN: check_loss and check_inf."""

import threading

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import torch_ext
from torch_ext import _C, anomaly

NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def quiet(recwarn):
    """Failing backwards warn; the parity scenarios look at that."""
    yield
    assert _C.set_anomaly_checks(False, False) == (False, False, False, False, -1)


def leaf(*values, **options):
    return torch.tensor(values, requires_grad=True, **options)


def fail(call, match, **options):
    """The report on the error that call() raises, whose message has ``match``."""
    with anomaly.set_detect_anomaly(True, **options), pytest.raises(RuntimeError, match=match) as raised:
        call()
    assert any("finite" in note for note in raised.value.__notes__)
    assert anomaly.last_report().error == f"RuntimeError: {raised.value}"
    return anomaly.last_report()


def pass_(call, **options):
    with anomaly.set_detect_anomaly(True, **options):
        call()


def ran_nodes(loss):
    """The names of nodes that run, as a list that fills."""
    names = []
    loss.grad_fn.register_prehook(lambda grads: names.append("root"))
    return names


# --- check_loss -----------------------------------------------------------------------------------


def log(x):
    return x.log()


def test_a_loss_that_is_nan():
    ran = []

    def call():
        loss = (log(leaf(-1.0, 1.0)) * 0).sum()
        ran.append(ran_nodes(loss))
        loss.backward()

    report = fail(call, "^backward was called on nan values, output 0 of SumBackward0", check_loss=True)
    assert ran == [[]]
    assert (report.found, report.node_name, report.output_index) == ("loss", "SumBackward0", None)
    assert (report.forward, report.born.name, report.born.exact) == ("not finite", "LogBackward0", True)
    assert report.born.frames[-1].function == "log"
    assert report.path == ("SumBackward0",)


def test_the_same_without_the_check():
    pass_(lambda: torch.where(torch.tensor(True), leaf(1.0), NAN).mul(NAN).sum().detach())
    pass_(lambda: (leaf(1.0) + NAN).sum().backward())


@pytest.mark.parametrize("check_inf", [False, True])
def test_a_loss_that_is_infinite(check_inf):
    def backward():
        x = leaf(1.0)
        (x + INF).sum().backward()

    if check_inf:
        report = fail(backward, "^backward was called on infinite values", check_loss=True, check_inf=True)
        assert report.found == "loss"
    else:
        pass_(backward, check_loss=True)


@pytest.mark.parametrize("value, check_inf", [(NAN, False), (NAN, True), (INF, True)])
def test_a_gradient_that_is_not_finite(value, check_inf):
    def call():
        leaf(1.0, 2.0).sin().backward(torch.tensor([value, 1.0]))

    message = "^backward was called with a gradient that has (nan|infinite) values, for SinBackward0"
    report = fail(call, message, check_loss=True, check_inf=check_inf)
    assert (report.found, report.born.tensor) == ("loss", "the gradient that backward was called with")
    assert report.born.exact
    assert not report.born.produced


def test_a_gradient_edge_is_no_value():
    def call():
        edge = torch.autograd.graph.get_gradient_edge(leaf(-1.0).sqrt() * 0)
        torch.autograd.backward(edge, torch.ones(1))

    fail(call, "returned nan values", check_loss=True, check_inf=True)


def test_a_picture_of_a_refusal(tmp_path):
    report = fail(lambda: log(leaf(-1.0)).sum().backward(), "called on nan", check_loss=True)
    report.draw(tmp_path / "graph.dot")
    assert "was not finite" in (tmp_path / "graph.dot").read_text()


# --- check_inf ------------------------------------------------------------------------------------


def root_of(x):
    return x.sqrt()


def test_a_node_that_returns_infinite_values():
    report = fail(lambda: root_of(leaf(0.0, 1.0)).sum().backward(), "returned infinite values", check_inf=True)
    assert report.error.endswith("Function 'SqrtBackward0' returned infinite values in its 0th output.")
    assert (report.node_name, report.found, report.output_index) == ("SqrtBackward0", "infinite", 0)
    assert (report.forward, report.born) == ("finite", None)
    assert report.frames[-1].function == "root_of"
    assert report.path == ("SumBackward0", "SqrtBackward0")


def test_infinite_values_from_forward():
    def call():
        y = leaf(0.0, 1.0).log()
        (y * leaf(1.0, 1.0)).sum().backward()

    report = fail(call, "'MulBackward0' returned infinite values in its 1th output", check_inf=True)
    assert (report.born.name, report.born.produced) == ("LogBackward0", True)


def test_the_second_output():
    def call():
        (leaf(INF) * leaf(1.0)).sum().backward()

    assert fail(call, "infinite values in its 1th output", check_inf=True).output_index == 1


def test_nan_is_left_to_the_engine():
    report = fail(lambda: (root_of(leaf(0.0)) * 0).sum().backward(), "returned nan values", check_inf=True)
    assert report.found == "nan"


def test_a_sum_that_overflows():
    def call():
        x = leaf(0.1) * 1
        (x * 3e38 + x * 3e38).sum().backward()

    report = fail(call, "^Function 'MulBackward0' was given infinite values in its 0th input", check_inf=True)
    assert (report.found, report.output_index, report.forward) == ("infinite", None, "finite")


@pytest.mark.parametrize("kind", ["sum", "accumulated"])
def test_sums_at_a_leaf(kind):
    x = leaf(0.1)

    def call():
        if kind == "sum":
            (x * 3e38 + x * 3e38).sum().backward()
        else:
            x.grad = torch.tensor([3e38])
            (x * 3e38).sum().backward()

    what = {"sum": "was given infinite values", "accumulated": "left infinite values in its leaf's gradient"}[kind]
    report = fail(call, f"^Function 'torch::autograd::AccumulateGrad' {what}", check_inf=True)
    assert (report.node_name, report.found) == ("torch::autograd::AccumulateGrad", "infinite")


def test_nan_accumulated_into_a_leaf():
    x = leaf(1.0)
    x.grad = torch.tensor([NAN])
    report = fail(lambda: (x * 3).sum().backward(), "AccumulateGrad' left nan values", check_inf=True)
    assert report.found == "nan"


@pytest.mark.parametrize("of", ["leaf", "middle"])
def test_a_sum_that_grad_returns(of):
    def call():
        x = leaf(0.1)
        y = x if of == "leaf" else x * 1
        torch.autograd.grad((y * 3e38 + y * 3e38).sum(), y)

    report = fail(call, "^Function '.*' was given infinite values in its 0th input", check_inf=True)
    assert report.node_name == {"leaf": "torch::autograd::AccumulateGrad", "middle": "MulBackward0"}[of]
    assert (report.found, report.forward, report.path[0]) == ("infinite", "finite", "SumBackward0")


def test_nan_from_a_hook():
    def call():
        x = leaf(1.0)
        y = x * 2
        y.register_hook(lambda grad: grad * NAN)
        y.sum().backward()

    fail(call, "'MulBackward0' was given nan values in its 0th input", check_inf=True)


class Identity(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * INF


class TorchsIdentity(torch.autograd.Function):
    forward, backward = Identity.forward, Identity.backward


@pytest.mark.parametrize("function", [Identity, TorchsIdentity])
def test_functions(function):
    report = fail(lambda: function.apply(leaf(1.0) * 2).sum().backward(), "returned infinite", check_inf=True)
    assert report.node_name == f"{function.__name__}Backward"


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints(use_reentrant):
    def call():
        checkpoint(root_of, leaf(0.0, 1.0) * 1, use_reentrant=use_reentrant).sum().backward()

    report = fail(call, "'SqrtBackward0' returned infinite", check_inf=True)
    assert [each.name for each in report.enclosing] == ["CheckpointFunctionBackward"] * use_reentrant


def test_double_backward():
    def call():
        x = leaf(0.0, 1.0)
        (slope,) = torch.autograd.grad((x**1.5).sum(), x, create_graph=True)
        slope.sum().backward()

    report = fail(call, "returned infinite values", check_inf=True)
    assert report.node_name == "PowBackward0"
    assert [parent.name for parent in report.parents] == ["PowBackward0"]


def test_kinds_of_gradients_that_pass():
    def call():
        table = torch.nn.Embedding(3, 2, sparse=True)
        table(torch.tensor([1, 1])).sum().backward()
        x = leaf(1.0).to(torch.complex64)
        (x * x).abs().sum().backward()
        y = leaf(1.0, dtype=torch.bfloat16)
        (y * 2).sum().backward()
        z = leaf(1.0, 2.0)
        torch.autograd.grad(z.sin(), z, torch.eye(2), is_grads_batched=True)

    pass_(call, check_nan=False, check_inf=True, check_loss=True)


# --- It changes nothing else ----------------------------------------------------------------------


def every_node(root):
    return list(anomaly.graph.reachable((root,)))


@pytest.mark.parametrize("fails", [False, True])
def test_results_and_hooks_are_as_without(fails):
    def run(**options):
        x = leaf(0.0 if fails else 4.0, 1.0)
        order = []
        y = x * 2
        z = y.sqrt()
        x.register_hook(lambda grad: order.append("x"))
        y.register_hook(lambda grad: order.append("y"))
        z.grad_fn.register_hook(lambda *grads: order.append("sqrt"))
        z.grad_fn.register_prehook(lambda grads: order.append("before sqrt"))
        x.register_post_accumulate_grad_hook(lambda x: order.append("accumulated"))
        loss = z.sum()
        with anomaly.set_detect_anomaly(True, check_nan=False, **options):
            try:
                loss.backward(retain_graph=True)
            except RuntimeError:
                assert fails
        return x, order, loss

    (x, order, loss), (stock_x, stock_order, _) = run(check_inf=True, check_loss=True), run()
    if not fails:
        assert order == stock_order
        assert torch.equal(x.grad, stock_x.grad)
    # No hook is left behind: a gradient that is not finite passes now.
    loss.backward(torch.tensor(INF))


def test_a_leafs_gradient_is_taken_over_as_without():
    def taken(**options):
        kept = []

        class Give(torch_ext.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, grad):
                given = torch.ones(2)
                kept.append(given.data_ptr())
                return given

        x = leaf(1.0, 2.0)
        with anomaly.set_detect_anomaly(True, **options):
            Give.apply(x).sum().backward()
        return x.grad.data_ptr() == kept[0]

    assert taken() == taken(check_inf=True)


def test_a_node_in_two_backwards_at_once():
    x = leaf(1.0, 2.0)
    y = x * 2
    total = y.sum()
    inner = []

    def again(*grads):
        if not inner:
            inner.append(True)
            total.backward(retain_graph=True)

    y.grad_fn.register_hook(again)
    pass_(lambda: total.backward(retain_graph=True), check_inf=True)
    assert x.grad.tolist() == [4.0, 4.0]
    fail(lambda: y.backward(torch.tensor([INF, 1.0])), "was given infinite", check_inf=True)


def test_threads_that_share_leaves():
    x = leaf(*[1.0] * 8)
    errors = []

    def run():
        try:
            for _ in range(50):
                (x * 2).sin().sum().backward()
        except Exception as error:
            errors.append(error)

    with anomaly.set_detect_anomaly(True, check_inf=True, check_loss=True):
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert torch.isfinite(x.grad).all()


def test_settings_are_the_contexts():
    def settings():
        now = _C.set_anomaly_checks(False, False)
        _C.set_anomaly_checks(*now)
        assert now[2:] == (False, False, -1)
        return now[:2]

    with pytest.warns(UserWarning, match="Anomaly Detection has been enabled"):
        outer = torch_ext.detect_anomaly(check_loss=True)
    assert settings() == (False, False)
    with outer:
        assert settings() == (True, False)
        with anomaly.set_detect_anomaly(True, check_inf=True):
            assert settings() == (False, True)
        assert settings() == (True, False)
        with anomaly.set_detect_anomaly(False):
            assert settings() == (False, False)
        with torch.autograd.set_detect_anomaly(True):
            assert settings() == (True, False)
    assert settings() == (False, False)


def test_by_keyword_only():
    with pytest.raises(TypeError):
        torch_ext.detect_anomaly(True, True)
    with pytest.raises(TypeError):
        torch_ext.set_detect_anomaly(True, True, True)


def test_torchs_own_context_checks_neither():
    with torch_ext.installed(), torch.autograd.set_detect_anomaly(True):
        (leaf(1.0) + NAN).sum().backward()
        root_of(leaf(0.0)).sum().backward()
