# SPDX-License-Identifier: BSD-3-Clause
"""A Function under the transforms of torch.func."""

import torch
import torch._decomp.decompositions_for_jvp  # torch does so at the first dual level, with warnings
import torch._dynamo  # and this in the first transform: its classes are no leak
from harness import scenario
from harness.small_functions import make_identity, make_product, make_square
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
    vjp,
    vmap,
)


def make_cube(s):
    """x ** 3 and its slope, with a vmap staticmethod."""
    product = make_product(s.Function)

    class Cube(s.Function):
        @staticmethod
        def forward(x):
            s.record("forward", x.shape, type(x).__name__)
            return x**3, 3 * x**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("setup_context", ctx.needs_input_grad)
            ctx.save_for_backward(inputs[0], output[1])
            ctx.save_for_forward(inputs[0], output[1])

        @staticmethod
        def backward(ctx, y_grad, slope_grad):
            x, slope = ctx.saved_tensors
            return product.apply(y_grad, slope) + 6 * product.apply(slope_grad, x)

        @staticmethod
        def jvp(ctx, tangent):
            x, slope = ctx.saved_tensors
            return product.apply(tangent, slope), 6 * product.apply(tangent, x)

        @staticmethod
        def vmap(info, in_dims, x):
            s.record("vmap", info.batch_size, info.randomness, in_dims, x.shape)
            return Cube.apply(x), (in_dims[0], in_dims[0])

    return Cube


TRANSFORMS = {
    "grad": lambda f: grad(lambda x: f(x).sum()),
    "grad of grad": lambda f: grad(lambda x: grad(lambda x: f(x).sum())(x).sum()),
    "grad_and_value": lambda f: grad_and_value(lambda x: f(x).sum()),
    "vmap": lambda f: vmap(f),
    "vmap of vmap": lambda f: lambda x: vmap(vmap(f))(x.reshape(2, 2)),
    "vmap of grad": lambda f: vmap(grad(lambda x: f(x).sum())),
    "grad of vmap": lambda f: grad(lambda x: vmap(f)(x).sum()),
    "vmap of vmap of grad": lambda f: lambda x: vmap(vmap(grad(lambda x: f(x).sum())))(x.reshape(2, 2)),
    "jvp": lambda f: lambda x: jvp(f, (x,), (torch.ones_like(x),)),
    "jvp of jvp": lambda f: (
        lambda x: jvp(lambda x: jvp(f, (x,), (torch.ones_like(x),))[1], (x,), (torch.ones_like(x),))
    ),
    "vmap of jvp": lambda f: vmap(lambda x: jvp(f, (x,), (torch.ones_like(x),))),
    "jvp of vmap": lambda f: lambda x: jvp(vmap(f), (x,), (torch.ones_like(x),)),
    "jvp of grad": lambda f: lambda x: jvp(grad(lambda x: f(x).sum()), (x,), (torch.ones_like(x),)),
    "grad of jvp": lambda f: grad(lambda x: jvp(f, (x,), (torch.ones_like(x),))[1].sum()),
    "vjp": lambda f: lambda x: vjp(f, x)[1](torch.ones_like(x)),
    "vjp of vjp": lambda f: lambda x: vjp(lambda x: vjp(f, x)[1](torch.ones_like(x))[0], x)[1](torch.ones_like(x)),
    "jacrev": lambda f: jacrev(f),
    "jacrev in chunks": lambda f: jacrev(f, chunk_size=1),
    "jacfwd": lambda f: jacfwd(f),
    "jacrev of jacrev": lambda f: jacrev(jacrev(f)),
    "jacfwd of jacfwd": lambda f: jacfwd(jacfwd(f)),
    "jacfwd of jacrev": lambda f: jacfwd(jacrev(f)),
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(f)),
    "hessian": lambda f: hessian(lambda x: f(x).sum()),
    "vmap of hessian": lambda f: lambda x: vmap(hessian(lambda x: f(x).sum()))(x.reshape(2, 2)),
    "functionalize": lambda f: functionalize(f),
}


