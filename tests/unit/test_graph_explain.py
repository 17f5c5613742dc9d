# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.graph.explain: for each parameter whether a loss reaches it, and why not.

A program returns the loss and what explain() gets; the comment ``cut`` or ``used`` marks the lines that it has to name.
"""

import inspect
import json
import threading

import pytest
import torch
import torch.distributed as dist
from harness.marked_lines import line, marked
from torch import nn
from torch.utils.checkpoint import checkpoint

import torch_ext
from torch_ext.graph import explain, noting


@pytest.fixture(autouse=True)
def nothing_compiled():
    if torch_ext._compat.has_compiled():
        torch._dynamo.reset()
    yield
    assert not torch.is_anomaly_enabled()


class Net(nn.Module):
    """Two layers; ``between`` is called on what goes from one to the other."""

    def __init__(self, between=lambda h: h):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.between = between

    def forward(self, x):
        return self.second(self.between(self.first(x)))


def of_net(between):
    net = Net(between)
    return net(torch.ones(2, 3)).sum(), net


X = torch.ones(2, 3)


# --- Programs: first.weight is not reached, and second.weight is --------------------------------------


def cut_by_detach():
    return of_net(lambda h: h.detach())  # cut


def cut_by_detach_and_changed():
    def between(h):
        h = h.detach()  # cut
        return (h - h.mean()) / 2

    return of_net(between)


def cut_by_no_grad():
    net = Net()
    with torch.no_grad():
        h = net.first(X)  # cut
    return net.second(h).sum(), net


def cut_by_inference_mode():
    net = Net()
    with torch.inference_mode():
        h = net.first(X)  # cut
    return net.second(h.clone()).sum(), net


def cut_by_set_grad_enabled():
    net = Net()
    with torch.set_grad_enabled(False):
        h = net.first(X)  # cut
    return net.second(h).sum(), net


def cut_by_argmax():
    return of_net(lambda h: nn.functional.one_hot(h.argmax(-1), 3).float())  # cut


def cut_by_a_conversion():
    return of_net(lambda h: h.long().float())  # cut


def cut_by_a_comparison():
    return of_net(lambda h: (h > 0).float())  # cut


def cut_by_item():
    return of_net(lambda h: torch.full((2, 3), h.sum().item()))  # cut


def cut_by_numpy():
    return of_net(lambda h: torch.from_numpy(h.detach().numpy() * 2))  # cut


def cut_by_a_function():
    class NoGradient(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.sign()
            ctx.mark_non_differentiable(y)
            return y

        @staticmethod
        def backward(ctx, grad):
            raise AssertionError("never called")

    net = Net()
    with noting(follow=True):
        h = NoGradient.apply(net.first(X).detach())  # cut
        return net.second(h).sum(), net


CUTS = [
    cut_by_detach,
    cut_by_detach_and_changed,
    cut_by_no_grad,
    cut_by_inference_mode,
    cut_by_set_grad_enabled,
    cut_by_argmax,
    cut_by_a_conversion,
    cut_by_a_comparison,
    cut_by_item,
    cut_by_numpy,
    cut_by_a_function,
]


@pytest.mark.parametrize("program", CUTS)
@pytest.mark.parametrize("mode", ["anomaly", "noting"])
def test_cuts(program, mode):
    context = {
        "anomaly": lambda: torch_ext.set_detect_anomaly(True, check_nan=False),
        "noting": lambda: noting(operators=True),
    }[mode]
    with context():
        loss, net = program()
        found = explain(loss, net)
    first, second = found["first.weight"], found["second.weight"]
    assert (first.reached, first.why) == (False, "cut")
    assert {"cut": [line(first.cuts[0].frames)]} == marked(program)
    assert second.reached
    assert found.unreached == (first,)
    assert second.path[0].name == "SumBackward0"
    assert second.path[-1].name.endswith("AccumulateGrad")


@pytest.mark.parametrize("program", [each for each in CUTS if each not in (cut_by_item, cut_by_numpy)])
def test_what_comes_of_a_cut_is_followed(program):
    with noting(follow=True):
        loss, net = program()
        found = explain(loss, net)["first.weight"]
    assert found.cuts[0].followed
    assert "not followed" not in str(found)
    assert [line(cut.frames) for cut in found.cuts] == marked(program)["cut"]


# --- Other reasons -----------------------------------------------------------------------------------


def test_reached_parameters():
    with noting():
        loss, net = of_net(lambda h: h.relu())
        found = explain(loss, net)
    assert [(each.name, each.reached, each.shape) for each in found.parameters] == [
        ("first.weight", True, (3, 3)),
        ("second.weight", True, (3, 3)),
    ]
    assert (found.in_graph, found.cuts, found.unreached) == (True, (), ())
    assert found.noted == found.nodes


def test_a_parameter_that_nothing_uses():
    net = Net()
    net.unused = nn.Parameter(torch.ones(2))
    with noting(operators=True):
        found = explain(net(X).sum(), net)
    assert found["unused"].why == "no path"
    assert str(found["unused"]) == "unused (2): not reached: no operator on the way to the loss was given it"


def test_a_branch_that_was_not_taken():
    net = Net()
    with noting(operators=True):
        h = net.first(X)
        loss = (h * 2).sum()
        net.second(h)
        found = explain(loss, net)
    assert (found["first.weight"].why, found["second.weight"].why) == ("reached", "no path")


def test_a_frozen_parameter():
    net = Net()
    net.first.requires_grad_(False)
    with noting():
        found = explain(net(X).sum(), net)
    assert found["first.weight"].why == "doesn't require grad"
    assert "requires_grad is False" in str(found)


@pytest.mark.parametrize("take", [lambda p: p.data, lambda p: p.detach(), lambda p: p.data.view(9).view(3, 3)])
def test_a_parameter_that_was_used_as_a_constant(take):
    net = Net()
    with noting():
        loss = (net.first(X) @ take(net.second.weight)).sum()
        found = explain(loss, net)["second.weight"]
    assert found.why == "as data"
    assert found.used[0].name == "MmBackward0"
    assert "as a constant\n    by MmBackward0 at test_graph_explain.py:" in str(found)


def test_a_parameter_that_was_replaced():
    net = Net()
    old = net.first.weight
    net.first.weight = nn.Parameter(old.detach().clone())
    with noting():
        assert [each.why for each in explain(net(X).sum(), [old]).parameters] == ["no path"]


def test_a_tensor_that_is_no_leaf():
    weight = torch.ones(3, requires_grad=True)
    with noting():
        scaled = weight * 2
        other = weight * 3
        kept = weight * 4
        kept.retain_grad()
        loss = (scaled * kept).sum()
        found = explain(loss, {"scaled": scaled, "other": other, "kept": kept})
    assert [each.why for each in found.parameters] == ["not a leaf", "no path", "reached"]
    assert "without retain_grad(): it was made\n    by MulBackward0 at test_graph_explain.py:" in str(found["scaled"])
    assert "retain_grad()" in str(found["scaled"])


def test_a_loss_that_is_in_no_graph():
    net = Net()
    with noting(operators=True):
        with torch.no_grad():
            loss = net(X).sum()
        found = explain(loss, net)
    assert not found.in_graph
    # In the module's forward; what sum() was given required no grad.
    assert {line(cut.frames) for cut in found.cuts} == {inspect.getsourcelines(Net.forward)[1] + 1}
    head, cut, *_ = str(found).split("\n")
    assert head == "The loss is in no graph: it requires no grad."
    assert cut.startswith("    its values left the graph under no_grad, in linear() at test_graph_explain.py:")
    assert "The loss reaches 0 of 2 parameters." in str(found)


def test_without_notes():
    net = Net()
    found = explain(net(X).sum(), net)
    assert [each.reached for each in found.parameters] == [True, True]
    assert str(found).endswith("nodes were made while nobody noted: their lines are not known.")


def test_a_freed_graph():
    net = Net()
    with noting():
        loss = net(X).sum()
        loss.backward()
        assert [each.reached for each in explain(loss, net).parameters] == [True, True]


def test_checkpoints():
    for reentrant in (False, True):
        net = Net()
        with noting():
            x = X.clone().requires_grad_()
            h = checkpoint(net.first, x, use_reentrant=reentrant)
            found = explain(net.second(h).sum(), [("x", x), *net.named_parameters()])
        # A checkpoint with reentry is one node, which computes the layer's gradients in its own backward.
        assert [each.reached for each in found.parameters] == [True, not reentrant, True]


def test_functions():
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    net = Net(lambda h: Scale.apply(h))
    with noting(operators=True):
        found = explain(net(X).sum(), net)
    assert [each.reached for each in found.parameters] == [True, True]
    assert "ScaleBackward" in [node.name for node in found["first.weight"].path]


def test_another_thread():
    net, found = Net(lambda h: h.detach()), []

    def run():
        with noting(operators=True):
            found.append(explain(net(X).sum(), net)["first.weight"].why)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == ["cut"]


def test_nothing_is_kept_or_changed():
    net = Net(lambda h: h.detach())
    with noting(operators=True):
        loss = net(X).sum()
        before = loss.grad_fn._sequence_nr()
        found = explain(loss, net)
        assert (X.clone().requires_grad_() * 1).grad_fn._sequence_nr() == before + 1
    assert all(parameter.grad is None for parameter in net.parameters())
    json.loads(found.to_json())


# --- Arguments ---------------------------------------------------------------------------------------


def test_kinds_of_parameters():
    net = Net()
    loss = net(X).sum()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    kinds = {
        "module": net,
        "list": list(net.parameters()),
        "generator": net.parameters(),
        "named": net.named_parameters(),
        "dict": dict(net.named_parameters()),
        "groups": optimizer.param_groups,
    }
    for name, kind in kinds.items():
        assert [each.reached for each in explain(loss, kind).parameters] == [True, True], name
    assert [each.name for each in explain(loss, net.first.weight).parameters] == ["0"]
    assert [each.name for each in explain(loss, optimizer.param_groups).parameters] == ["0.0", "0.1"]


def test_kinds_of_losses():
    net = Net()
    h = net.first(X)
    edge = torch.autograd.graph.get_gradient_edge(h)
    assert explain(edge, net)["first.weight"].reached
    both = explain((h.sum(), net.second(X).sum()), net)
    assert both.unreached == ()


@pytest.mark.parametrize("loss", [None, 3.0, ["loss"]])
def test_wrong_losses(loss):
    with pytest.raises(TypeError, match=r"^loss has to be a tensor, a GradientEdge or a sequence of them, got "):
        explain(loss, [])


def test_wrong_parameters():
    with pytest.raises(TypeError, match=r"pairs of a name and a tensor; there is str among them"):
        explain(torch.ones(1), ["weight"])


def test_an_unknown_name():
    with pytest.raises(KeyError, match=r"no parameter is called 'third'; there are first.weight, second.weight"):
        explain(*of_net(lambda h: h))["third"]


def test_what_distributed_data_parallel_calls_unused():
    net = Net()
    net.unused = nn.Linear(3, 3, bias=False)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(net)
        with noting(operators=True):
            found = explain(parallel(X).sum(), parallel)
    finally:
        dist.destroy_process_group()
    assert [each.name for each in found.unreached] == ["module.unused.weight"]
    assert found["module.first.weight"].reached


def test_a_cut_that_leads_elsewhere_is_not_said_to_be_followed():
    net = Net()
    with noting(follow=True):
        h = net.first(X)
        h.detach().mean()
        found = explain(net.second(X).sum(), net)["first.weight"]
    assert (found.why, [cut.followed for cut in found.cuts]) == ("cut", [False])
