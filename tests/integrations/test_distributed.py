# SPDX-License-Identifier: BSD-3-Clause
"""The Functions of torch.distributed, in a group of one process."""

import functools
import types

import pytest
import torch
import torch.distributed as dist
from harness import scenario
from harness.small_functions import make_product, make_square
from torch.distributed import _functional_collectives as collectives
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.nn import functional
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._api import _FromTorchTensor, _ToTorchTensor
from torch.nn.modules._functions import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel


@functools.cache
def mesh():
    return init_device_mesh("cpu", (1,))


@pytest.fixture(scope="module", autouse=True)
def group_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh()  # torch's caches keep the first one that they see, and its tensor, so the scenarios must not create it
    yield
    mesh.cache_clear()
    dist.destroy_process_group()


def over(s, cls):
    """A subclass of torch's Function ``cls`` that is called as the implementation under test calls."""
    return types.new_class(cls.__name__, (cls, s.Function))


def overlook_what_gloo_holds(s, *functions):
    """Its threads release a collective's tensors, and so their nodes, some time after it is done."""
    s.overlooked |= {"torch.Tensor", *(f"torch.autograd.function.{name}Backward" for name in functions)}


@scenario
def collectives_as_functions(s):
    add, group = dist.ReduceOp.SUM, dist.group.WORLD
    x, y = s.randn(2, 3, requires_grad=True), s.randn(2, 3, requires_grad=True)
    calls = {
        "_Broadcast": lambda call: call(0, group, x),
        "_Gather": lambda call: call(0, group, x),
        "_Scatter": lambda call: call(0, group, x),
        "_Reduce": lambda call: call(0, add, group, x),
        "_Reduce_Scatter": lambda call: call(add, group, torch.empty_like(x), x),
        "_AllGather": lambda call: call(group, x),
        "_AllGatherBase": lambda call: call(torch.empty_like(x), x, group),
        "_AlltoAll": lambda call: call(group, [torch.empty_like(x)], x),
        "_AlltoAllSingle": lambda call: call(group, torch.empty_like(x), None, None, x),
        "_AllReduce": lambda call: call(add, group, x),
    }
    overlook_what_gloo_holds(s, *calls)
    for name, call in calls.items():
        out = s.outcome(name, call, over(s, getattr(functional, name)).apply)
        out = out[0] if isinstance(out, tuple) else out
        s.outcome(f"{name}, gradient", lambda out=out: torch.autograd.grad((out * y).sum(), (x, y), create_graph=True))


@scenario
def collectives_as_torch_calls_them(s):
    overlook_what_gloo_holds(s, "Square", "_AllReduce", "_AllGather", "_Broadcast", "_Reduce")
    x = s.randn(2, 3, requires_grad=True)
    for name in "all_reduce", "all_gather", "broadcast", "reduce":
        call = getattr(functional, name)
        arguments = (0,) if name in ("broadcast", "reduce") else ()
        out = call(make_square(s.Function).apply(x), *arguments)
        out = out[0] if isinstance(out, tuple) else out
        s.record(name, out, torch.autograd.grad(out.sum(), x))


@scenario
def functional_collectives_with_a_gradient(s):
    overlook_what_gloo_holds(s, "Square")
    square = make_square(s.Function)
    x = s.randn(2, 3, requires_grad=True)
    calls = {
        "all_gather": lambda x: collectives.all_gather_tensor_autograd(x, 0, dist.group.WORLD),
        "reduce_scatter": lambda x: collectives.reduce_scatter_tensor_autograd(x, "sum", 0, dist.group.WORLD),
        "all_to_all": lambda x: collectives.all_to_all_single_autograd(x, [2], [2], dist.group.WORLD),
    }
    for name, call in calls.items():
        out = collectives.wait_tensor(call(square.apply(x)))
        s.record(name, out, torch.autograd.grad(square.apply(out).sum(), x))


