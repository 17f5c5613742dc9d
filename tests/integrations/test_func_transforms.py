# SPDX-License-Identifier: BSD-3-Clause
"""torch.func's transforms nested in each other, around autograd, compiled code and modules.

One transform at a time, and pairs of them, are in ``tests/parity/test_functorch.py``.
"""

import threading

import torch
import torch._decomp.decompositions_for_jvp  # torch does so at the first dual level, with warnings
import torch._dynamo  # and this in the first transform: its classes are no leak
from harness import scenario
from harness.small_functions import make_product, make_square
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    functionalize,
    grad,
    grad_and_value,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    stack_module_state,
    vjp,
    vmap,
)


def make_mix(s, *, own_vmap_rule=False):
    """(x * y, sum of x), with a number among the arguments; its derivatives are Functions too."""
    product = make_product(s.Function)

    class Mix(s.Function):
        generate_vmap_rule = not own_vmap_rule

        @staticmethod
        def forward(x, y, power=2):
            return x**power * y, x.sum(-1)

        @staticmethod
        def setup_context(ctx, inputs, output):
            x, y, ctx.power = inputs
            ctx.save_for_backward(x, y)
            ctx.save_for_forward(x, y)

        @staticmethod
        def backward(ctx, out_grad, sum_grad):
            x, y = ctx.saved_tensors
            slope = ctx.power * x ** (ctx.power - 1)
            x_grad = product.apply(product.apply(out_grad, slope), y)
            return x_grad + sum_grad.unsqueeze(-1), product.apply(out_grad, x**ctx.power), None

        @staticmethod
        def jvp(ctx, x_tangent, y_tangent, _):
            x, y = ctx.saved_tensors
            slope = ctx.power * x ** (ctx.power - 1)
            x_part = product.apply(product.apply(x_tangent, slope), y)
            return x_part + product.apply(y_tangent, x**ctx.power), x_tangent.sum(-1)

    if own_vmap_rule:

        def rule(info, in_dims, x, y, power):
            s.record("rule", info, in_dims)
            x, y = (
                t.unsqueeze(0).expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
                for t, dim in zip((x, y), in_dims, strict=False)
            )
            return Mix.apply(x, y, power), (0, 0)

        Mix.vmap = staticmethod(rule)
    return Mix


def ones_like(tree):
    return torch.utils._pytree.tree_map(torch.ones_like, tree)


def pushed(f):
    return lambda x: jvp(f, (x,), (torch.ones_like(x),))[1]


def pulled(f):
    def transformed(x):
        out, back = vjp(f, x)
        return back(ones_like(out))[0]

    return transformed


def slope(f):
    return grad(lambda x: f(x).sum())


NESTS = {
    "grad of grad of grad": lambda f: slope(slope(slope(f))),
    "vmap of vmap of vmap": lambda f: lambda x: vmap(vmap(vmap(f)))(x.reshape(2, 1, 2, -1)),
    "vmap of grad of vmap": lambda f: lambda x: vmap(slope(vmap(f)))(x.reshape(2, 2, -1)),
    "grad of vmap of grad": lambda f: slope(vmap(slope(f))),
    "vmap of vmap of grad of grad": lambda f: lambda x: vmap(vmap(slope(slope(f))))(x.reshape(2, 2, -1)),
    "jvp of vjp": lambda f: pushed(pulled(f)),
    "vjp of jvp": lambda f: pulled(pushed(f)),
    "jvp of jvp of jvp": lambda f: pushed(pushed(pushed(f))),
    "vmap of jvp of vjp": lambda f: vmap(pushed(pulled(f))),
    "jvp of vmap of grad": lambda f: pushed(vmap(slope(f))),
    "vjp of vmap of jvp": lambda f: pulled(vmap(pushed(f))),
    "grad of jvp of vmap": lambda f: slope(pushed(vmap(f))),
    "vmap of jacrev": lambda f: vmap(jacrev(f)),
    "jacrev of vmap": lambda f: jacrev(vmap(f)),
    "jacfwd of vmap": lambda f: jacfwd(vmap(f)),
    "vmap of jacfwd of jacrev": lambda f: vmap(jacfwd(jacrev(f))),
    "jacrev of jacfwd of grad": lambda f: jacrev(jacfwd(slope(f))),
    "hessian of vmap of grad": lambda f: hessian(lambda x: vmap(slope(f))(x).sum()),
    "jacfwd of hessian": lambda f: jacfwd(hessian(lambda x: f(x).sum())),
    "vmap in chunks of grad": lambda f: vmap(slope(f), chunk_size=1),
    "grad of vmap in chunks": lambda f: slope(vmap(f, chunk_size=1)),
    "functionalize of grad": lambda f: functionalize(slope(f)),
    "vmap of linearize": lambda f: vmap(lambda x: linearize(f, x)[1](torch.ones_like(x))),
}


