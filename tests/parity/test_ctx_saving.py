# SPDX-License-Identifier: BSD-3-Clause
"""Tensors kept on ctx for backward and for forward-mode derivatives."""

import weakref

import torch
from harness import scenario


def make_saving(s, *, save, needs=lambda saved, grad: grad):
    """A Function that doubles x, does ``save(ctx, x, output)`` in forward and ``needs(saved, grad)`` in backward."""

    class Saving(s.Function):
        @staticmethod
        def forward(ctx, x):
            output = x * 2
            save(ctx, x, output)
            return output

        @staticmethod
        def backward(ctx, grad):
            return needs(ctx.saved_tensors, grad)

    return Saving


@scenario
def nothing_saved(s):
    y = make_saving(s, save=lambda ctx, x, output: None).apply(s.randn(2, requires_grad=True))
    s.record("saved", y.grad_fn.saved_tensors, y.grad_fn._raw_saved_tensors, y.grad_fn.to_save)


@scenario
def input_and_output_saved(s):
    x = s.randn(2, requires_grad=True)
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x, output)).apply(x)
    s.record("saved", y.grad_fn.saved_tensors)
    saved_x, saved_y = y.grad_fn.saved_tensors
    s.record("same objects", saved_x is x, saved_y is y, saved_y.grad_fn is y.grad_fn)


@scenario
def saved_tensors_are_made_anew_on_each_access(s):
    x = s.randn(2, requires_grad=True)
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x * 3, output)).apply(x)
    one, other = y.grad_fn.saved_tensors, y.grad_fn.saved_tensors
    s.record("same", one is other, one[0] is other[0], one[1] is other[1])


@scenario
def intermediate_saved(s):
    x = s.randn(2, requires_grad=True)
    function = make_saving(
        s, save=lambda ctx, x, output: ctx.save_for_backward(x.exp()), needs=lambda saved, grad: grad * saved[0]
    )
    s.differentiate("exp", function.apply, x)


@scenario
def none_saved(s):
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(None, x, None)).apply(
        s.randn(2, requires_grad=True)
    )
    s.record("saved", y.grad_fn.saved_tensors)
    y.sum().backward()


@scenario
def same_tensor_saved_twice(s):
    x = s.randn(2, requires_grad=True)
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x, x)).apply(x)
    s.record("saved", y.grad_fn.saved_tensors)


@scenario
def save_for_backward_called_twice(s):
    def save(ctx, x, output):
        ctx.save_for_backward(x, x)
        ctx.save_for_backward(output)

    y = make_saving(s, save=save).apply(s.randn(2, requires_grad=True))
    s.record("saved", y.grad_fn.saved_tensors)


@scenario
def save_for_backward_called_with_nothing(s):
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward()).apply(s.randn(2, requires_grad=True))
    s.record("saved", y.grad_fn.saved_tensors)


@scenario
def non_tensor_saved(s):
    x = s.randn(2, requires_grad=True)
    for thing in (1, "text", [x], object()):
        function = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x, thing))
        s.raises(f"saving {type(thing).__name__}", function.apply, x)


@scenario
def non_tensor_saved_without_grad(s):
    function = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(1))
    s.outcome("no input requires grad", function.apply, s.randn(2))
    with torch.no_grad():
        s.outcome("no_grad", function.apply, s.randn(2, requires_grad=True))


@scenario
def to_save_assigned(s):
    def save(ctx, x, output):
        s.record("before", ctx.to_save)
        ctx.to_save = (x,)
        s.record("after", ctx.to_save)

    y = make_saving(s, save=save).apply(s.randn(2, requires_grad=True))
    s.record("afterwards", y.grad_fn.to_save, y.grad_fn.saved_tensors)


@scenario
def to_save_is_none(s):
    def save(ctx, x, output):
        ctx.to_save = None

    s.outcome("call", make_saving(s, save=save).apply, s.randn(2, requires_grad=True))


@scenario
def attributes_that_have_to_be_tuples(s):
    for name in ("to_save", "dirty_tensors", "non_differentiable", "saved_for_forward"):
        for value in ([1], 1, "text"):

            def save(ctx, x, output, name=name, value=value):
                setattr(ctx, name, value)

            s.outcome(f"{name} = {value!r}", make_saving(s, save=save).apply, s.randn(2, requires_grad=True))


@scenario
def to_save_deleted(s):
    def save(ctx, x, output):
        ctx.save_for_backward(x)
        del ctx.to_save
        s.record("deleted", ctx.to_save)

    y = make_saving(s, save=save).apply(s.randn(2, requires_grad=True))
    s.record("saved", y.grad_fn.saved_tensors)


