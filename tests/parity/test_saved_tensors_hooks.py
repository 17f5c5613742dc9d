# SPDX-License-Identifier: BSD-3-Clause
"""saved_tensors_hooks, save_on_cpu and the raw saved tensors."""

import weakref

import torch
from harness import scenario
from harness.small_functions import make_product, make_square
from torch.autograd.graph import disable_saved_tensors_hooks, save_on_cpu, saved_tensors_hooks


def make_saver(s, *, setup=False):
    """A Function that saves input, intermediate, output, None and the input again."""

    def backward(ctx, grad):
        s.record("backward begins")
        saved = ctx.saved_tensors
        s.record("saved", [None if t is None else t.detach() for t in saved])
        s.record("the same objects again", [a is b for a, b in zip(saved, ctx.saved_tensors, strict=True)])
        return grad * saved[1]

    if setup:

        class Saver(s.Function):
            @staticmethod
            def forward(x):
                return x.exp(), x * 2

            @staticmethod
            def setup_context(ctx, inputs, output):
                ctx.mark_non_differentiable(output[1])
                ctx.save_for_backward(inputs[0], output[1], output[0], None, inputs[0])
                s.record("setup_context ends")

            backward = staticmethod(lambda ctx, grad, _: backward(ctx, grad))
    else:

        class Saver(s.Function):
            @staticmethod
            def forward(ctx, x):
                middle, y = x * 2, x.exp()
                ctx.save_for_backward(x, middle, y, None, x)
                s.record("forward ends")
                return y

    if not setup:
        Saver.backward = staticmethod(backward)
    return Saver


def recording_hooks(s):
    def pack(tensor):
        s.record("pack", tensor.detach(), tensor.requires_grad, tensor.is_leaf, torch.is_grad_enabled())
        return tensor.detach() * 10

    def unpack(packed):
        s.record("unpack", packed, torch.is_grad_enabled())
        return packed / 10

    return pack, unpack


@scenario
def pack_and_unpack_in_order(s):
    x = s.randn(2, requires_grad=True)
    with saved_tensors_hooks(*recording_hooks(s)):
        y = make_saver(s).apply(x)
    s.record("output", y)
    y.sum().backward()
    s.record("input", x)


@scenario
def pack_and_unpack_in_order_with_setup_context(s):
    x = s.randn(2, requires_grad=True)
    with saved_tensors_hooks(*recording_hooks(s)):
        y, _ = make_saver(s, setup=True).apply(x)
    y.sum().backward()
    s.record("input", x)


@scenario
def hooks_that_keep_any_object(s):
    store = {}

    def pack(tensor):
        store[len(store)] = tensor.detach().clone()
        return {"key": len(store) - 1}

    x = s.randn(2, requires_grad=True)
    with saved_tensors_hooks(pack, lambda packed: store[packed["key"]]):
        s.differentiate("product", make_product(s.Function).apply, x, s.randn(2, requires_grad=True))
    s.record("store", store)


@scenario
def nested_hooks_use_the_inner(s):
    def named(name):
        return saved_tensors_hooks(
            lambda t: s.record("pack", name) or t.detach(), lambda t: s.record("unpack", name) or t
        )

    square = make_square(s.Function)
    x = s.randn(2, requires_grad=True)
    with named("outer"):
        a = square.apply(x)
        with named("inner"):
            b = square.apply(a)
        c = square.apply(b)
    square.apply(c).sum().backward()
    s.record("input", x)