def nest_scenario(name, transform):
    def nested(s):
        for rule in False, True:
            mix = make_mix(s, own_vmap_rule=rule)
            x = s.randn(4, 2)

            def body(x, mix=mix):
                out, total = mix.apply(x, x.sin(), 3)
                return mix.apply(out, x)[0] * total.unsqueeze(-1)

            s.outcome(f"own vmap rule: {rule}", transform(body), x)
            leaf = x.clone().requires_grad_()
            out = s.outcome("of a leaf", transform(body), leaf)
            if isinstance(out, torch.Tensor) and out.requires_grad:
                s.record("and its gradient", torch.autograd.grad(out.sum(), leaf, allow_unused=True))

    nested.__name__ = nested.__qualname__ = name.replace(" ", "_")
    globals()[nested.__name__] = scenario(nested)


for _name, _transform in NESTS.items():
    nest_scenario(_name, _transform)


# What transforms take and return


@scenario
def dimensions_in_and_out(s):
    for rule in False, True:
        mix = make_mix(s, own_vmap_rule=rule)
        x, y = s.randn(3, 3), s.randn(3, 3)
        for in_dims in (0, 1), (-2, -1), (0, None), (None, 1), [1, 0], (None, None), 0, (5, 0):
            s.outcome(f"{in_dims}", vmap(mix.apply, in_dims=in_dims), x, y)
        for out_dims in 1, (1, 0), (-1, None), (None, None), (0,), 2:
            s.outcome(f"out {out_dims}", vmap(mix.apply, in_dims=(0, 1), out_dims=out_dims), x, y)
        mapped = vmap(vmap(mix.apply, in_dims=(0, None), out_dims=(1, 0)), in_dims=(None, 0), out_dims=(2, 1))
        s.outcome("nested", mapped, s.randn(2, 4), s.randn(3, 4))


@scenario
def structures_of_arguments(s):
    mix = make_mix(s)

    def loss(weights, data, power=2):
        out, total = mix.apply(weights["a"], data[0], power)
        return (out * total + weights["b"][0]).sum(), {"out": out}

    weights, data = {"a": s.randn(3), "b": (s.randn(()),)}, [s.randn(2, 3)]
    s.outcome("grad", grad(loss, has_aux=True), weights, [data[0][0]])
    s.outcome("both", grad(loss, argnums=(1, 0), has_aux=True), weights, [data[0][0]], power=3)
    s.outcome("grad_and_value", grad_and_value(loss, has_aux=True), weights, [data[0][0]])
    s.outcome("per sample", vmap(grad(lambda w, d: loss(w, d)[0]), in_dims=(None, 0)), weights, data)
    s.outcome("mapped dict", vmap(lambda w, d: loss(w, d)[0], in_dims=({"a": None, "b": None}, [0])), weights, data)
    s.outcome("jacrev", jacrev(lambda w, d: loss(w, d)[1]["out"], argnums=(0, 1)), weights, [data[0][0]])
    s.outcome("jacfwd", jacfwd(lambda w, d: loss(w, d)[1]["out"], argnums=1), weights, [data[0][0]])
    s.outcome("vjp", lambda: vjp(loss, weights, [data[0][0]], has_aux=True)[1](torch.ones((), device=s.device)))


