# SPDX-License-Identifier: BSD-3-Clause
"""Functions inside torch.nn modules, parametrizations and optimisers, and torch's own Functions."""

import torch
from harness import scenario
from harness.small_functions import make_identity, make_product, make_square
from torch import nn
from torch.nn.utils import parametrize

# torch keeps what it creates for the first jagged tensor.
torch.nested.as_nested_tensor([torch.ones(1)], layout=torch.jagged).requires_grad_()


def make_scale(s):
    product = make_product(s.Function)

    class Scale(nn.Module):
        def __init__(self, size=3):
            super().__init__()
            self.weight = nn.Parameter(s.randn(size))

        def forward(self, x):
            return product.apply(x, self.weight)

    return Scale


@scenario
def module_and_its_hooks(s):
    module = make_scale(s)()
    module.register_forward_pre_hook(lambda m, args: s.record("forward pre", args))
    module.register_forward_hook(lambda m, args, out: s.record("forward", out))
    module.register_full_backward_pre_hook(lambda m, grads: s.record("backward pre", grads))
    module.register_full_backward_hook(lambda m, gin, gout: s.record("backward", gin, gout))
    x = s.randn(3, requires_grad=True)
    y = module(x)
    s.record("output", y)
    y.sum().backward()
    s.record("gradients", x.grad, module.weight.grad)


@scenario
def backward_hooks_that_change_gradients(s):
    module = make_scale(s)()
    module.register_full_backward_pre_hook(lambda m, grads: (grads[0] * 2,))
    module.register_full_backward_hook(lambda m, gin, gout: (gin[0] * 3,))
    x = s.randn(3, requires_grad=True)
    module(x).sum().backward()
    s.record("gradients", x.grad, module.weight.grad)


@scenario
def backward_hooks_that_raise_or_return_wrong_things(s):
    def fails(*args):
        raise KeyError("hook")

    for name, hook in {
        "raises": fails,
        "too many": lambda m, gin, gout: (gin[0], gin[0]),
        "no tensor": lambda m, gin, gout: ("text",),
    }.items():
        module = make_scale(s)()
        module.register_full_backward_hook(hook)
        s.raises(name, lambda module=module: module(s.randn(3, requires_grad=True)).sum().backward())


@scenario
def backward_hook_without_gradient_of_the_input(s):
    module = make_scale(s)()
    module.register_full_backward_hook(lambda m, gin, gout: s.record("backward", gin, gout))
    module(s.randn(3)).sum().backward()
    s.record("gradient", module.weight.grad)


@scenario
def backward_hook_and_an_in_place_change_of_the_output(s):
    module = make_scale(s)()
    module.register_full_backward_hook(lambda *_: None)
    y = module(s.randn(3, requires_grad=True))
    s.raises("output", lambda: y.add_(1))


@scenario
def backward_hook_and_an_in_place_change_of_the_input(s):
    class Changes(nn.Module):
        def forward(self, x):
            return x.add_(1)

    module = Changes()
    module.register_full_backward_hook(lambda *_: None)
    s.raises("input", module, s.randn(3, requires_grad=True) * 1)


@scenario
def legacy_backward_hook(s):
    module = make_scale(s)()
    module.register_backward_hook(lambda m, gin, gout: s.record("backward", gin, gout))
    module(s.randn(3, requires_grad=True)).sum().backward()


@scenario
def hooks_on_every_module(s):
    handles = [
        nn.modules.module.register_module_full_backward_pre_hook(lambda m, g: s.record("pre", type(m).__name__)),
        nn.modules.module.register_module_full_backward_hook(lambda m, i, o: s.record("post", type(m).__name__)),
    ]
    try:
        nn.Sequential(make_scale(s)(), nn.Tanh(), make_scale(s)())(s.randn(3, requires_grad=True)).sum().backward()
    finally:
        for handle in handles:
            handle.remove()


