# SPDX-License-Identifier: BSD-3-Clause
"""DistributedDataParallel over custom Functions: its options, its hooks, what it is used with."""

import torch
import torch.distributed as dist
from models import Layer, make_net, make_swish, record_gradients, rows_of_each_rank, train
from on_ranks import on_ranks
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import (
    debugging_hooks,
    default_hooks,
    post_localSGD_hook,
    powerSGD_hook,
    quantization_hooks,
)
from torch.distributed.algorithms.join import Join
from torch.distributed.optim import ZeroRedundancyOptimizer, _apply_optimizer_in_backward
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parallel.distributed import _MixedPrecision
from torch.utils.checkpoint import checkpoint


@on_ranks
def options(s):
    for options in (
        {},
        {"static_graph": True},
        {"find_unused_parameters": True},
        {"gradient_as_bucket_view": True},
        {"bucket_cap_mb": 1e-5},
        {"broadcast_buffers": False, "init_sync": False},
        {"static_graph": True, "gradient_as_bucket_view": True, "bucket_cap_mb": 1e-5},
    ):
        train(s, f"{options}", DistributedDataParallel(make_net(s), **options), rows_of_each_rank(s))


class Branches(nn.Module):
    """Each rank uses another branch, and none the last one."""

    def __init__(self, s):
        super().__init__()
        self.first = Layer(s)
        self.branches = nn.ModuleList(Layer(s) for _ in range(3))

    def forward(self, x):
        return self.branches[dist.get_rank()](self.first(x))


@on_ranks
def unused_parameters(s):
    for options in {"find_unused_parameters": True}, {"find_unused_parameters": True, "gradient_as_bucket_view": True}:
        train(s, f"{options}", DistributedDataParallel(Branches(s), **options), rows_of_each_rank(s))


@on_ranks
def unused_parameters_that_nobody_looks_for(s):
    level = dist.get_debug_level()
    for detail in False, True:
        dist.set_debug_level(dist.DebugLevel.DETAIL if detail else level)
        model = DistributedDataParallel(Branches(s))
        dist.set_debug_level(level)
        x = s.randn(3, 4)
        model(x).sum().backward()
        s.raises(f"next step, with detail: {detail}", model, x)


@on_ranks
def parameters_that_are_used_twice(s):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Layer(s)

        def forward(self, x):
            return self.layer(self.layer(x))

    for options in {}, {"static_graph": True}, {"find_unused_parameters": True}:
        train(s, f"{options}", DistributedDataParallel(Tied(), **options), rows_of_each_rank(s))


@on_ranks
def two_forwards_before_a_backward(s):
    for options in {}, {"static_graph": True}:
        model = DistributedDataParallel(make_net(s), **options)
        for step, x in enumerate(rows_of_each_rank(s)):
            s.outcome(f"{options}, step {step}", lambda x=x: (model(x) * model(x + 1)).mean().backward())
            record_gradients(s, model)
            model.zero_grad()


@on_ranks
def outputs_in_containers(s):
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.swish = Layer(s), make_swish(s.Function)

        def forward(self, x):
            hidden = self.layer(x)
            return {"hidden": hidden, "pair": (self.swish.apply(hidden), x), "none": None, "number": 3}

    for options in {}, {"static_graph": True}, {"find_unused_parameters": True}:
        model = DistributedDataParallel(Many(), **options)
        for step in range(2):
            out = model(s.randn(3, 4))
            s.record(f"{options}, step {step}", out)
            (out["hidden"].sum() + out["pair"][0].sum()).backward()
            record_gradients(s, model)


@on_ranks
def hooks_of_communication(s):
    def mean_of_squares(state, bucket):
        flat = bucket.buffer()
        future = dist.all_reduce(flat.square_(), async_op=True).get_future()
        return future.then(lambda future: future.value()[0] / dist.get_world_size())

    def with_a_function(state, bucket):
        """Calls a custom Function, which makes no node there, when the sum has come."""
        state.append(bucket.index())
        future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        return future.then(lambda future: make_swish(s.Function).apply(future.value()[0]))

    group, calls = dist.group.WORLD, []
    on_gpus = {
        "bfloat16": (group, default_hooks.bf16_compress_hook),
        "quantized": (group, quantization_hooks.quantization_pertensor_hook),
    }
    power = powerSGD_hook.PowerSGDState(group, matrix_approximation_rank=1, start_powerSGD_iter=2)
    hooks = {
        "allreduce": (group, default_hooks.allreduce_hook),
        "half": (group, default_hooks.fp16_compress_hook),
        "half around another": (group, default_hooks.fp16_compress_wrapper(default_hooks.allreduce_hook)),
        "none": (None, debugging_hooks.noop_hook),
        "PowerSGD": (power, powerSGD_hook.powerSGD_hook),
        "local SGD": (post_localSGD_hook.PostLocalSGDState(group, group, 2), post_localSGD_hook.post_localSGD_hook),
        "one's own": (None, mean_of_squares),
        "with a Function": (calls, with_a_function),
        **(on_gpus if s.device.type == "cuda" else {}),
    }
    for name, (state, hook) in hooks.items():
        # PowerSGD's callbacks communicate, and those of several buckets would do so in any order on gloo's threads.
        model = DistributedDataParallel(make_net(s), bucket_cap_mb=25 if name == "PowerSGD" else 1e-5)
        model.register_comm_hook(state, hook)
        train(s, name, model, rows_of_each_rank(s))
    s.record("calls of one's own", calls)
    for kind in dist.BuiltinCommHookType.__members__.values():
        model = DistributedDataParallel(make_net(s))
        model._register_builtin_comm_hook(kind)
        train(s, f"{kind}", model, rows_of_each_rank(s))