@scenario
def jacobians_with_options(s):
    mix = make_mix(s)
    x, y = s.randn(3), s.randn(3)
    for transform in jacrev, jacfwd:
        s.outcome("aux", transform(lambda x, y: mix.apply(x, y), has_aux=True), x, y)
        s.outcome("both outputs", transform(mix.apply, argnums=(0, 1)), x, y)
    for size in 1, 2, None:
        s.outcome(f"chunks of {size}", jacrev(mix.apply, chunk_size=size), x, y)
    s.outcome("randomness", jacfwd(lambda x: mix.apply(x, torch.rand_like(x))[0], randomness="same"), x)


@scenario
def structures_inside_a_call(s):
    class Total(s.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(tensors, options):
            s.record("forward", options, [type(t).__name__ for t in tensors])
            return sum(tensors) * options["scale"]

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("needs_input_grad", ctx.needs_input_grad)

        @staticmethod
        def backward(ctx, y_grad):
            return None, None

    x, y = s.randn(3), s.randn(3, requires_grad=True)
    s.outcome("plain", Total.apply, [x, y], {"scale": 2})
    s.outcome("grad", grad(lambda x: Total.apply([x, y], {"scale": 2}).sum()), x)
    s.outcome("vmap", vmap(lambda x: Total.apply((x, y), {"scale": 2})), s.randn(2, 3))


@scenario
def outputs_that_are_no_tensors(s):
    class Several(s.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x, count):
            return x * count, "text", count, None

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.count = inputs[1]
            s.record("output", output[1:])

        @staticmethod
        def backward(ctx, y_grad, *others):
            s.record("others", others)
            return y_grad * ctx.count, None

        @staticmethod
        def jvp(ctx, x_tangent, _):
            return x_tangent * ctx.count, None, None, None

    x = s.randn(2)
    for count in (3,):
        s.outcome("grad", grad(lambda x: Several.apply(x, count)[0].sum()), x)
        s.outcome("jvp", lambda: jvp(lambda x: Several.apply(x, count)[0], (x,), (x,)))
        s.outcome("vmap", vmap(lambda x: Several.apply(x, count)[0]), x)

    class Nested(Several):
        @staticmethod
        def forward(x, count):
            return (x * count, (x, [x]))

    s.outcome("nested, plain", Nested.apply, x, 2)
    s.outcome("nested, grad", grad(lambda x: Nested.apply(x, 2)[0].sum()), x)


@scenario
def random_numbers_in_each_rule(s):
    class Noise(s.Function):
        generate_vmap_rule = False

        @staticmethod
        def forward(x):
            return x * torch.rand_like(x)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, y_grad):
            return y_grad * torch.rand_like(y_grad)

        @staticmethod
        def vmap(info, in_dims, x):
            s.record("info", info)
            return Noise.apply(x), in_dims[0]

    class Generated(Noise):
        generate_vmap_rule = True
        vmap = s.Function.vmap

    for cls in Noise, Generated:
        for randomness in "error", "same", "different":
            x = s.randn(3, 2)
            s.outcome(f"vmap, {randomness}", vmap(cls.apply, randomness=randomness), x)
            s.outcome(f"vmap of grad, {randomness}", vmap(slope(cls.apply), randomness=randomness), x)


# The ctx object at each level


@scenario
def ctx_in_each_level(s):
    class Talks(s.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x, y):
            s.record("forward", type(x).__name__, torch.is_grad_enabled(), x.requires_grad)
            return x * y

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("setup_context", type(ctx).__name__, ctx.needs_input_grad, output.requires_grad)
            ctx.note = len(vars(ctx)) if hasattr(ctx, "__dict__") else None
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, y_grad):
            s.record("backward", type(ctx).__name__, ctx.needs_input_grad, ctx.note, len(ctx.saved_tensors))
            x, y = ctx.saved_tensors
            return y_grad * y, y_grad * x if ctx.needs_input_grad[1] else None

        @staticmethod
        def jvp(ctx, x_tangent, y_tangent):
            s.record("jvp", type(ctx).__name__, ctx.note, [type(t).__name__ for t in (x_tangent, y_tangent)])
            x, y = ctx.saved_tensors
            return x_tangent * y + (0 if y_tangent is None else y_tangent * x)

    x, y = s.randn(3), s.randn(3, requires_grad=True)
    for name in "grad of grad of grad", "jvp of vjp", "vjp of jvp", "grad of vmap of grad", "vmap of jvp of vjp":
        s.outcome(name, NESTS[name](lambda x: Talks.apply(x, y.sin() if x.dim() else y[0])), x)