@scenario
def saved_without_requires_grad(s):
    fns = []

    def save(ctx, x, output):
        ctx.save_for_backward(x, output)
        fns.append(ctx)

    y = make_saving(s, save=save).apply(s.randn(2))
    s.record("output", y)
    (ctx,) = fns
    s.outcome("saved", lambda: ctx.saved_tensors)
    s.record("to_save", ctx.to_save)
    s.outcome("next_functions", lambda: ctx.next_functions)


@scenario
def saved_tensors_in_forward(s):
    def save(ctx, x, output):
        ctx.save_for_backward(x)
        s.outcome("saved_tensors in forward", lambda: ctx.saved_tensors)
        s.outcome("_raw_saved_tensors in forward", lambda: ctx._raw_saved_tensors)

    make_saving(s, save=save).apply(s.randn(2, requires_grad=True))


@scenario
def saved_tensors_after_backward(s):
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(s.randn(2, requires_grad=True))
    y.sum().backward()
    s.raises("saved_tensors", lambda: y.grad_fn.saved_tensors)
    s.raises("_raw_saved_tensors", lambda: y.grad_fn._raw_saved_tensors)
    s.raises("saved_variables", lambda: y.grad_fn.saved_variables)
    s.raises("second backward", lambda: y.sum().backward())


@scenario
def saved_tensors_after_backward_with_retain_graph(s):
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(s.randn(2, requires_grad=True))
    y.sum().backward(retain_graph=True)
    s.record("saved", y.grad_fn.saved_tensors)


@scenario
def saved_variables_is_deprecated(s):
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(s.randn(2, requires_grad=True))
    s.record("saved", y.grad_fn.saved_variables)


@scenario
def saved_tensors_cannot_be_assigned(s):
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(s.randn(2, requires_grad=True))
    for name in ("saved_tensors", "saved_variables", "_raw_saved_tensors"):
        s.raises(f"set {name}", setattr, y.grad_fn, name, ())
        s.raises(f"delete {name}", delattr, y.grad_fn, name)


@scenario
def saved_input_modified_in_place(s):
    x = s.randn(2, requires_grad=True)
    a = x.clone()
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(a)
    a.add_(1)
    s.raises("backward", lambda: y.sum().backward())
    s.raises("saved_tensors", lambda: y.grad_fn.saved_tensors)


@scenario
def saved_output_modified_in_place(s):
    x = s.randn(2, requires_grad=True)
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(output)).apply(x)
    grad_fn = y.grad_fn
    y.add_(1)
    s.raises("backward", lambda: y.sum().backward())
    s.raises("saved_tensors", lambda: grad_fn.saved_tensors)


@scenario
def saved_intermediate_modified_in_place(s):
    kept = []

    def save(ctx, x, output):
        kept.append(x.exp())
        ctx.save_for_backward(*kept)

    y = make_saving(s, save=save).apply(s.randn(2, requires_grad=True))
    kept[0].zero_()
    s.raises("backward", lambda: y.sum().backward())


@scenario
def saved_modified_through_a_view(s):
    x = s.randn(4, requires_grad=True)
    a = x.clone()
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(a[:2])
    a[2:].zero_()
    s.raises("backward", lambda: y.sum().backward())


@scenario
def saved_modified_through_detach(s):
    a = s.randn(4, requires_grad=True).clone()
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(a)
    a.detach().zero_()
    s.raises("backward", lambda: y.sum().backward())


@scenario
def saved_leaf_modified_under_no_grad(s):
    x = s.randn(4, requires_grad=True)
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(x)
    with torch.no_grad():
        x.zero_()
    s.raises("backward", lambda: y.sum().backward())


@scenario
def saved_data_replaced(s):
    x = s.randn(4, requires_grad=True)
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(x)
    x.data = s.randn(4)
    s.record("saved", y.grad_fn.saved_tensors)


@scenario
def error_that_names_the_function_in_anomaly_mode(s):
    a = s.randn(2, requires_grad=True).clone()
    with torch.autograd.set_detect_anomaly(True):
        y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(a)
        a.add_(1)
        s.raises("saved_tensors", lambda: y.grad_fn.saved_tensors)


@scenario
def saved_output_keeps_no_cycle(s):
    x = s.randn(2, requires_grad=True)
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(output)).apply(x)
    ref, node = weakref.ref(y), weakref.ref(y.grad_fn)
    del y
    s.alive("output", ref)
    s.alive("node", node)


@scenario
def saved_input_is_released_by_backward(s):
    a = s.randn(2, requires_grad=True).clone()
    ref = weakref.ref(a)
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(a)
    del a
    s.alive("before backward", ref)
    y.sum().backward()
    s.alive("after backward", ref)


@scenario
def saved_intermediate_is_released_with_the_graph(s):
    refs = []

    def save(ctx, x, output):
        kept = x.exp()
        refs.append(weakref.ref(kept))
        ctx.save_for_backward(kept)

    y = make_saving(s, save=save).apply(s.randn(2, requires_grad=True))
    s.alive("wrapper while saved", refs[0])
    del y
    s.alive("after the graph", refs[0])