@scenario
def training_steps(s):
    scale = make_scale(s)
    model = nn.Sequential(scale(), nn.Tanh(), scale(), nn.Linear(3, 2)).to(s.device)
    for optimizer_class in torch.optim.SGD, torch.optim.Adam:
        optimizer = optimizer_class(model.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            loss = model(s.randn(3)).pow(2).sum()
            loss.backward()
            optimizer.step()
            s.record("loss", loss.detach())
        s.record("parameters", [p.detach() for p in model.parameters()])


@scenario
def parametrization(s):
    square = make_square(s.Function)

    class Squared(nn.Module):
        def forward(self, weight):
            return square.apply(weight)

    layer = nn.Linear(3, 2).to(s.device)
    parametrize.register_parametrization(layer, "weight", Squared())
    s.record("weight", layer.weight)
    layer(s.randn(3)).sum().backward()
    s.record("gradients", layer.parametrizations.weight.original.grad, layer.bias.grad)
    with parametrize.cached():
        s.record("cached", layer.weight is layer.weight)
    parametrize.remove_parametrizations(layer, "weight")
    s.record("removed", layer.weight)


@scenario
def gradient_clipping_and_hooks_on_parameters(s):
    module = make_scale(s)()
    module.weight.register_hook(lambda grad: s.record("hook", grad) or grad * 10)
    module.weight.register_post_accumulate_grad_hook(lambda p: s.record("accumulated", p.grad))
    module(s.randn(3)).sum().backward()
    s.record("norm", nn.utils.clip_grad_norm_(module.parameters(), 1.0))
    s.record("gradient", module.weight.grad)


@scenario
def spectral_and_weight_norm_around_a_function(s):
    identity = make_identity(s.Function)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2).to(s.device))
    y = identity.apply(layer(s.randn(3)))
    y.sum().backward()
    s.record("gradients", [p.grad for p in layer.parameters()])


@scenario
def straight_through_estimator(s):
    class Round(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.round()

        @staticmethod
        def backward(ctx, grad):
            return grad

    s.differentiate("round", Round.apply, s.randn(4, requires_grad=True))


@scenario
def gradient_reversal(s):
    class Reverse(s.Function):
        @staticmethod
        def forward(ctx, x, strength):
            ctx.strength = strength
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            return -ctx.strength * grad, None

    s.differentiate("reversed", lambda x: Reverse.apply(x, 0.5).sin(), s.randn(4, requires_grad=True))


@scenario
def recurrent_use_over_time(s):
    class Spike(s.Function):
        @staticmethod
        def forward(ctx, voltage):
            ctx.save_for_backward(voltage)
            return (voltage > 0).to(voltage.dtype)

        @staticmethod
        def backward(ctx, grad):
            (voltage,) = ctx.saved_tensors
            return grad / (1 + 10 * voltage.abs()) ** 2

    weight = s.randn(4, 4, requires_grad=True)
    voltage, total = torch.zeros(4, device=s.device), 0
    for _ in range(10):
        voltage = 0.9 * voltage + s.randn(4) @ weight
        spikes = Spike.apply(voltage - 0.5)
        voltage = voltage * (1 - spikes.detach())
        total = total + spikes
    total.sum().backward()
    s.record("total", total, weight.grad)


@scenario
def dirichlet_samples(s):
    alpha = (torch.rand(3, device=s.device) + 0.5).requires_grad_()
    sample = torch.distributions.Dirichlet(alpha).rsample()
    s.record("sample", sample)
    sample[0].backward()
    s.record("gradient", alpha.grad)


@scenario
def jagged_tensors(s):
    x = s.randn(2, 3, requires_grad=True)
    nested = torch.nested.as_nested_tensor([x, x[:1]], layout=torch.jagged)
    s.record("nodes", nested.values().grad_fn.name(), nested.grad_fn.name())
    (nested * 2).values().sum().backward()
    s.record("gradient", x.grad)


@scenario
def embedding_with_a_sparse_gradient(s):
    identity = make_identity(s.Function)
    table = nn.Embedding(5, 3, sparse=True).to(s.device)
    identity.apply(table(s.tensor([1, 3, 1]))).sum().backward()
    s.record("gradient", table.weight.grad)


@scenario
def function_of_parameters_and_buffers(s):
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", s.randn(3))
            self.scale = nn.Parameter(s.randn(3))

        def forward(self, x):
            return make_product(s.Function).apply(x - self.mean, self.scale)

    module = Norm()
    y = module(s.randn(3, requires_grad=True))
    y.sum().backward()
    s.record("gradient", module.scale.grad, y)


@scenario
def module_in_eval_and_frozen(s):
    module = make_scale(s)().eval().requires_grad_(False)
    s.record("frozen", module(s.randn(3)))
    s.record("input only", module(s.randn(3, requires_grad=True)))
