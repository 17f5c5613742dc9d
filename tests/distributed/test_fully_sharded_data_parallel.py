# SPDX-License-Identifier: BSD-3-Clause
"""FSDP2's fully_shard over custom Functions: when parameters are gathered, in which precision, where they are kept."""

import torch
from models import Layer, local, make_net, record_gradients, rows_of_each_rank, train
from on_ranks import on_ranks
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
    ShardingStrategy,
    fully_shard,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import Shard
from torch.utils.checkpoint import checkpoint


def sharded(net, **options):
    """Each layer, and then the rest, is sharded."""
    for layer in net:
        fully_shard(layer, **options)
    return fully_shard(net, **options)


@on_ranks
def options(s):
    for label, options in {
        "none": {},
        "gathered again": {"reshard_after_forward": True},
        "gathered once": {"reshard_after_forward": False},
        "gathered again by one": {"reshard_after_forward": 1},
        "along the last dimension": {"shard_placement_fn": lambda parameter: Shard(parameter.dim() - 1)},
        "kept on the CPU": {"offload_policy": CPUOffloadPolicy(pin_memory=s.device.type == "cuda")},
    }.items():
        train(s, label, sharded(make_net(s, 3), **options), rows_of_each_rank(s))


@on_ranks
def mixed_precision(s):
    low = torch.bfloat16
    for policy in (
        MixedPrecisionPolicy(param_dtype=low),
        MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32),
        MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, output_dtype=torch.float32),
        MixedPrecisionPolicy(param_dtype=low, cast_forward_inputs=False),
    ):
        xs = [x if policy.cast_forward_inputs else x.to(low) for x in rows_of_each_rank(s)]
        train(s, f"{policy}", sharded(make_net(s, 3), mp_policy=policy), xs)


@on_ranks
def the_root_alone_or_the_layers_alone(s):
    train(s, "root", fully_shard(make_net(s, 3)), rows_of_each_rank(s))
    net = make_net(s, 3)
    fully_shard(net[1])
    s.outcome("a layer", train, s, "a layer", net, rows_of_each_rank(s))
    net = make_net(s, 3)
    fully_shard([net[0], net[1]])
    train(s, "a group of layers", fully_shard(net), rows_of_each_rank(s))


@on_ranks(count=4)
def replicated_shards(s):
    mesh = init_device_mesh(s.device.type, (2, 2), mesh_dim_names=("replicate", "shard"))
    for reshard in True, False, 1:
        train(s, f"{reshard}", sharded(make_net(s, 3), mesh=mesh, reshard_after_forward=reshard), rows_of_each_rank(s))


@on_ranks
def layers_that_compute_again(s):
    class Checkpointed(nn.Module):
        def __init__(self, reentrant):
            super().__init__()
            self.layer, self.reentrant = Layer(s), reentrant

        def forward(self, x):
            return checkpoint(self.layer, x, use_reentrant=self.reentrant)

    for reentrant in False, True:
        xs = [x.requires_grad_() for x in rows_of_each_rank(s)]
        train(s, f"reentrant: {reentrant}", sharded(nn.Sequential(*(Checkpointed(reentrant) for _ in range(3)))), xs)
    for implementation in CheckpointImpl:
        net = nn.Sequential(*(checkpoint_wrapper(layer, implementation) for layer in make_net(s, 3)))
        xs = [x.requires_grad_() for x in rows_of_each_rank(s)]
        train(s, f"wrapped: {implementation}", sharded(net), xs)


@on_ranks
def gradients_summed_over_steps(s):
    model = sharded(make_net(s, 3))
    for step in range(3):
        model.set_requires_gradient_sync(step == 2)
        model.set_reshard_after_backward(step == 2)
        model.set_is_last_backward(step == 2)
        model(rows_of_each_rank(s, 1)[0]).square().mean().backward()
    record_gradients(s, model)


@on_ranks
def by_hand(s):
    model = sharded(make_net(s, 3))
    model[0].set_modules_to_forward_prefetch([model[1], model[2]])
    model[2].set_modules_to_backward_prefetch([model[1]])
    handle = model.unshard(async_op=True)
    handle.wait()
    train(s, "gathered before", model, rows_of_each_rank(s))
    model.reshard()
    model(s.randn(3, 4)).sum().backward()
    s.record("norm", nn.utils.clip_grad_norm_(model.parameters(), 0.1).full_tensor())
    record_gradients(s, model)
    s.record("state", {name: local(value) for name, value in model.state_dict().items()})


@on_ranks
def hooks_of_autograd(s):
    model = sharded(make_net(s, 2))
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: s.record(f"after {name}", local(p.grad)))
    for x in rows_of_each_rank(s, 2):
        out = model(x)
        out.register_hook(lambda grad: grad * 2)
        out.grad_fn.register_hook(lambda *grads: s.record("after the last node", grads))
        out.square().sum().backward()
        record_gradients(s, model)
        model.zero_grad()


@on_ranks
def saved_tensors_that_are_packed(s):
    model = sharded(make_net(s, 2))
    for hooks in torch.autograd.graph.save_on_cpu(), torch.autograd.graph.saved_tensors_hooks(packing(s), lambda x: x):
        with hooks:
            train(s, type(hooks).__name__, model, rows_of_each_rank(s, 2))


def packing(s):
    def pack(x):
        s.record("packed", list(x.shape))
        return x

    return pack


@on_ranks
def a_part_that_is_not_used(s):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Layer(s), Layer(s)

        def forward(self, x):
            return self.first(x)

    model = Branches()
    for part in model.first, model.second:
        fully_shard(part)
    train(s, "one of two", fully_shard(model), rows_of_each_rank(s))


@on_ranks
def the_first_fsdp(s):
    for options in (
        {},
        {"use_orig_params": True},
        {"sharding_strategy": ShardingStrategy.SHARD_GRAD_OP},
        {"sharding_strategy": ShardingStrategy.NO_SHARD},
        {"mixed_precision": MixedPrecision(torch.bfloat16, torch.float32), "use_orig_params": True},
        {"backward_prefetch": None, "forward_prefetch": True, "limit_all_gathers": False},
    ):
        wrapping = ModuleWrapPolicy({Layer})
        model = FullyShardedDataParallel(make_net(s), auto_wrap_policy=wrapping, device_id=s.device, **options)
        train(s, f"{options}", model, rows_of_each_rank(s))


@on_ranks
def compiled(s):
    torch._dynamo.reset()
    net = make_net(s, 2)
    for layer in net:
        layer.compile(backend="aot_eager")
    train(s, "compiled layers", sharded(net), rows_of_each_rank(s, 2))