@scenario
def hooks_with_create_graph(s):
    x = s.randn(2, requires_grad=True)
    with saved_tensors_hooks(lambda t: s.record("pack", t.shape) or t, lambda t: s.record("unpack", t.shape) or t):
        y = make_square(s.Function).apply(x)
        (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        s.record("double", torch.autograd.grad(grad.sum(), x))


@scenario
def unpack_on_each_access(s):
    x = s.randn(2, requires_grad=True)
    with saved_tensors_hooks(*recording_hooks(s)):
        y = make_square(s.Function).apply(x)
    s.record("first", y.grad_fn.saved_tensors)
    s.record("second", y.grad_fn.saved_tensors)
    y.sum().backward(retain_graph=True)
    s.record("input", x)


@scenario
def pack_under_no_grad(s):
    with torch.no_grad(), saved_tensors_hooks(*recording_hooks(s)):
        s.record("output", make_square(s.Function).apply(s.randn(2, requires_grad=True)))


@scenario
def no_pack_without_a_gradient(s):
    with saved_tensors_hooks(*recording_hooks(s)):
        s.record("output", make_square(s.Function).apply(s.randn(2)))


@scenario
def pack_raises(s):
    def pack(tensor):
        raise KeyError("pack")

    x = s.randn(2, requires_grad=True)
    with saved_tensors_hooks(pack, lambda t: t):
        s.raises("call", make_square(s.Function).apply, x)
    s.differentiate("still works", make_square(s.Function).apply, x)


@scenario
def second_pack_raises(s):
    seen = []

    def pack(tensor):
        seen.append(tensor.shape)
        if len(seen) == 2:
            raise KeyError("pack")
        return tensor

    with saved_tensors_hooks(pack, lambda t: t):
        s.raises("call", make_product(s.Function).apply, s.randn(2, requires_grad=True), s.randn(2))
    s.record("seen", seen)


@scenario
def unpack_raises(s):
    def unpack(packed):
        raise KeyError("unpack")

    x = s.randn(2, requires_grad=True)
    with saved_tensors_hooks(lambda t: t, unpack):
        y = make_square(s.Function).apply(x)
    s.raises("backward", lambda: y.sum().backward())
    s.raises("saved_tensors", lambda: y.grad_fn.saved_tensors)


@scenario
def unpack_returns_no_tensor(s):
    x = s.randn(2, requires_grad=True)
    with saved_tensors_hooks(lambda t: t, lambda t: "text"):
        y = make_square(s.Function).apply(x)
    s.raises("backward", lambda: y.sum().backward())


@scenario
def pack_changes_its_argument_in_place(s):
    def pack(tensor):
        with torch.no_grad():
            return tensor.add_(1)

    x = s.randn(2, requires_grad=True) * 1
    with saved_tensors_hooks(pack, lambda t: t):
        s.raises("call", make_square(s.Function).apply, x)


@scenario
def unpack_of_another_shape(s):
    x = s.randn(2, requires_grad=True)
    with saved_tensors_hooks(lambda t: t.detach(), lambda t: t.double().reshape(1, 2)):
        y = make_square(s.Function).apply(x)
    s.record("saved", y.grad_fn.saved_tensors)
    s.outcome("backward", lambda: y.sum().backward())
    s.record("input", x)


@scenario
def disabled_hooks(s):
    x = s.randn(2, requires_grad=True)
    with disable_saved_tensors_hooks("not here"):
        s.differentiate("no hooks", make_square(s.Function).apply, x)
        s.raises("hooks", lambda: saved_tensors_hooks(lambda t: t, lambda t: t).__enter__())
        s.raises("save_on_cpu", lambda: save_on_cpu().__enter__())


@scenario
def saved_on_cpu(s):
    x = s.randn(3, 2, requires_grad=True)
    with save_on_cpu():
        y = make_saver(s).apply(x)
    y.sum().backward()
    s.record("input", x)


@scenario
def hooks_die_with_the_graph(s):
    class Packed:
        def __init__(self, tensor):
            self.tensor = tensor.detach()

    packed = []

    def pack(tensor):
        holder = Packed(tensor)
        packed.append(weakref.ref(holder))
        return holder

    def unpack(holder):
        return holder.tensor

    hooks = weakref.ref(pack), weakref.ref(unpack)
    x = s.randn(2, requires_grad=True)
    with saved_tensors_hooks(pack, unpack):
        y = make_square(s.Function).apply(x)
    s.alive("packed, graph alive", packed[0])
    y.sum().backward()
    s.alive("packed, after backward", packed[0])
    del pack, unpack
    s.alive("pack hook, after backward", hooks[0])
    s.alive("unpack hook, after backward", hooks[1])
    del y
    s.alive("pack hook, graph dead", hooks[0])
    s.alive("unpack hook, graph dead", hooks[1])


@scenario
def raw_saved_tensors(s):
    class Saves(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x, None, x * 2)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = s.randn(2, requires_grad=True)
    y = Saves.apply(x)
    raw = y.grad_fn._raw_saved_tensors
    s.record("raw", [type(saved).__name__ for saved in raw])
    raw[0].register_hooks(lambda t: s.record("pack", t) or 5, lambda p: s.record("unpack", p) or torch.ones(2))
    s.record("saved", y.grad_fn.saved_tensors)
    s.raises("hooks twice", raw[0].register_hooks, lambda t: t, lambda t: t)
    s.outcome("hooks on None", raw[1].register_hooks, lambda t: t, lambda t: t)
    del raw
    y.sum().backward()
    s.raises("raw after backward", lambda: y.grad_fn._raw_saved_tensors)


@scenario
def saved_output_makes_no_cycle(s):
    class Exp(s.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0]

    x = s.randn(2, requires_grad=True)
    y = Exp.apply(x)
    (saved,) = y.grad_fn.saved_tensors
    s.record("is it the output", saved is y, saved)
    node, tensor = weakref.ref(y.grad_fn), weakref.ref(y)
    del y, saved
    s.alive("tensor", tensor)
    s.alive("node", node)


@scenario
def saved_input_is_the_same_object(s):
    x = s.randn(2, requires_grad=True)
    y = make_square(s.Function).apply(x)
    (saved,) = y.grad_fn.saved_tensors
    s.record("is it the input", saved is x)
    middle = x * 2
    y = make_square(s.Function).apply(middle)
    (saved,) = y.grad_fn.saved_tensors
    s.record("is it the intermediate", saved is middle, saved.grad_fn is middle.grad_fn)
    del middle
    s.record("a new one with the same node", y.grad_fn.saved_tensors)


@scenario
def saving_what_is_no_tensor(s):
    def saving(what):
        class Saves(s.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(*what)
                return x * 2

            @staticmethod
            def backward(ctx, grad):
                return grad

        return Saves.apply

    x = s.randn(2, requires_grad=True)
    for what in [(3,), ("text",), ([x],), (x, {}), ((x,),)]:
        s.raises(f"{len(what)} of {type(what[-1]).__name__}", saving(what), x)
        s.outcome(f"without gradient: {type(what[-1]).__name__}", saving(what), x.detach())


@scenario
def to_save_assigned_directly(s):
    def saving(value):
        class Saves(s.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.to_save = value
                return x * 2

            @staticmethod
            def backward(ctx, grad):
                s.record("saved", ctx.saved_tensors)
                return grad * 2

        return Saves.apply

    x = s.randn(2, requires_grad=True)
    for value in (x,), [x], None, 3, x, ():
        y = s.outcome(f"{type(value).__name__}", saving(value), x)
        if y is not None:
            s.outcome("backward", lambda y=y: y.sum().backward())