@scenario
def class_options_under_transforms(s):
    class Cleared(s.Function):
        generate_vmap_rule = True
        clear_saved_tensors_on_access = True

        @staticmethod
        def forward(x):
            return x**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, y_grad):
            (x,) = ctx.saved_tensors
            s.outcome("again", lambda: ctx.saved_tensors)
            return 2 * x * y_grad

    class Boxed(Cleared):
        clear_saved_tensors_on_access = False
        boxed_grads_call = True

        @staticmethod
        def backward(ctx, *grads):
            s.record("given", [type(g).__name__ for g in grads])
            y_grad = grads[0].pop() if isinstance(grads[0], list) else grads[0]
            return y_grad * 2 * ctx.saved_tensors[0]

    for cls in Cleared, Boxed:
        s.outcome("grad", slope(cls.apply), s.randn(2))
        s.outcome("vmap of grad", vmap(slope(cls.apply)), s.randn(2))
        s.outcome("jacrev", jacrev(cls.apply), s.randn(2))


@scenario
def other_ways_to_write_a_rule(s):
    class Vjp(s.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def vjp(ctx, y_grad):
            return 2 * ctx.saved_tensors[0] * y_grad

    class Once(Vjp):
        vjp = s.Function.vjp

        @staticmethod
        @s.once_differentiable
        def backward(ctx, y_grad):
            return 2 * ctx.saved_tensors[0] * y_grad

    class Both(Once):
        vjp = Vjp.vjp

    class Bound(Vjp):
        backward = Once.backward
        vjp = s.Function.vjp

        @classmethod
        def setup_context(cls, ctx, inputs, output):
            s.record("class", cls.__name__)
            ctx.save_for_backward(*inputs)

    for cls in Vjp, Once, Both, Bound:
        x = s.randn(2)
        s.outcome(f"{cls.__name__}: grad", slope(cls.apply), x)
        s.outcome("vmap of grad", vmap(slope(cls.apply)), x)
        s.outcome("grad of grad", slope(slope(cls.apply)), x)
        s.outcome("grad of vmap", slope(vmap(cls.apply)), x)


@scenario
def rules_that_give_wrong_things(s):
    for name, result in {
        "one gradient too few": lambda g: g,
        "one too many": lambda g: (g, g, g),
        "None": lambda g: None,
        "a number": lambda g: (1.0, None),
        "another shape": lambda g: (g[:1], None),
        "another type": lambda g: (g.double(), None),
        "a list": lambda g: [g, g],
    }.items():

        class Wrong(s.Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(x, y):
                return x * y

            @staticmethod
            def setup_context(ctx, inputs, output):
                pass

            @staticmethod
            def backward(ctx, y_grad, result=result):
                return result(y_grad)

            @staticmethod
            def jvp(ctx, x_tangent, y_tangent, result=result):
                return result(x_tangent)

        x, y = s.randn(3), s.randn(3)
        s.outcome(f"grad, {name}", grad(lambda x, y: Wrong.apply(x, y).sum(), argnums=(0, 1)), x, y)
        s.outcome(f"vmap of grad, {name}", vmap(grad(lambda x, y: Wrong.apply(x, y).sum(), argnums=(0, 1))), x, y)
        s.outcome(f"jvp, {name}", lambda: jvp(Wrong.apply, (x, y), (x, y)))


@scenario(since="2.13")
def keyword_only_tensors(s):
    class Keyword(s.Function):
        generate_vmap_rule = False

        @staticmethod
        def forward(x, *, y=None):
            return x * y

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def vmap(info, in_dims, x, **keywords):
            s.record("rule", in_dims, sorted(keywords))
            return x, in_dims[0]

    x, y = s.randn(3), s.randn(3)
    s.outcome("plain", Keyword.apply, x, y=y)
    s.outcome("vmap", vmap(lambda x: Keyword.apply(x, y=y)), x)
    s.outcome("vmap of a number", vmap(lambda x: Keyword.apply(x, y=2)), x)
    s.outcome("grad", grad(lambda x: Keyword.apply(x, y=y).sum()), x)


# Around and inside: autograd, forward mode, modes, threads


@scenario
def autograd_through_nests(s):
    mix = make_mix(s)
    weight = s.randn(3, requires_grad=True)
    per_sample = vmap(lambda x: slope(lambda x: mix.apply(x, weight)[0])(x))(s.randn(2, 3))
    s.record("per sample", per_sample, torch.autograd.grad(per_sample.square().sum(), weight, create_graph=True))
    out, back = vjp(lambda w: mix.apply(w, w)[0], weight)
    s.record("vjp", torch.autograd.grad(back(out)[0].sum(), weight))
    out, tangent = jvp(lambda w: mix.apply(w, w)[0], (weight,), (torch.ones_like(weight),))
    s.record("jvp", torch.autograd.grad((out * tangent).sum(), weight))


@scenario
def batched_backward(s):
    mix, square = make_mix(s), make_square(s.Function)
    x = s.randn(3, requires_grad=True)
    weights = torch.eye(3, device=s.device)
    for name, body in ("new style", lambda x: mix.apply(x, x)[0]), ("old style", square.apply):
        s.outcome(name, torch.autograd.grad, body(x), x, weights, is_grads_batched=True)
    for strategy in "reverse-mode", "forward-mode":
        options = {"vectorize": True, "strategy": strategy}
        s.outcome(strategy, torch.autograd.functional.jacobian, lambda x: mix.apply(x, x)[0], x, **options)
    hessian_options = {"vectorize": True, "outer_jacobian_strategy": "forward-mode"}
    s.outcome("hessian", torch.autograd.functional.hessian, lambda x: mix.apply(x, x)[0].sum(), x, **hessian_options)

    class CallsOld(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, y_grad):
            s.record("backward", type(y_grad).__name__, torch._C._functorch.maybe_current_level())
            return square.apply(y_grad)

    s.outcome("an old one in backward", torch.autograd.grad, CallsOld.apply(x), x, weights, is_grads_batched=True)


@scenario
def dual_numbers_around_transforms(s):
    mix = make_mix(s)
    with forward_ad.dual_level():
        x = forward_ad.make_dual(s.randn(2, 3), s.randn(2, 3))
        s.outcome("vmap", vmap(lambda x: mix.apply(x, x)[0]), x)
        s.outcome("grad", slope(lambda x: mix.apply(x, x)[0]), x)
        s.outcome("vmap of grad", vmap(slope(lambda x: mix.apply(x, x)[0])), x)


@scenario
def no_grad_and_autocast_inside(s):
    mix, product = make_mix(s), make_product(s.Function)

    def without(x):
        with torch.no_grad():
            kept = product.apply(x, x)
        s.record("kept", kept)
        return mix.apply(x, kept)[0].sum()

    def under_autocast(x):
        with torch.autocast("cpu", torch.bfloat16):
            return product.apply(x @ x.T, x @ x.T).sum()

    s.outcome("no_grad inside", grad(without), s.randn(3))
    with torch.no_grad():
        s.outcome("no_grad around", slope(lambda x: mix.apply(x, x)[0]), s.randn(3))
        s.outcome("vjp under no_grad", lambda: vjp(lambda x: mix.apply(x, x)[0], s.randn(3))[1](s.randn(3)))
    s.outcome("autocast", grad(under_autocast), s.randn(2, 2))
    with torch.inference_mode():
        s.outcome("inference", slope(lambda x: mix.apply(x, x)[0]), s.randn(3))


@scenario
def hooks_inside_transforms(s):
    product = make_product(s.Function)

    def body(x):
        y = product.apply(x, x)
        y.register_hook(lambda g: s.record("hook", type(g).__name__, g.shape) or g * 2)
        s.outcome("retain_grad", y.retain_grad)
        out = product.apply(y, y).sum()
        s.record("node", out.grad_fn.next_functions[0][0].name(), y.grad_fn.name(), type(y.grad_fn).__name__)
        return out

    s.outcome("grad", grad(body), s.randn(3))
    s.outcome("vmap of grad", vmap(grad(body)), s.randn(2, 3))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        s.raises("saved_tensors_hooks", grad(body), s.randn(3))
        s.outcome("vmap", vmap(lambda x: product.apply(x, x)), s.randn(3))


@scenario
def nodes_of_each_level(s):
    product = make_product(s.Function)

    def body(x):
        y = product.apply(x, x)
        node = y.grad_fn
        s.record("class", type(node).__name__, node._forward_cls.__name__, node._forward_cls.__bases__[0].__name__)
        s.record("ctx", isinstance(node, torch._C._FunctionBase), node.needs_input_grad, len(node.saved_tensors))
        return y.sum()

    s.outcome("grad of grad", grad(lambda x: grad(body)(x).sum()), s.randn(3))
    s.outcome("grad of vmap", grad(lambda x: vmap(product.apply)(x, x).sum()), s.randn(3))
    mapped = vmap(lambda x: product.apply(x, x))(s.randn(3, requires_grad=True))
    s.record("of what is mapped", type(mapped.grad_fn).__name__, [n.name() for n, _ in mapped.grad_fn.next_functions])


@scenario
def a_transform_in_each_thread(s):
    mix = make_mix(s)
    results = {}

    def work(number, x):
        f = vmap(slope(lambda x: mix.apply(x, x, number)[0]))
        results[number] = [f(x) for _ in range(20)][-1]

    threads = [threading.Thread(target=work, args=(n, s.randn(2, 3))) for n in (2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    s.record("results", [results[n] for n in (2, 3, 4)])


@scenario
def class_made_inside_a_transform(s):
    def body(x):
        mix = make_mix(s)
        return mix.apply(x, x)[0].sum()

    s.outcome("grad", grad(body), s.randn(3))
    s.outcome("vmap of grad", vmap(grad(body)), s.randn(2, 3))


@scenario
def what_transforms_leave_alive(s):
    mix = make_mix(s)
    x = s.randn(2, 3)
    for name in "vmap of grad of vmap", "jvp of vjp", "grad of vmap of grad":
        transformed = NESTS[name](lambda x: mix.apply(x, x)[0])
        inputs = x.repeat(2, 1)
        s.references(name, lambda: transformed(inputs), inputs, mix, True, repeat=5)


# Modules


@scenario
def ensembles_of_modules(s):
    mix = make_mix(s)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(s.randn(3))
            self.register_buffer("scale", s.randn(3))

        def forward(self, x):
            return mix.apply(self.weight, x)[0] * self.scale

    models = [Layer() for _ in range(3)]
    parameters, buffers = stack_module_state(models)

    def call(parameters, buffers, x):
        return functional_call(models[0], (parameters, buffers), (x,))

    x = s.randn(2, 3)
    s.record("ensemble", vmap(call, in_dims=(0, 0, None))(parameters, buffers, x))
    gradients = vmap(grad(lambda p, b, x: call(p, b, x).sum()), in_dims=(0, 0, None))(parameters, buffers, x)
    s.record("gradients", gradients)
    per_sample = vmap(vmap(grad(lambda p, b, x: call(p, b, x).sum()), (None, None, 0)), (0, 0, None))
    s.record("per sample", per_sample(parameters, buffers, x))
    s.record("and autograd", torch.autograd.grad(gradients["weight"].sum(), parameters["weight"]))


# Compiled code


def compiled(body, **options):
    return torch.compile(body, backend="eager", **options)


@scenario
def around_compiled_code(s):
    product = make_product(s.Function)
    torch._dynamo.reset()
    f = compiled(lambda x: product.apply(x.sin(), x))
    x = s.randn(3)
    s.outcome("grad", slope(f), x)
    s.outcome("vmap of grad", vmap(slope(f)), s.randn(2, 3))
    s.outcome("jacfwd", jacfwd(f), x)
    torch._dynamo.reset()


@scenario
def inside_compiled_code(s):
    product = make_product(s.Function)
    for name, transform in ("vmap of grad", lambda f: vmap(slope(f))), ("jvp", pushed):
        torch._dynamo.reset()
        s.outcome(name, compiled(transform(lambda x: product.apply(x.sin(), x))), s.randn(2, 3))
    torch._dynamo.reset()