def transform_scenario(name, transform):
    def with_generated_vmap_rule(s):
        product = make_product(s.Function)
        s.outcome(name, transform(lambda x: product.apply(x, x)), s.randn(4))
        s.outcome(f"{name}, leaf", transform(lambda x: product.apply(x, x)), s.randn(4, requires_grad=True))

    def with_own_vmap_rule(s):
        s.outcome(name, transform(lambda x: make_cube(s).apply(x)[0]), s.randn(4))

    for body in with_generated_vmap_rule, with_own_vmap_rule:
        body.__name__ = f"{name.replace(' ', '_')}_{body.__name__}"
        body.__qualname__ = body.__name__
        globals()[body.__name__] = scenario(body)


for _name, _transform in TRANSFORMS.items():
    transform_scenario(_name, _transform)


@scenario
def linearized(s):
    product = make_product(s.Function)
    value, push = linearize(lambda x: product.apply(x, x), s.randn(3))
    s.record("value", value)
    s.record("pushed", push(s.randn(3)))


@scenario
def autograd_through_a_transform(s):
    product = make_product(s.Function)
    x = s.randn(3, requires_grad=True)
    y = grad(lambda x: product.apply(x, product.apply(x, x)).sum())(x)
    s.record("gradient", y)
    s.record("its gradient", torch.autograd.grad(y.sum(), x))
    y = vmap(lambda x: product.apply(x, x))(x)
    s.record("mapped", y)
    s.record("gradient of mapped", torch.autograd.grad(y.sum(), x))


@scenario
def closed_over_tensor(s):
    product = make_product(s.Function)
    weight = s.randn(3, requires_grad=True)
    y = grad(lambda x: product.apply(x, weight).sum())(s.randn(3))
    s.record("gradient", y)
    y = vmap(lambda x: product.apply(x, weight))(s.randn(2, 3))
    s.record("mapped", y)
    s.record("gradient of the weight", torch.autograd.grad(y.sum(), weight))


@scenario
def old_style_under_each_transform(s):
    square = make_square(s.Function)
    x = s.randn(3)
    s.raises("grad", grad(lambda x: square.apply(x).sum()), x)
    s.raises("vmap", vmap(square.apply), x)
    s.raises("jvp", lambda: jvp(square.apply, (x,), (x,)))
    s.raises("vjp", lambda: vjp(square.apply, x))
    s.outcome("functionalize", functionalize(square.apply), x)


@scenario
def no_vmap_rule(s):
    class NoRule(make_product(s.Function)):
        generate_vmap_rule = False

    s.raises("vmap", vmap(NoRule.apply), s.randn(3), s.randn(3))


@scenario
def both_vmap_rules(s):
    class Both(make_product(s.Function)):
        generate_vmap_rule = True

        @staticmethod
        def vmap(info, in_dims, x, y):
            return x, 0

    s.raises("vmap", vmap(Both.apply), s.randn(3), s.randn(3))


def make_with_vmap(s, rule):
    class Rule(s.Function):
        @staticmethod
        def forward(x, y):
            return x * y

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        vmap = staticmethod(rule)

    return Rule.apply


@scenario
def vmap_rule_returns_wrong_things(s):
    results = {
        "a tensor": lambda x: x,
        "one element": lambda x: (x,),
        "three elements": lambda x: (x, 0, 0),
        "a wrong dim": lambda x: (x, 7),
        "a wrong structure": lambda x: (x, (0, 0)),
        "None": lambda x: None,
        "text dim": lambda x: (x, "0"),
        "unbatched": lambda x: (x.sum(), None),
    }
    for name, result in results.items():
        call = make_with_vmap(s, lambda info, in_dims, x, y, result=result: result(x))
        s.outcome(name, vmap(call), s.randn(3), s.randn(3))


