# SPDX-License-Identifier: BSD-3-Clause
"""What torch_ext says of graphs on several ranks: notes on errors, parameters that DDP calls unused."""

import contextlib
import gc

import pytest
import torch
import torch.distributed as dist
from harness.marked_lines import line, marked
from models import Layer
from test_workers_that_fail import Scalars
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.nn import functional
from torch.nn.parallel import DistributedDataParallel

import torch_ext
from torch_ext import anomaly, graph

WRAPPERS = {
    "data parallel": DistributedDataParallel,
    "static": lambda net: DistributedDataParallel(net, static_graph=True),
    "fully sharded": fully_shard,
}


class Root(torch.autograd.Function):
    """A square root, whose gradient at 0 is infinite."""

    @staticmethod
    def forward(ctx, x):
        out = x.sqrt()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, grad):
        (out,) = ctx.saved_tensors
        return grad / (2 * out)


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Layer(Scalars(torch.autograd.Function))

    def forward(self, x):
        hidden = self.layer(x)
        return Root.apply(hidden - hidden) * 0  # root


def nan_in_backward(wrapper, kind):
    """The exception's notes, and the line of the report, in torch's own mode under install(), or in torch_ext's."""
    detect = torch.autograd.detect_anomaly if kind == "torch's" else torch_ext.detect_anomaly
    with torch_ext.installed(), detect():
        model = WRAPPERS[wrapper](Norms())
        try:
            model(torch.ones(2, 4)).sum().backward()
        except RuntimeError as error:
            return str(error), "\n".join(error.__notes__), line(anomaly.last_report().frames)
    return None


@pytest.mark.filterwarnings("ignore:Anomaly")
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("kind", ["torch's", "torch_ext's"])
def test_a_nan_names_its_line_on_each_rank(ranks, wrapper, kind):
    for text, notes, number in ranks(2, "cpu").call(nan_in_backward, wrapper, kind):
        assert text == "Function 'RootBackward' returned nan values in its 0th output."
        assert [number] == marked(Norms.forward)["root"]
        assert "return Root.apply(hidden - hidden) * 0" in notes


class Branches(nn.Module):
    """Rank 0 leaves one branch out; on rank 1 the values of the other leave the graph."""

    def __init__(self):
        super().__init__()
        base = torch_ext.Function
        self.first, self.second = Layer(Scalars(base)), Layer(Scalars(base))

    def forward(self, x):
        if dist.get_rank() == 0:
            return self.first(x)
        return self.first(x).detach() + self.second(x)  # cut


def unused():
    """Why parameters get no gradient, by name; what DDP says of them."""
    model = DistributedDataParallel(Branches())
    with graph.noting(operators=True):
        loss = model(torch.ones(2, 4)).sum()
        explained = graph.explain(loss, model)
    loss.backward()
    try:
        model(torch.ones(2, 4))
    except RuntimeError as error:
        said = str(error)
    why = {each.name: each.why for each in explained.unreached}
    lines = {line(cut.frames) for each in explained.unreached for cut in each.cuts}
    return why, lines, said, str(explained)


def test_unused_parameters_are_explained_where_ddp_only_counts_them(ranks):
    first, second = ranks(2, "cpu").call(unused)
    assert first[0] == {"module.second.weight": "no path", "module.second.bias": "no path"}
    assert second[0] == {"module.first.weight": "cut", "module.first.bias": "cut"}
    assert [first[1], second[1]] == [set(), set(marked(Branches.forward)["cut"])]
    assert "Expected to have finished reduction in the prior iteration" in first[2]
    assert "Parameter indices which did not receive grad for rank 0: 2 3" in first[2]
    assert "Parameter indices which did not receive grad for rank 1: 0 1" in second[2]
    assert "The loss reaches 2 of 4 parameters." in first[3]


def in_noting():
    """Gradients of a data-parallel step while nodes note where they were made, and without."""
    gradients = []
    for context in graph.noting(operators=True), contextlib.nullcontext():
        with context:
            model = DistributedDataParallel(Layer(Scalars(torch_ext.Function)))
            functional.all_reduce(model(torch.ones(2, 4))).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    return [torch.equal(*pair) for pair in zip(*gradients, strict=True)]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_noting_changes_no_gradient(ranks):
    assert ranks(2, "cpu").call(in_noting) == [[True, True]] * 2


def saved_memory():
    """How many bytes a step keeps for backward, by kind of node."""
    model = DistributedDataParallel(Layer(Scalars(torch_ext.Function)))
    with graph.noting():
        saved = graph.saved_memory(model(torch.ones(2, 4)))
    return saved.total


def test_saved_memory_is_to_the_byte_under_ddp(ranks):
    # The input and what Swish was given; the weight lives anyway.
    assert ranks(2, "cpu").call(saved_memory) == [4 * (8 + 8)] * 2


def leaks(steps):
    """How many tensors and nodes live after so many steps of a data-parallel training."""
    model = DistributedDataParallel(Layer(Scalars(torch_ext.Function)))
    for _ in range(steps):
        model(torch.ones(2, 4)).sum().backward()
    dist.barrier()
    gc.collect()
    kinds = torch.Tensor, torch._C._FunctionBase
    return sum(isinstance(each, kinds) for each in gc.get_objects())


def test_nothing_stays_of_a_step(ranks):
    few, many = ranks(2, "cpu").call(leaks, 2), ranks(2, "cpu").call(leaks, 40)
    # gloo's threads may still hold what the last collectives were given.
    assert all(more - less < 10 for less, more in zip(few, many, strict=True))