# save_for_forward


def make_forward_saving(s, *saved):
    class Saving(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_forward(*(saved or (x,)))
            s.record("saved_for_forward", ctx.saved_for_forward)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

        @staticmethod
        def jvp(ctx, tangent):
            s.outcome("saved_tensors in jvp", lambda: ctx.saved_tensors)
            return tangent * 2

    return Saving


@scenario
def saved_for_forward_without_forward_mode(s):
    y = make_forward_saving(s).apply(s.randn(2, requires_grad=True))
    s.record("afterwards", y.grad_fn.saved_for_forward, y.grad_fn.saved_tensors)


@scenario
def saved_for_forward_in_forward_mode(s):
    with torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(s.randn(2), s.randn(2))
        s.record("output", make_forward_saving(s).apply(x))


@scenario
def saved_for_forward_and_for_backward_in_forward_mode(s):
    class Both(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x)
            ctx.save_for_forward(y, None)
            return x * y

        @staticmethod
        def backward(ctx, grad):
            s.record("in backward", ctx.saved_tensors)
            return grad, grad

        @staticmethod
        def jvp(ctx, x_tangent, y_tangent):
            s.record("in jvp", ctx.saved_tensors)
            return x_tangent + y_tangent

    with torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(s.randn(2, requires_grad=True), s.randn(2))
        z = Both.apply(x, s.randn(2))
        s.record("output", z)
        s.record("after", z.grad_fn.saved_tensors, z.grad_fn.saved_for_forward)
        z.sum().backward()


@scenario
def save_for_forward_takes_tensors_and_none(s):
    x = s.randn(2)
    make_forward_saving(s, None, x).apply(x)
    s.raises("a number", make_forward_saving(s, 1).apply, x)
    s.raises("a list", make_forward_saving(s, [x]).apply, x)


@scenario
def saved_for_forward_assigned_and_deleted(s):
    y = make_forward_saving(s).apply(s.randn(2, requires_grad=True))
    for value in ((), (1,), None, 1, "text"):
        s.outcome(f"set to {value!r}", setattr, y.grad_fn, "saved_for_forward", value)
        s.record("now", y.grad_fn.saved_for_forward)
    s.outcome("delete", delattr, y.grad_fn, "saved_for_forward")
    s.record("now", y.grad_fn.saved_for_forward)


# clear_saved_tensors_on_access, maybe_clear_saved_tensors


def make_clearing(s, clear=True):
    class Clearing(s.Function):
        clear_saved_tensors_on_access = clear

        @staticmethod
        def forward(ctx, x):
            kept = x.exp()
            ctx.save_for_backward(kept, x)
            return kept

        @staticmethod
        def backward(ctx, grad):
            kept, x = ctx.saved_tensors
            ref = weakref.ref(kept)
            result = grad * kept
            del kept
            s.record("alive after use", ref() is not None)
            s.outcome("second access", lambda: ctx.saved_tensors)
            s.outcome("raw access", lambda: ctx._raw_saved_tensors)
            return result

    return Clearing


@scenario
def saved_tensors_cleared_on_access(s):
    x = s.randn(2, requires_grad=True)
    make_clearing(s).apply(x).sum().backward()
    s.record("input", x)


@scenario
def saved_tensors_not_cleared_on_access(s):
    s.differentiate("keeping", make_clearing(s, clear=False).apply, s.randn(2, requires_grad=True))


@scenario
def cleared_on_access_outside_backward(s):
    y = make_clearing(s).apply(s.randn(2, requires_grad=True))
    s.record("first", y.grad_fn.saved_tensors)
    s.outcome("second", lambda: y.grad_fn.saved_tensors)
    s.outcome("third", lambda: y.grad_fn.saved_tensors)
    s.outcome("backward", lambda: y.sum().backward())


@scenario
def cleared_on_access_with_retain_graph(s):
    y = make_clearing(s).apply(s.randn(2, requires_grad=True))
    y.sum().backward(retain_graph=True)
    s.raises("second backward", lambda: y.sum().backward())


@scenario
def cleared_on_access_with_nothing_saved(s):
    class Clearing(s.Function):
        clear_saved_tensors_on_access = True

        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.outcome("first", lambda: ctx.saved_tensors)
            s.outcome("second", lambda: ctx.saved_tensors)
            return grad

    Clearing.apply(s.randn(2, requires_grad=True)).sum().backward()


@scenario
def clear_on_access_takes_a_bool(s):
    x = s.randn(2, requires_grad=True)
    for value in (1, 0, None, "yes", torch.tensor(True)):
        s.raises(f"{value!r}", make_clearing(s, clear=value).apply, x)
        s.outcome(f"{value!r} and no grad", lambda value=value: make_clearing(s, clear=value).apply(x.detach()))


@scenario
def clear_on_access_set_after_the_first_call(s):
    Clearing = make_clearing(s, clear=False)
    x = s.randn(2, requires_grad=True)
    Clearing.apply(x)
    Clearing.clear_saved_tensors_on_access = True
    y = Clearing.apply(x)
    y.grad_fn.saved_tensors
    s.raises("second access", lambda: y.grad_fn.saved_tensors)


@scenario
def clear_on_access_set_on_ctx(s):
    class OnCtx(s.Function):
        @staticmethod
        def forward(ctx, x):
            s.outcome("set", setattr, ctx, "clear_saved_tensors_on_access", True)
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad

    y = OnCtx.apply(s.randn(2, requires_grad=True))
    s.outcome("first", lambda: y.grad_fn.saved_tensors)
    s.outcome("second", lambda: y.grad_fn.saved_tensors)


@scenario
def maybe_clear_saved_tensors(s):
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(s.randn(2, requires_grad=True))
    s.outcome("call", y.grad_fn.maybe_clear_saved_tensors)
    s.outcome("access", lambda: y.grad_fn.saved_tensors)
    s.raises("with an argument", y.grad_fn.maybe_clear_saved_tensors, 1)
    y.sum().backward()
    s.outcome("after backward", y.grad_fn.maybe_clear_saved_tensors)
    s.outcome("access after backward", lambda: y.grad_fn.saved_tensors)


@scenario
def maybe_clear_saved_tensors_while_kept_for_a_graph(s):
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(s.randn(2, requires_grad=True))

    def clear(grad):
        s.outcome("inside backward", y.grad_fn.maybe_clear_saved_tensors)
        s.outcome("access inside backward", lambda: y.grad_fn.saved_tensors)

    handle = y.register_hook(clear)
    s.outcome("keep graph", lambda: y.sum().backward(retain_graph=True))
    s.outcome("free graph", lambda: y.sum().backward())
    handle.remove()  # a cycle, which stock leaks


# _raw_saved_tensors


@scenario
def raw_saved_tensors(s):
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x, output, None)).apply(
        s.randn(2, requires_grad=True)
    )
    raw = y.grad_fn._raw_saved_tensors
    s.record("raw", type(raw), len(raw), [type(r).__name__ for r in raw])
    s.outcome("data of the input", lambda: raw[0].data)
    s.outcome("data of the output", lambda: raw[1].data)
    s.outcome("data of None", lambda: raw[2].data)


