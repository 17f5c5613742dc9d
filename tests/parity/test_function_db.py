# SPDX-License-Identifier: BSD-3-Clause
"""The Functions that torch tests its own subsystems with, defined again over the base under test."""

import importlib.util
from unittest import mock

import torch
import torch._decomp.decompositions_for_jvp  # torch does so at the first dual level, with warnings
import torch._dynamo  # and this in the first transform: its classes are no leak
from harness import scenario
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap
from torch.testing._internal import autograd_function_db as torchs

NAMES = [info.name for info in torchs.autograd_function_db]


def definition(s, name):
    """The OpInfo with this name, in a fresh copy of torch's module whose classes derive from s.Function."""
    spec = importlib.util.spec_from_file_location(torchs.__name__, torchs.__file__)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(torch.autograd, "Function", s.Function):
        spec.loader.exec_module(module)
    (info,) = [info for info in module.autograd_function_db if info.name == name]
    return info


def samples(s, info, requires_grad):
    """Its inputs. OpInfo.sample_inputs() gives the same, but reads the source of the whole stack for each."""
    torch.manual_seed(0)
    return list(info.sample_inputs_func(info, s.device, torch.float64, requires_grad))


def flat(result):
    return [x for x in torch.utils._pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]


def differentiable(result):
    return [x for x in flat(result) if x.requires_grad]


def db_scenario(name):
    def outputs_and_gradients(s):
        info = definition(s, name)
        for sample in samples(s, info, requires_grad=True):
            leaves = differentiable((sample.input, sample.args))
            result = info.op(sample.input, *sample.args, **sample.kwargs)
            s.record("outputs", result)
            total = sum(x.abs().sum() for x in differentiable(result))
            grads = s.outcome("gradients", lambda: torch.autograd.grad(total, leaves, create_graph=True))
            if differentiable(grads):
                total = sum(x.abs().sum() for x in differentiable(grads))
                s.outcome("double gradients", lambda: torch.autograd.grad(total, leaves, allow_unused=True))

    def numerical_checks(s):
        info = definition(s, name)
        for sample in samples(s, info, requires_grad=True):

            def call(*inputs, sample=sample):
                return tuple(x for x in flat(info.op(*inputs, **sample.kwargs)) if x.is_floating_point())

            inputs = sample.input, *sample.args
            s.outcome("gradcheck", gradcheck, call, inputs, check_forward_ad=info.supports_forward_ad)
            s.outcome("gradgradcheck", gradgradcheck, call, inputs)

    def transforms(s):
        info = definition(s, name)
        for sample in samples(s, info, requires_grad=False):

            def call(x, sample=sample):
                return flat(info.op(x, *sample.args, **sample.kwargs))[0]

            x = sample.input
            batch = torch.stack([x, x + 1])
            s.outcome("grad", grad(lambda x, call=call: call(x).sum()), x)
            s.outcome("jvp", jvp, call, (x,), (torch.ones_like(x),))
            s.outcome("vmap", vmap(call), batch)
            s.outcome("vmap of grad", vmap(grad(lambda x, call=call: call(x).sum())), batch)
            s.outcome("grad of vmap", grad(lambda x, call=call: vmap(call)(x).sum()), batch)

    for body in outputs_and_gradients, numerical_checks, transforms:
        body.__name__ = body.__qualname__ = f"{name}_{body.__name__}"
        globals()[body.__name__] = scenario(body)


for _name in NAMES:
    db_scenario(_name)
