# SPDX-License-Identifier: BSD-3-Clause
"""Tensor parallel layers and DTensor around, and through, custom Functions."""

import torch
from harness.small_functions import make_identity, make_square
from models import local, make_affine, make_net, make_swish, record_gradients, train
from on_ranks import on_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor, experimental
from torch.distributed.tensor import parallel as tp


class Mlp(nn.Module):
    """A norm, an affine map, a custom Function and another affine map."""

    def __init__(self, s, features=4):
        super().__init__()
        self.swish = make_swish(s.Function)
        self.norm, self.up, self.down = nn.LayerNorm(features), nn.Linear(features, 8), nn.Linear(8, features)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x):
        return self.down(self.swish.apply(self.up(self.norm(x))))


def mesh_of(s, *shape, names=None):
    return init_device_mesh(s.device.type, shape, mesh_dim_names=names)


PLANS = {
    "column and row": {"up": tp.ColwiseParallel(), "down": tp.RowwiseParallel()},
    "distributed in the middle": {
        "up": tp.ColwiseParallel(use_local_output=False),
        "down": tp.RowwiseParallel(),
    },
    "sequence": {
        "norm": tp.SequenceParallel(),
        "up": tp.ColwiseParallel(input_layouts=Shard(1)),
        "down": tp.RowwiseParallel(output_layouts=Shard(1), use_local_output=True),
    },
    "prepared": {
        "up": tp.PrepareModuleInput(input_layouts=Replicate(), desired_input_layouts=Shard(0), use_local_output=True),
        "down": tp.PrepareModuleOutput(output_layouts=Shard(0), desired_output_layouts=Replicate()),
    },
}


@on_ranks
def each_style(s):
    mesh = mesh_of(s, 2)
    for name, plan in PLANS.items():
        model = tp.parallelize_module(Mlp(s).to(s.device), mesh, plan)
        train(s, name, model, [s.randn(2, 6, 4) for _ in range(3)])


@on_ranks
def a_loss_that_is_parallel(s):
    mesh = mesh_of(s, 2)
    plan = {"up": tp.ColwiseParallel(), "down": tp.ColwiseParallel(input_layouts=Shard(-1), use_local_output=False)}
    model = tp.parallelize_module(Mlp(s).to(s.device), mesh, plan)
    target = s.tensor([0, 1, 3])
    with tp.loss_parallel():
        out = model(s.randn(3, 4))
        loss = nn.functional.cross_entropy(out, target)
        loss.backward()
    s.record("loss", local(loss).detach())
    record_gradients(s, model)


@on_ranks
def a_function_given_distributed_tensors(s):
    mesh = mesh_of(s, 2)
    for make in make_square, make_swish, make_identity:
        function = make(s.Function)
        for placements in [Shard(0)], [Shard(1)], [Replicate()], [Partial()]:
            leaf = DTensor.from_local(s.randn(2, 4), mesh, placements).detach().requires_grad_()

            def call(leaf=leaf, function=function):
                out = function.apply(leaf)
                s.record("output", type(out).__name__, type(out.grad_fn).__name__, f"{out.placements}", out.to_local())
                out.sum().backward()
                return f"{leaf.grad.placements}", leaf.grad.to_local()

            s.outcome(f"{function.__name__} of {placements}", call)


@on_ranks
def a_function_given_a_mixture(s):
    mesh = mesh_of(s, 2)
    affine = make_affine(s.Function)
    x = distribute_tensor(s.randn(4, 4), mesh, [Shard(0)]).requires_grad_()
    weight = distribute_tensor(s.randn(4, 4), mesh, [Replicate()]).requires_grad_()
    bias = distribute_tensor(s.randn(4), mesh, [Replicate()]).requires_grad_()
    out = affine.apply(x, weight, bias)
    out.redistribute(mesh, [Replicate()]).square().sum().backward()
    for each in x, weight, bias:
        s.record("gradient", f"{each.grad.placements}", each.grad.full_tensor())
    s.outcome("a plain tensor among them", affine.apply, x, weight, s.randn(4))


@on_ranks
def redistributed_between_functions(s):
    mesh = mesh_of(s, 2)
    square = make_square(s.Function)
    x = s.randn(4, 4, requires_grad=True)
    for first, second in ([Shard(0)], [Shard(1)]), ([Shard(0)], [Replicate()]), ([Partial()], [Shard(0)]):
        d = DTensor.from_local(square.apply(x), mesh, first)
        d = square.apply(d.redistribute(mesh, second).to_local(grad_placements=second))
        d = DTensor.from_local(d, mesh, second).full_tensor()
        s.record(f"{first} to {second}", d, torch.autograd.grad(d.square().sum(), x))


@on_ranks
def a_function_on_the_local_parts(s):
    mesh = mesh_of(s, 2)
    mapped = experimental.local_map(
        make_square(s.Function).apply, out_placements=[Shard(0)], in_placements=([Shard(0)],), device_mesh=mesh
    )
    leaf = distribute_tensor(s.randn(4, 4), mesh, [Shard(0)]).requires_grad_()
    mapped(leaf).sum().backward()
    s.record("gradient", leaf.grad.to_local())


@on_ranks(count=4)
def sharded_and_tensor_parallel(s):
    mesh = mesh_of(s, 2, 2, names=("data", "tensor"))
    model = tp.parallelize_module(Mlp(s).to(s.device), mesh["tensor"], PLANS["column and row"])
    train(s, "both", fully_shard(model, mesh=mesh["data"]), [s.randn(2, 4) for _ in range(3)])


@on_ranks
def errors(s):
    mesh = mesh_of(s, 2)
    square = make_square(s.Function)

    class Raising(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("no gradient")

    leaf = distribute_tensor(s.randn(4, 4), mesh, [Shard(0)]).requires_grad_()
    s.raises("backward", lambda: Raising.apply(leaf).sum().backward())
    s.raises("a module that is no such", tp.parallelize_module, make_net(s), mesh, {"0": tp.ColwiseParallel()})
    s.raises("twice", lambda: (out := square.apply(leaf).sum()).backward() or out.backward())