@scenario
def vmap_rule_raises(s):
    def rule(info, in_dims, x, y):
        raise KeyError("vmap")

    s.raises("call", vmap(make_with_vmap(s, rule)), s.randn(3), s.randn(3))
    s.record("level restored", torch._C._functorch.peek_interpreter_stack())


@scenario
def vmap_in_dims(s):
    def rule(info, in_dims, x, y):
        s.record("rule", in_dims, x.shape, y.shape)
        return torch.stack([x.movedim(in_dims[0], 0)[i] for i in range(info.batch_size)]), 0

    call = make_with_vmap(s, rule)
    x, y = s.randn(2, 3), s.randn(2, 3)
    s.record("0, None", vmap(call, in_dims=(0, None))(x, y))
    s.record("1, None", vmap(call, in_dims=(1, None))(x, y))
    s.record("out_dims", vmap(call, in_dims=(1, 1), out_dims=1)(x, y))
    s.record("not mapped at all", vmap(lambda z: call(x, y) + z)(s.randn(4)))


@scenario
def vmap_randomness(s):
    class Noise(s.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x + torch.rand_like(x)

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, grad):
            return grad

    for randomness in "error", "same", "different":
        s.outcome(randomness, vmap(Noise.apply, randomness=randomness), s.randn(3))


@scenario(since="2.13")
def non_tensor_arguments_and_outputs(s):
    class Scale(s.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x, scale, options=None):
            return x * scale, scale

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("inputs", inputs[1:], output[1:])
            ctx.scale = inputs[1]

        @staticmethod
        def backward(ctx, grad, _):
            return grad * ctx.scale, None, None

    x = s.randn(3)
    s.outcome("grad", grad(lambda x: Scale.apply(x, 3)[0].sum()), x)
    s.outcome("vmap", vmap(lambda x: Scale.apply(x, 3)[0]), x)
    s.outcome("keyword", grad(lambda x: Scale.apply(x, scale=3)[0].sum()), x)
    s.outcome("options", grad(lambda x: Scale.apply(x, 3, options={"a": 1})[0].sum()), x)


@scenario(since="2.13")
def keyword_only_argument(s):
    class Scale(s.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x, *, scale=2):
            return x * scale

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("inputs", len(inputs))

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = s.randn(3, requires_grad=True)
    s.outcome("plain", Scale.apply, x, scale=3)
    s.outcome("grad", grad(lambda x: Scale.apply(x, scale=3).sum()), x)
    s.outcome("vmap", vmap(lambda x: Scale.apply(x, scale=3)), x)