@on_ranks
def a_hook_of_communication_that_raises(s):
    def raising(state, bucket):
        raise ValueError("no way to the others")

    for options in {}, {"static_graph": True}:
        model = DistributedDataParallel(make_net(s), **options)
        model.register_comm_hook(None, raising)
        s.raises(f"{options}", lambda: model(s.randn(3, 4)).sum().backward())


class Nothing:
    """An optimizer that does nothing: it was done in backward."""

    zero_grad = step = staticmethod(lambda: None)


@on_ranks
def optimizers_that_step_in_backward(s):
    net = make_net(s)
    _apply_optimizer_in_backward(torch.optim.SGD, net.parameters(), {"lr": 0.1})
    model = DistributedDataParallel(net)
    s.outcome("in backward, which needs an accelerator", train, s, "", model, rows_of_each_rank(s), optimizer=Nothing)

    model = DistributedDataParallel(make_net(s))
    zero = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.SGD, lr=0.1)
    train(s, "sharded", model, rows_of_each_rank(s), optimizer=zero)


@on_ranks
def gradients_summed_over_steps(s):
    for options in {}, {"gradient_as_bucket_view": True}, {"find_unused_parameters": True}:
        model = DistributedDataParallel(make_net(s), **options)
        for step in range(2):
            model.zero_grad()
            with model.no_sync():
                for _ in range(2):
                    model(rows_of_each_rank(s, 1)[0]).square().mean().backward()
                record_gradients(s, model)
            model(rows_of_each_rank(s, 1)[0]).square().mean().backward()
            s.record(f"{options}, step {step}: synchronised")
            record_gradients(s, model)


@on_ranks
def uneven_inputs(s):
    for options in {}, {"gradient_as_bucket_view": True}:
        model = DistributedDataParallel(make_net(s), **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with model.join():
            train(s, f"{options}", model, rows_of_each_rank(s)[: 1 + 2 * dist.get_rank()], optimizer=optimizer)
        s.record("parameters at the end", [p.detach() for p in model.parameters()])
    model = DistributedDataParallel(make_net(s))
    zero = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.SGD, lr=0.1)
    with Join([model, zero]):
        train(s, "two joined", model, rows_of_each_rank(s)[: 1 + 2 * dist.get_rank()], optimizer=zero)


@on_ranks
def uneven_inputs_that_are_an_error(s):
    model = DistributedDataParallel(make_net(s))

    def step():
        with model.join(throw_on_early_termination=True):
            for x in rows_of_each_rank(s)[: 1 + dist.get_rank()]:
                model(x).sum().backward()

    s.raises("a rank that is short of data", step)


@on_ranks
def buffers_are_broadcast(s):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = Layer(s), nn.BatchNorm1d(4, device=s.device)

        def forward(self, x):
            return self.norm(self.layer(x))

    model = DistributedDataParallel(Normed())
    train(s, "normed", model, rows_of_each_rank(s))
    s.record("buffers", dict(model.named_buffers()))


@on_ranks
def layers_that_compute_again(s):
    class Checkpointed(nn.Module):
        def __init__(self, reentrant):
            super().__init__()
            self.layers, self.reentrant = make_net(s, 3), reentrant

        def forward(self, x):
            for layer in self.layers:
                x = checkpoint(layer, x, use_reentrant=self.reentrant)
            return x

    for reentrant in False, True:
        for options in {}, {"static_graph": True}, {"find_unused_parameters": not reentrant}:
            model = DistributedDataParallel(Checkpointed(reentrant), **options)
            xs = [x.requires_grad_() for x in rows_of_each_rank(s)]
            train(s, f"reentrant {reentrant}, {options}", model, xs)


@on_ranks
def mixed_precision(s):
    low = torch.bfloat16
    net, xs = make_net(s), rows_of_each_rank(s)

    def with_low_parameters():
        """A torch for CUDA can't do it without a GPU."""
        train(s, "mixed", DistributedDataParallel(net, mixed_precision=_MixedPrecision(low, low, low)), xs)

    s.outcome("parameters in bfloat16", with_low_parameters)
    model = DistributedDataParallel(make_net(s))
    with torch.autocast(s.device.type, low):
        train(s, "autocast", model, rows_of_each_rank(s))


@on_ranks
def hooks_of_autograd(s):
    model = DistributedDataParallel(make_net(s))
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda grad, name=name: s.record(f"hook of {name}", grad))
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: s.record(f"after {name}"))
    for x in rows_of_each_rank(s, 2):
        out = model(x)
        out.register_hook(lambda grad: grad * 2)
        out.grad_fn.register_prehook(lambda grads: s.record("before the last node", grads))
        out.grad_fn.register_hook(lambda *grads: s.record("after the last node", grads))
        out.square().sum().backward()
        record_gradients(s, model)


@on_ranks
def gradients_that_are_differentiated(s):
    for name, model in ("not parallel", make_net(s)), ("parallel", DistributedDataParallel(make_net(s))):
        x = s.randn(3, 4, requires_grad=True)
        s.outcome(name, lambda: torch.autograd.grad(model(x).sum(), x, create_graph=True)[0].sum().backward())
        record_gradients(s, model)


@on_ranks
def compiled(s):
    torch._dynamo.reset()
    model = torch.compile(DistributedDataParallel(make_net(s)), backend="aot_eager")
    train(s, "compiled", model, rows_of_each_rank(s, 2))