@scenario
def hooks_on_raw_saved_tensors(s):
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x, output)).apply(
        s.randn(2, requires_grad=True)
    )

    def pack(t):
        s.record("pack", t)
        return [t.detach() * 10]

    def unpack(packed):
        s.record("unpack", packed)
        return packed[0] / 10

    for raw in y.grad_fn._raw_saved_tensors:
        raw.register_hooks(pack, unpack)
    s.record("saved", y.grad_fn.saved_tensors)
    y.sum().backward()


@scenario
def hooks_on_raw_saved_tensors_twice(s):
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(s.randn(2, requires_grad=True))
    (raw,) = y.grad_fn._raw_saved_tensors
    raw.register_hooks(lambda t: t, lambda t: t)
    s.raises("again", raw.register_hooks, lambda t: t, lambda t: t)


@scenario
def hooks_on_raw_saved_tensors_that_are_wrong(s):
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x, None)).apply(s.randn(2, requires_grad=True))
    raw, none = y.grad_fn._raw_saved_tensors
    s.raises("no functions", raw.register_hooks, 1, 2)
    s.raises("on None", none.register_hooks, lambda t: t, lambda t: t)
    s.raises("pack modifies in place", raw.register_hooks, lambda t: t.detach().add_(1), lambda t: t)


@scenario
def unpack_hook_that_returns_no_tensor(s):
    y = make_saving(s, save=lambda ctx, x, output: ctx.save_for_backward(x)).apply(s.randn(2, requires_grad=True))
    y.grad_fn._raw_saved_tensors[0].register_hooks(lambda t: 1, lambda packed: packed)
    s.raises("saved_tensors", lambda: y.grad_fn.saved_tensors)
    s.raises("backward", lambda: y.sum().backward())


@scenario
def output_saved_and_hooked_keeps_its_graph(s):
    x = s.randn(2, requires_grad=True)
    function = make_saving(
        s,
        save=lambda ctx, x, output: ctx.save_for_backward(output),
        needs=lambda saved, grad: grad * saved[0],
    )
    y = function.apply(x)
    y.grad_fn._raw_saved_tensors[0].register_hooks(lambda t: t.detach().clone(), lambda t: t)
    (saved,) = y.grad_fn.saved_tensors
    s.record("saved", saved, saved is y)
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    s.record("gradient", grad)
    s.record("double gradient", torch.autograd.grad(grad.sum(), x))