@scenario
def in_place_under_transforms(s):
    class Doubles(s.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.mul_(2)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.mark_dirty(inputs[0])

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

        @staticmethod
        def jvp(ctx, tangent):
            return tangent.mul_(2)

    class Own(Doubles):
        generate_vmap_rule = False

        @staticmethod
        def vmap(info, in_dims, x):
            Own.apply(x)
            return x, in_dims[0]

    for cls in Doubles, Own:
        x = s.randn(3)
        s.outcome("grad", grad(lambda x: cls.apply(x.clone()).sum()), x)
        s.outcome("jvp", lambda: jvp(lambda x: cls.apply(x.clone()), (x,), (x,)))
        s.outcome("vmap", vmap(lambda x: cls.apply(x.clone())), x)
        s.outcome("vmap on the input", vmap(cls.apply), x)
        s.record("input", x)
        s.outcome("vmap on what is not mapped", vmap(lambda y: cls.apply(x) + y), s.randn(2))


@scenario
def views_and_inputs_under_transforms(s):
    class Both(s.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x, x[0]

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, same, row):
            return same + row

        @staticmethod
        def jvp(ctx, tangent):
            return tangent, tangent[0]

    x = s.randn(2, 2)
    s.outcome("grad", grad(lambda x: sum(t.sum() for t in Both.apply(x))), x)
    s.outcome("jvp", lambda: jvp(Both.apply, (x,), (x,)))
    s.outcome("vmap", vmap(Both.apply), x)


@scenario
def non_differentiable_under_transforms(s):
    class Sort(s.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.sort()[0], x.argsort()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.mark_non_differentiable(output[1])
            ctx.save_for_backward(output[1])
            ctx.save_for_forward(output[1])

        @staticmethod
        def backward(ctx, grad, _):
            return torch.zeros_like(grad).index_add(0, ctx.saved_tensors[0], grad)

        @staticmethod
        def jvp(ctx, tangent):
            return tangent[ctx.saved_tensors[0]], None

    x = s.randn(3)
    s.outcome("grad", grad(lambda x: (Sort.apply(x)[0] * torch.arange(3, device=s.device)).sum()), x)
    s.outcome("jvp", lambda: jvp(lambda x: Sort.apply(x)[0], (x,), (x,)))
    s.outcome("vmap", vmap(Sort.apply), s.randn(2, 3))
    s.outcome("vmap of grad", vmap(grad(lambda x: Sort.apply(x)[0].sum())), s.randn(2, 3))


@scenario
def undefined_gradients_under_transforms(s):
    for materialize in True, False:

        class Two(s.Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(x, y):
                return x * 2, y * 3

            @staticmethod
            def setup_context(ctx, inputs, output, materialize=materialize):
                ctx.set_materialize_grads(materialize)

            @staticmethod
            def backward(ctx, a, b):
                s.record("given", a is None, b is None, ctx.needs_input_grad)
                return None if a is None else a * 2, None if b is None else b * 3

        x, y = s.randn(3), s.randn(3)
        s.outcome("grad", grad(lambda x, y: Two.apply(x, y)[0].sum(), argnums=(0, 1)), x, y)
        s.outcome("vmap of grad", vmap(grad(lambda x, y: Two.apply(x, y)[0].sum(), argnums=(0, 1))), x, y)


@scenario
def setup_context_without_jvp(s):
    class NoJvp(s.Function):
        @staticmethod
        def forward(x):
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

    x = s.randn(3)
    s.raises("jvp", lambda: jvp(NoJvp.apply, (x,), (x,)))
    s.raises("grad", grad(lambda x: NoJvp.apply(x).sum()), x)
    s.raises("jacfwd", jacfwd(NoJvp.apply), x)


@scenario
def errors_inside_transforms(s):
    class Fails(s.Function):
        generate_vmap_rule = True
        where = None

        @staticmethod
        def step(name):
            if Fails.where == name:
                raise KeyError(name)

        @staticmethod
        def forward(x):
            Fails.step("forward")
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            Fails.step("setup_context")

        @staticmethod
        def backward(ctx, grad):
            Fails.step("backward")
            return grad * 2

        @staticmethod
        def jvp(ctx, tangent):
            Fails.step("jvp")
            return tangent * 2

    x = s.randn(3)
    for where in "forward", "setup_context", "backward", "jvp":
        Fails.where = where
        s.outcome(f"{where}, grad", grad(lambda x: Fails.apply(x).sum()), x)
        s.outcome(f"{where}, vmap of grad", vmap(grad(lambda x: Fails.apply(x).sum())), x)
        s.outcome(f"{where}, jvp", lambda: jvp(Fails.apply, (x,), (x,)))
        s.record("stack", torch._C._functorch.peek_interpreter_stack())
    s.differentiate("still works", make_identity(s.Function).apply, s.randn(2, requires_grad=True))


@scenario
def dead_wrapper_from_a_finished_transform(s):
    product = make_product(s.Function)
    leaked = []

    def keeps(x):
        leaked.append(x)
        leaked.append(product.apply(x, x))
        return leaked[-1].sum()

    x = s.randn(3, requires_grad=True)
    grad(keeps)(x)
    for tensor in leaked[:1]:
        y = product.apply(tensor, tensor)
        s.record("output", y)
        s.record("gradient", torch.autograd.grad(y.sum(), x))
    s.outcome("the output of the other transform", product.apply, leaked[1], leaked[1])
    s.outcome("old style", make_square(s.Function).apply, leaked[0])


@scenario
def dead_wrapper_from_vmap(s):
    product = make_product(s.Function)
    leaked = []
    vmap(lambda x: leaked.append(x) or x)(s.randn(3, requires_grad=True))
    s.outcome("new style", product.apply, leaked[0], leaked[0])
    s.outcome("old style", make_square(s.Function).apply, leaked[0])
    s.outcome("in a tuple", make_identity(s.Function).apply, leaked[0])


@scenario
def dead_wrapper_inside_another_transform(s):
    product = make_product(s.Function)
    leaked = []
    grad(lambda x: leaked.append(x) or x.sum())(s.randn(3))
    s.outcome("grad", grad(lambda x: product.apply(x, leaked[0]).sum()), s.randn(3))
    s.outcome("vmap", vmap(lambda x: product.apply(x, leaked[0])), s.randn(2, 3))


@scenario
def functional_call_of_a_module(s):
    product = make_product(s.Function)

    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(s.randn(3))

        def forward(self, x):
            return product.apply(x, self.weight)

    module = Scale()
    x = s.randn(2, 3)
    weights = {"weight": s.randn(3)}

    def loss(weights, x):
        return functional_call(module, weights, (x,)).sum()

    s.record("plain", functional_call(module, weights, (x[0],)))
    s.record("grad", grad(loss)(weights, x[0]))
    s.record("per sample", vmap(grad(loss), in_dims=(None, 0))(weights, x))


@scenario
def a_function_that_uses_grad_inside(s):
    class Inner(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return grad(lambda x: (x**3).sum())(x)

        @staticmethod
        def backward(ctx, y_grad):
            (x,) = ctx.saved_tensors
            return vjp(grad(lambda x: (x**3).sum()), x)[1](y_grad)[0]

    s.differentiate("inner", Inner.apply, s.randn(3, requires_grad=True))


@scenario
def a_function_that_uses_vmap_in_backward(s):
    product = make_product(s.Function)

    class Mapped(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return vmap(lambda x: product.apply(x, x))(x)

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return vmap(product.apply)(grad, 2 * x)

    s.differentiate("mapped", Mapped.apply, s.randn(3, requires_grad=True))


@scenario
def nodes_under_grad(s):
    product = make_product(s.Function)

    def body(x):
        y = product.apply(x, x)
        s.record("output inside", y)
        return y.sum()

    s.record("gradient", grad(body)(s.randn(2)))


@scenario
def transforms_leave_nothing_behind(s):
    product = make_product(s.Function)
    for name in "grad", "vmap", "jvp", "hessian", "vmap of grad":
        TRANSFORMS[name](lambda x: product.apply(x, x))(s.randn(4))


@scenario
def transform_of_the_class_from_inside_its_forward(s):
    class Recursive(s.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x, depth):
            if depth:
                return grad(lambda x: Recursive.apply(x, depth - 1).sum())(x)
            return x**3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(inputs[0])

        @staticmethod
        def backward(ctx, y_grad):
            (x,) = ctx.saved_tensors
            return y_grad * x * 5, None

    s.outcome("depth 2", Recursive.apply, s.randn(3), 2)


@scenario
def make_fx_of_a_function(s):
    from torch.fx.experimental.proxy_tensor import make_fx

    product = make_product(s.Function)
    x = s.randn(3)
    s.record("plain", make_fx(lambda x: product.apply(x, x))(x).code)
    s.record("grad", make_fx(grad(lambda x: product.apply(x, x).sum()))(x).code)
    s.record("vmap", make_fx(vmap(lambda x: product.apply(x, x)))(x).code)
