# SPDX-License-Identifier: BSD-3-Clause
"""torch.distributed.pipelining over stages of custom Functions: each of torch's schedules."""

import torch.distributed as dist
from models import Layer, make_net, record_gradients
from on_ranks import on_ranks
from torch import nn
from torch.distributed import pipelining
from torch.distributed.pipelining import schedules

FEATURES, ROWS, MICROBATCHES = 4, 8, 4

# How many stages a rank has; those of "V" lie back to back.
SCHEDULES = {
    "ScheduleGPipe": 1,
    "Schedule1F1B": 1,
    "ScheduleLoopedBFS": 2,
    "ScheduleInterleaved1F1B": 2,
    "ScheduleInterleavedZeroBubble": 2,
    "ScheduleZBVZeroBubble": 2,
    "ScheduleDualPipeV": 2,
}


def indices(name, rank, count):
    """Of the stages that this rank has."""
    if SCHEDULES[name] == 1:
        return [rank]
    return [rank, 2 * count - 1 - rank] if "V" in name else [rank, count + rank]


def train(s, name):
    """Records what :func:`train_stages` does for stages of a layer each."""
    rank, count = dist.get_rank(), dist.get_world_size()
    layers = list(make_net(s, count * SCHEDULES[name]))
    ours = indices(name, rank, count)
    train_stages(s, name, name, [pipelining.PipelineStage(layers[i], i, len(layers), s.device) for i in ours])


def train_stages(s, label, name, stages):
    """Records losses, outputs and gradients of two steps by a schedule over this rank's stages."""
    schedule = getattr(schedules, name)(
        stages if SCHEDULES[name] > 1 else stages[0], MICROBATCHES, loss_fn=lambda out, y: (out - y).square().mean()
    )
    for step in range(2):
        x, y, losses = s.randn(ROWS, FEATURES), s.randn(ROWS, FEATURES), []
        inputs = (x,) if any(stage.is_first for stage in stages) else ()
        last = any(stage.is_last for stage in stages)
        out = schedule.step(*inputs, target=y, losses=losses) if last else schedule.step(*inputs)
        s.record(f"{label}, step {step}", out if out is None else out.detach(), [loss.detach() for loss in losses])
        for stage in stages:
            record_gradients(s, stage.submod)


@on_ranks
def each_schedule(s):
    for name in SCHEDULES:
        train(s, name)


@on_ranks(count=4)
def four_ranks(s):
    for name in "Schedule1F1B", "ScheduleInterleaved1F1B":
        train(s, name)


def test_every_schedule_of_torch_is_run():
    classes = {name for name, each in vars(schedules).items() if isinstance(each, type)}
    known = {name for name in classes if name.startswith("Schedule")}
    assert known == SCHEDULES.keys()


@on_ranks
def a_model_that_is_split(s):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Layer(s), Layer(s)

        def forward(self, x):
            return self.second(self.first(x))

    example = s.randn(ROWS // MICROBATCHES, FEATURES)
    pipe = pipelining.pipeline(Whole(), (example,), split_spec={"second": pipelining.SplitPoint.BEGINNING})
    stage = pipe.build_stage(dist.get_rank(), s.device)
    train_stages(s, "split", "Schedule1F1B", [stage])