@scenario
def synchronized_batch_norm_on_a_cpu(s):
    overlook_what_gloo_holds(s)

    # Only CUDA has its kernels: these stand in for them.
    def stats(x, eps):
        var, mean = torch.var_mean(x, (0, 2), correction=0)
        return mean, (var + eps).rsqrt()

    def gather(x, mean, invstd, running_mean, running_var, momentum, eps, counts):
        running_mean.mul_(1 - momentum).add_(mean[0], alpha=momentum)
        return mean[0].clone(), invstd[0].clone()

    def elemt(x, weight, bias, mean, invstd, eps):
        return (x - mean[:, None]) * (invstd * weight)[:, None] + bias[:, None]

    def reduce(grad, x, mean, invstd, weight, *needed):
        centred = x - mean[:, None]
        sum_dy, sum_dy_xmu = grad.sum((0, 2)), (grad * centred).sum((0, 2))
        return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy.clone()

    def backward(grad, x, mean, invstd, weight, sum_dy, sum_dy_xmu, count):
        inner = grad - (sum_dy[:, None] + (x - mean[:, None]) * (invstd**2 * sum_dy_xmu)[:, None]) / count.sum()
        return inner * (invstd * weight)[:, None]

    x = s.randn(3, 2, 4, requires_grad=True)
    weight, bias = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)

    def call(*tensors):
        return over(s, SyncBatchNorm).apply(*tensors, 1e-5, 0.1, dist.group.WORLD, 1)

    s.outcome("no kernel", call, x, weight, bias, s.randn(2), s.randn(2))
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("batch_norm_stats", stats, "CPU")
        library.impl("batch_norm_gather_stats_with_counts", gather, "CPU")
        library.impl("batch_norm_elemt", elemt, "CPU")
        library.impl("batch_norm_backward_reduce", reduce, "CPU")
        library.impl("batch_norm_backward_elemt", backward, "CPU")
        for need in (True, True), (True, False), (False, True):
            x, weight = x.detach().requires_grad_(need[0]), weight.detach().requires_grad_(need[1])
            running = s.randn(2), s.randn(2)
            out = call(x, weight, bias, *running)
            (out * out.detach().cos()).sum().backward()
            s.record(f"{need}", out, x, weight, bias, running)
        s.raises("one value per channel", call, s.randn(1, 2, 1), weight, bias, *running)
        empty = s.randn(0, 2, 4, requires_grad=True)
        out = s.outcome("empty", call, empty, weight, bias, *running)
        s.outcome("backward of empty", lambda: (out.sum().backward(), empty.grad))


class Scale(torch.nn.Module):
    def __init__(self, s, with_unused=False):
        super().__init__()
        self.product = make_product(s.Function)
        self.weight = torch.nn.Parameter(s.randn(3))
        if with_unused:
            self.unused = torch.nn.Parameter(s.randn(3))

    def forward(self, x):
        return self.product.apply(x, self.weight.expand_as(x)), x


@scenario
def data_parallel_training(s):
    overlook_what_gloo_holds(s, "Product")
    for options in {}, {"find_unused_parameters": True}, {"static_graph": True}:
        model = DistributedDataParallel(Scale(s, with_unused=bool(options)), **options)
        for step in range(2):
            x = s.randn(2, 3, requires_grad=True)
            out, same = model(x)
            s.record(f"{options}, step {step}: output", type(out.grad_fn).__name__, out.detach())
            (out.sum() + same.sum()).backward()
            s.record("gradients", x.grad, [p.grad for p in model.parameters()])


@scenario
def fully_sharded(s):
    overlook_what_gloo_holds(s, "Product")
    model = fully_shard(torch.nn.Sequential(fully_shard(Scale(s), mesh=mesh())), mesh=mesh())
    x = s.randn(2, 3, requires_grad=True)
    out, same = model(x)
    s.record("outputs", [type(t.grad_fn).__name__ for t in (out, same)], out.detach())
    (out.sum() + same.sum()).backward()
    s.record("gradients", x.grad, model[0].weight.grad.to_local())


@scenario
def distributed_tensors(s):
    overlook_what_gloo_holds(s, "Square")
    square = make_square(s.Function)
    x = s.randn(2, 3, requires_grad=True)
    d = DTensor.from_local(square.apply(x), mesh(), [Shard(0)])
    s.record("distributed", type(d.grad_fn).__name__, d.requires_grad)
    d = d.redistribute(mesh(), [Replicate()])
    s.record("redistributed", type(d.grad_fn).__name__)
    out = square.apply(d.to_local())
    s.record("local", out)
    out.sum().backward()
    s.record("input", x)

    leaf = distribute_tensor(s.randn(2, 3), mesh(), [Shard(0)]).requires_grad_()
    square.apply(leaf).sum().backward()
    s.record("gradient of a distributed leaf", leaf.grad.to_local())
    s.outcome("wrong argument", over(s, _ToTorchTensor).apply, x, None)
    s.outcome("wrong arguments", over(s, _FromTorchTensor).apply, x)
