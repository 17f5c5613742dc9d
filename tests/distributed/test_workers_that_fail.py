# SPDX-License-Identifier: BSD-3-Clause
"""A worker that dies, or whose Function raises, in the middle of a step: what it and the others see."""

import os
import re
import signal

import pytest
import torch
import torch.distributed as dist
from harness.variants import VARIANTS
from launching import Ranks
from models import make_net
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

WRAPPERS = {"data parallel": DistributedDataParallel, "fully sharded": fully_shard}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ValueError("a Function of rank 1 failed")


def leave():
    os._exit(3)


ENDS = {"is killed": die, "raises": fail, "exits": leave}


class Failing(nn.Module):
    """Calls a Function whose forward or backward ends as ``end`` does, on rank 1 and in the second step."""

    def __init__(self, base, where, end):
        super().__init__()

        class Ending(base):
            @staticmethod
            def forward(ctx, x, step):
                ctx.step = step
                if where == "forward" and step == 1 and dist.get_rank() == 1:
                    end()
                return x.clone()

            @staticmethod
            def backward(ctx, grad):
                if where == "backward" and ctx.step == 1 and dist.get_rank() == 1:
                    end()
                return grad, None

        self.function, self.steps = Ending, 0

    def forward(self, x):
        self.steps += 1
        return self.function.apply(x, self.steps - 1)


class Scalars:
    """Stands for a scenario, to build a model."""

    def __init__(self, base):
        self.Function = base

    def randn(self, *shape):
        return torch.ones(shape) / 2


def train(variant, wrapper, where, end):
    """Trains for three steps. An exception ends this rank, as it would end a program."""
    variant = VARIANTS[variant]
    with variant.active():
        base = variant.api().Function
        layer, *more = make_net(Scalars(base), 2)
        model = WRAPPERS[wrapper](nn.Sequential(layer, Failing(base, where, ENDS[end]), *more))
        try:
            for _ in range(3):
                model(torch.ones(2, 4)).sum().backward()
        except Exception as error:
            return type(error).__name__, text_of(error)
    return "finished", ""


GONE = "the other has gone"


def text_of(error):
    """The message; those by which gloo says that a connection has ended depend on who looks first."""
    return GONE if re.search(r"Connection (closed|reset) by peer|Broken pipe", str(error)) else str(error)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("end", ENDS)
def test_the_others_see_what_they_see_on_stock_torch(wrapper, where, end):
    stock, ours, installed = (Ranks(2).outcomes(train, name, wrapper, where, end, last=True) for name in VARIANTS)
    other, failed = stock
    if end == "raises":
        assert failed.returned == (("ValueError", "a Function of rank 1 failed"),)
    else:
        assert failed.status == (-signal.SIGKILL if end == "is killed" else 3)
    # gloo tells it that the other has gone: it doesn't wait until the time is over.
    assert other.returned == (("RuntimeError", GONE),)
    assert ours == installed == stock
