# SPDX-License-Identifier: BSD-3-Clause
"""Hooks on the node of a Function and on its outputs: their arguments, order, removal and errors."""

import weakref

import pytest
import torch
from harness import scenario

import torch_ext


def make_two(s):
    """A Function with two inputs and two outputs."""

    class Two(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            return x * 2, y * 3

        @staticmethod
        def backward(ctx, a, b):
            s.record("backward", a, b)
            return a * 2, b * 3

    return Two


def two_outputs(s):
    return make_two(s).apply(s.randn(2, requires_grad=True), s.randn(2, requires_grad=True))


@scenario
def post_hook(s):
    a, b = two_outputs(s)
    handle = a.grad_fn.register_hook(lambda inputs, outputs: s.record("hook", inputs, outputs))
    s.record("handle", type(handle))
    (a + b).sum().backward()


@scenario
def post_hook_replaces_gradients(s):
    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    a, b = make_two(s).apply(x, y)
    a.grad_fn.register_hook(lambda inputs, outputs: (inputs[0] * 10, inputs[1] * 100))
    (a + b).sum().backward()
    s.record("inputs", x, y)


@scenario
def post_hooks_run_in_order(s):
    a, b = two_outputs(s)
    for name in "abc":
        a.grad_fn.register_hook(lambda inputs, outputs, name=name: s.record(f"hook {name}", inputs))
    (a + b).sum().backward()


@scenario
def post_hooks_see_what_earlier_ones_changed(s):
    a, b = two_outputs(s)
    for _ in range(2):

        def hook(inputs, outputs):
            s.record("hook", inputs)
            return tuple(t * 2 for t in inputs)

        a.grad_fn.register_hook(hook)
    (a + b).sum().backward()


@scenario
def post_hook_removed(s):
    a, b = two_outputs(s)
    handles = [a.grad_fn.register_hook(lambda *args, name=name: s.record(f"hook {name}")) for name in "abc"]
    handles[1].remove()
    handles[1].remove()
    (a + b).sum().backward()


@scenario
def post_hook_removed_by_a_hook(s):
    a, b = two_outputs(s)
    handles = []
    handles.append(a.grad_fn.register_hook(lambda *args: (s.record("first"), handles[1].remove())[0]))
    handles.append(a.grad_fn.register_hook(lambda *args: s.record("second")))
    s.outcome("backward", lambda: (a + b).sum().backward())


@scenario
def post_hook_handle_as_a_context(s):
    a, b = two_outputs(s)
    with a.grad_fn.register_hook(lambda *args: s.record("hook")):
        (a + b).sum().backward(retain_graph=True)
    (a + b).sum().backward()


@scenario
def post_hook_registered_during_backward(s):
    a, b = two_outputs(s)

    def register(grad):
        a.grad_fn.register_hook(lambda *args: s.record("late hook"))

    handle = a.register_hook(register)
    (a + b).sum().backward()
    handle.remove()  # a cycle, which stock leaks


@scenario
def post_hook_with_wrong_results(s):
    wrong = (
        lambda inputs, outputs: 1,
        lambda inputs, outputs: inputs[0],
        lambda inputs, outputs: (inputs[0],),
        lambda inputs, outputs: (inputs[0], 1),
        lambda inputs, outputs: (None, None),
        lambda inputs, outputs: [*inputs],
        lambda inputs, outputs: (inputs[0][:1], inputs[1]),
        lambda inputs, outputs: (inputs[0].double(), inputs[1]),
    )
    for number, hook in enumerate(wrong):
        a, b = two_outputs(s)
        a.grad_fn.register_hook(hook)
        s.outcome(f"hook {number}", lambda a=a, b=b: (a + b).sum().backward())


@scenario
def post_hook_that_raises(s):
    a, b = two_outputs(s)

    def hook(inputs, outputs):
        raise ValueError("from the hook")

    a.grad_fn.register_hook(hook)
    a.grad_fn.register_hook(lambda *args: s.record("never"))
    s.raises("backward", lambda: (a + b).sum().backward())


@scenario
def post_hook_that_takes_too_few_arguments(s):
    a, b = two_outputs(s)
    a.grad_fn.register_hook(lambda: None)
    s.raises("backward", lambda: (a + b).sum().backward())


@scenario
def hook_that_cannot_be_called(s):
    a, _ = two_outputs(s)
    s.outcome("post hook", a.grad_fn.register_hook, 1)
    s.outcome("prehook", a.grad_fn.register_prehook, 1)
    s.raises("no hook", a.grad_fn.register_hook)


@scenario
def pre_hook(s):
    a, b = two_outputs(s)
    a.grad_fn.register_prehook(lambda grads: s.record("hook", grads))
    (a + b).sum().backward()


@scenario
def pre_hook_replaces_gradients(s):
    a, b = two_outputs(s)
    a.grad_fn.register_prehook(lambda grads: tuple(grad * 10 for grad in grads))
    a.grad_fn.register_prehook(lambda grads: s.record("second", grads))
    (a + b).sum().backward()


@scenario
def pre_hook_with_wrong_results(s):
    wrong = (
        lambda grads: 1,
        lambda grads: grads[0],
        lambda grads: (grads[0],),
        lambda grads: (grads[0], 1),
        lambda grads: (None, None),
        lambda grads: (grads[0][:1], grads[1]),
        lambda grads: (grads[0].double(), grads[1]),
    )
    for number, hook in enumerate(wrong):
        a, b = two_outputs(s)
        a.grad_fn.register_prehook(hook)
        s.outcome(f"hook {number}", lambda a=a, b=b: (a + b).sum().backward())


@scenario
def pre_hook_with_undefined_gradients(s):
    a, _ = two_outputs(s)
    a.grad_fn.register_prehook(lambda grads: s.record("hook", grads))
    a.sum().backward()


@scenario
def pre_hook_removed(s):
    a, b = two_outputs(s)
    handle = a.grad_fn.register_prehook(lambda grads: s.record("never"))
    handle.remove()
    (a + b).sum().backward()


@scenario
def pre_hook_that_raises(s):
    a, b = two_outputs(s)

    def hook(grads):
        raise ValueError("from the hook")

    a.grad_fn.register_prehook(hook)
    s.raises("backward", lambda: (a + b).sum().backward())


@scenario
def every_kind_of_hook_in_order(s):
    x = s.randn(2, requires_grad=True)
    a, b = make_two(s).apply(x, x)
    a.grad_fn.register_hook(lambda *args: s.record("post hook 1"))
    a.register_hook(lambda grad: s.record("tensor hook on a"))
    a.grad_fn.register_prehook(lambda grads: s.record("pre hook 1"))
    b.register_hook(lambda grad: s.record("tensor hook on b"))
    a.retain_grad()
    a.grad_fn.register_hook(lambda *args: s.record("post hook 2"))
    handle = a.grad_fn.register_prehook(lambda grads: s.record("pre hook 2", a.grad))
    x.register_hook(lambda grad: s.record("tensor hook on x"))
    x.register_post_accumulate_grad_hook(lambda x: s.record("accumulated", x.grad))
    (a + b).sum().backward()
    handle.remove()  # a cycle, which stock leaks


@scenario
def tensor_hook_on_an_output(s):
    a, b = two_outputs(s)
    handle = a.register_hook(lambda grad: s.record("hook", grad))
    s.record("hooks", len(a._backward_hooks), b._backward_hooks, handle.id in a._backward_hooks)
    (a + b).sum().backward()


@scenario
def tensor_hook_replaces_the_gradient(s):
    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    a, b = make_two(s).apply(x, y)
    a.register_hook(lambda grad: grad * 10)
    (a + b).sum().backward()
    s.record("inputs", x, y)


@scenario
def tensor_hook_with_wrong_results(s):
    for number, hook in enumerate((lambda g: 1, lambda g: (g,), lambda g: g[:1], lambda g: g.double())):
        a, b = two_outputs(s)
        a.register_hook(hook)
        s.outcome(f"hook {number}", lambda a=a, b=b: (a + b).sum().backward())


@scenario
def tensor_hook_on_an_undefined_gradient(s):
    a, b = two_outputs(s)
    b.register_hook(lambda grad: s.record("hook", grad))
    a.sum().backward()


@scenario
def tensor_hook_in_forward(s):
    class Hooks(s.Function):
        @staticmethod
        def forward(ctx, x):
            y = x * 2
            s.raises("on the raw output", y.register_hook, lambda grad: None)
            x.register_hook(lambda grad: s.record("on the input", grad))
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad

    Hooks.apply(s.randn(2, requires_grad=True)).sum().backward()


@scenario
def tensor_hook_on_an_output_modified_in_place(s):
    class Double(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    y = Double.apply(s.randn(2, requires_grad=True))
    y.register_hook(lambda grad: s.record("before", grad))
    y.mul_(5)
    y.register_hook(lambda grad: s.record("after", grad))
    y.sum().backward()


@scenario
def tensor_hook_on_a_leaf_made_dirty(s):
    class AddOne(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.add_(1)

        @staticmethod
        def backward(ctx, grad):
            return grad * 3

    a = s.randn(2, requires_grad=True).clone()
    a.register_hook(lambda grad: s.record("before", grad))
    b = AddOne.apply(a)
    b.register_hook(lambda grad: s.record("after", grad))
    s.record("same", a is b)
    b.sum().backward()


@scenario
def retain_grad_and_then_dirty(s):
    class AddOne(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.add_(1)

        @staticmethod
        def backward(ctx, grad):
            return grad * 3

    a = s.randn(2, requires_grad=True).clone()
    a.retain_grad()
    AddOne.apply(a).sum().backward()
    s.record("retained", a)


@scenario
def multi_grad_hook(s):
    a, b = two_outputs(s)
    torch.autograd.graph.register_multi_grad_hook((a, b), lambda grads: s.record("multi", grads))
    torch.autograd.graph.register_multi_grad_hook((a, b), lambda grad: s.record("any", grad), mode="any")
    (a + b).sum().backward()


@scenario
def hook_that_differentiates(s):
    x = s.randn(2, requires_grad=True)
    a, b = make_two(s).apply(x, x)

    @torch.enable_grad()
    def hook(grad):
        s.record("inner", torch.autograd.grad((x * x).sum(), x))

    a.register_hook(hook)
    (a + b).sum().backward()


@scenario
def hooks_with_create_graph(s):
    x = s.randn(2, requires_grad=True)
    a, b = make_two(s).apply(x * x, x)
    a.grad_fn.register_hook(lambda inputs, outputs: s.record("post", inputs, outputs))
    a.grad_fn.register_prehook(lambda grads: s.record("pre", grads))
    (grad,) = torch.autograd.grad((a * b).sum(), x, create_graph=True)
    s.record("double", torch.autograd.grad(grad.sum(), x))


@scenario
def hooks_of_a_captured_node(s):
    x = s.randn(2, requires_grad=True)
    a, b = make_two(s).apply(x, x)
    a.register_hook(lambda grad: s.record("tensor hook"))
    a.grad_fn.register_prehook(lambda grads: s.record("pre hook"))
    a.grad_fn.register_hook(lambda *args: s.record("post hook"))
    s.record("gradients", torch.autograd.grad((a + b).sum(), [a, b]))


@scenario
def hooks_on_a_node_after_backward(s):
    a, b = two_outputs(s)
    (a + b).sum().backward()
    a.grad_fn.register_hook(lambda *args: s.record("post hook"))
    a.grad_fn.register_prehook(lambda *args: s.record("pre hook"))
    (a + b).sum().backward()


@scenario
def hooks_die_with_the_node(s):
    class Hook:
        def __call__(self, *args):
            pass

    hooks = [Hook() for _ in range(3)]
    refs = [weakref.ref(hook) for hook in hooks]
    a, b = two_outputs(s)
    a.grad_fn.register_hook(hooks[0])
    a.grad_fn.register_prehook(hooks[1])
    a.register_hook(hooks[2])
    del hooks
    for ref in refs:
        s.alive("with the graph", ref)
    del a, b
    for ref in refs:
        s.alive("without it", ref)


@scenario
def removed_hook_is_released(s):
    class Hook:
        def __call__(self, *args):
            pass

    for register in ("register_hook", "register_prehook"):
        a, _ = two_outputs(s)
        hook = Hook()
        ref = weakref.ref(hook)
        handle = getattr(a.grad_fn, register)(hook)
        handle.remove()
        del hook
        s.alive(register, ref)


@scenario
def handle_outlives_the_node(s):
    a, b = two_outputs(s)
    handles = [a.grad_fn.register_hook(print), a.grad_fn.register_prehook(print), a.register_hook(print)]
    del a, b
    for handle in handles:
        s.outcome("remove", handle.remove)


@scenario
def register_hook_dict(s):
    a, b = two_outputs(s)
    a._backward_hooks = {0: lambda grad: s.record("first", grad), 1: lambda grad: grad * 5}
    s.outcome("register", a.grad_fn._register_hook_dict, a)
    s.raises("no tensor", a.grad_fn._register_hook_dict, 1)
    s.raises("nothing", a.grad_fn._register_hook_dict)
    (a + b).sum().backward()
    a._backward_hooks = None


def test_registering_no_dict_raises_where_torch_crashes():
    class Double(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    y = Double.apply(torch.ones(2, requires_grad=True))
    with pytest.raises(RuntimeError, match="expected a Tensor with a dict of backward hooks"):
        y.grad_fn._register_hook_dict(y)


@scenario
def register_hook_of_the_mixin(s):
    a, _ = two_outputs(s)
    hooks, handle = a.grad_fn._register_hook(None, print)
    s.record("hooks", list(hooks.values()), handle.id in hooks)


@scenario
def logging_hooks_on_the_whole_graph(s):
    a, b = two_outputs(s)
    remove = torch.autograd.graph._register_logging_hooks_on_whole_graph([a, b])
    (a + b).sum().backward()
    remove()
