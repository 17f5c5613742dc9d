# SPDX-License-Identifier: BSD-3-Clause
"""Which tensors can have hooks, and what becomes of the hooks if a tensor is viewed, changed, copied or pickled."""

import copy
import io
import pickle

import pytest
import torch
from harness import scenario
from harness.registering import hooks_of
from torch.utils.hooks import unserializable_hook

import torch_ext


@scenario
def leaf_and_result(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    result = leaf * 2
    hooks.register_tensor_hook(leaf, lambda grad: s.record("leaf", grad, leaf.grad))
    hooks.register_tensor_hook(result, lambda grad: s.record("result", grad, leaf.grad))
    hooks.register_post_accumulate_grad_hook(leaf, lambda leaf: s.record("accumulated", leaf.grad, leaf._version))
    result.sum().backward(retain_graph=True)
    result.sum().backward()


@scenario
def leaf_in_place_of_an_optimizer(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)

    @torch.no_grad()
    def step(leaf):
        leaf.sub_(leaf.grad, alpha=0.1)
        leaf.grad = None

    hooks.register_post_accumulate_grad_hook(leaf, step)
    for _ in range(3):
        (leaf * leaf).sum().backward()
        s.record("leaf", leaf)


@scenario
def leaf_becomes_a_result(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    hooks.register_tensor_hook(leaf, lambda grad: s.record("as a leaf", grad))
    hooks.register_post_accumulate_grad_hook(leaf, lambda leaf: s.record("accumulated", leaf))
    with torch.no_grad():
        leaf.mul_(2)
    leaf.sum().backward()
    leaf.detach_()
    s.record("detached", len(leaf._backward_hooks))
    leaf.requires_grad_()
    leaf.sum().backward()


@scenario
def detached_and_required_again(s):
    hooks = hooks_of(s)
    result = s.randn(2, requires_grad=True) * 2
    hooks.register_tensor_hook(result, lambda grad: s.record("hook", grad))
    result.detach_().requires_grad_()
    result.sum().backward()
    s.record("leaf", result)


@scenario
def tensors_that_cannot_have_hooks(s):
    hooks = hooks_of(s)
    with torch.inference_mode():
        inference = s.randn(2)
    for name, tensor in ("plain", s.randn(2)), ("inference", inference), ("integers", s.tensor([1, 2])):
        s.raises(name, hooks.register_tensor_hook, tensor, print)
        s.raises(name, hooks.register_post_accumulate_grad_hook, tensor, print)
    result = s.randn(2, requires_grad=True) * 2
    s.raises("result", hooks.register_post_accumulate_grad_hook, result, print)
    s.raises("view of a leaf", hooks.register_post_accumulate_grad_hook, s.randn(2, requires_grad=True)[:1], print)
    s.record("no dict was made", result._backward_hooks, result._post_accumulate_grad_hooks)


@scenario
def leaf_that_no_longer_requires_grad(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    hooks.register_tensor_hook(leaf, lambda grad: s.record("hook", grad))
    leaf.requires_grad_(False)
    s.raises("off", hooks.register_tensor_hook, leaf, print)
    leaf.requires_grad_()
    leaf.sum().backward()


@scenario
def parameter(s):
    hooks = hooks_of(s)
    parameter = torch.nn.Parameter(s.randn(2))
    hooks.register_tensor_hook(parameter, lambda grad: s.record("hook", grad))
    hooks.register_post_accumulate_grad_hook(parameter, lambda p: s.record("accumulated", p, p is parameter))
    parameter.sum().backward()


@scenario
def assigned_data(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    hooks.register_tensor_hook(leaf, lambda grad: s.record("hook", grad))
    leaf.data = s.randn(3)
    leaf.sum().backward()


@scenario
def views(s):
    hooks = hooks_of(s)
    base = s.randn(4, requires_grad=True) * 2
    for name, view in ("slice", base[1:]), ("of a view", base.view(2, 2)[0]), ("whole", base.view_as(base)):
        hooks.register_tensor_hook(view, lambda grad, name=name: s.record(name, grad))
        (view * 3).sum().backward(retain_graph=True)
    s.raises("detached", hooks.register_tensor_hook, base.detach(), print)


@scenario
def view_changed_in_place(s):
    hooks = hooks_of(s)
    base = s.randn(4, requires_grad=True) * 2
    view = base[1:]
    for name, tensor in ("base", base), ("view", view):
        hooks.register_tensor_hook(tensor, lambda grad, name=name: s.record(f"{name}, before", grad))
    view.mul_(3)
    s.record("hooks", base._backward_hooks, view._backward_hooks)
    for name, tensor in ("base", base), ("view", view):
        hooks.register_tensor_hook(tensor, lambda grad, name=name: s.record(f"{name}, after", grad))
    (base.sum() + view.sum()).backward()


@scenario
def base_changed_in_place_and_looked_at(s):
    hooks = hooks_of(s)
    base = s.randn(4, requires_grad=True) * 2
    view = base[1:]
    hooks.register_tensor_hook(view, lambda grad: s.record("before", grad))
    base.mul_(3)
    s.record("new node", view.grad_fn, view._backward_hooks)
    hooks.register_tensor_hook(view, lambda grad: s.record("after", grad))
    (base.sum() + view.sum()).backward()


@scenario
def base_changed_in_place_and_not_looked_at(s):
    """The dict of the old hooks is still there, so torch adds to it and not to the new node's."""
    hooks = hooks_of(s)
    base = s.randn(4, requires_grad=True) * 2
    view = base[1:]
    hooks.register_tensor_hook(view, lambda grad: s.record("before", grad))
    base.mul_(3)
    hooks.register_tensor_hook(view, lambda grad: s.record("after", grad))
    (base.sum() + view.sum()).backward()


def test_the_first_hook_on_a_view_of_a_changed_base_runs_where_torch_crashes():
    base = torch.ones(4, requires_grad=True) * 2
    view = base[1:]
    base.mul_(3)
    grads = []
    torch_ext.hooks.register_tensor_hook(view, grads.append)
    (view * 5).sum().backward()
    assert [grad.tolist() for grad in grads] == [[5.0, 5.0, 5.0]]


@scenario
def result_changed_in_place(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    result = leaf * 2
    hooks.register_tensor_hook(result, lambda grad: s.record("before", grad))
    hooks.register_node_prehook(result.grad_fn, lambda grads: s.record("old node", grads))
    result.retain_grad()
    result.mul_(3)
    s.record("hooks", result._backward_hooks)
    hooks.register_tensor_hook(result, lambda grad: s.record("after", grad))
    hooks.register_node_prehook(result.grad_fn, lambda grads: s.record("new node", grads))
    result.sum().backward()
    s.record("tensors", leaf, result.grad)


@scenario
def set_and_swapped(s):
    hooks = hooks_of(s)
    first, second = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    hooks.register_tensor_hook(first, lambda grad: s.record("first", grad))
    hooks.register_post_accumulate_grad_hook(second, lambda leaf: s.record("second", leaf.grad))
    torch.utils.swap_tensors(first, second)
    s.record("hooks", [*first._backward_hooks.values()], [*second._post_accumulate_grad_hooks.values()])
    (first * 2 + second * 3).sum().backward()


@scenario
def grad_inside_hooks(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    result = leaf * 2
    result.retain_grad()

    def assign(grad):
        s.record("grad is", leaf.grad)
        leaf.grad = s.tensor([7.0, 7.0])

    hooks.register_tensor_hook(result, assign)
    hooks.register_node_posthook(result.grad_fn, lambda *_: s.record("posthook", leaf.grad, result.grad))
    hooks.register_tensor_hook(leaf, lambda grad: s.record("leaf", leaf.grad))
    hooks.register_post_accumulate_grad_hook(leaf, lambda leaf: s.record("accumulated", leaf.grad))
    result.sum().backward()


@scenario
def grad_modes_inside_hooks(s):
    hooks = hooks_of(s)
    for create_graph in False, True:
        leaf = s.randn(2, requires_grad=True)
        result = leaf * leaf
        mode = lambda *_: s.record("mode", torch.is_grad_enabled(), torch.is_inference_mode_enabled())  # noqa: E731
        hooks.register_tensor_hook(result, mode)
        hooks.register_node_prehook(result.grad_fn, mode)
        hooks.register_node_posthook(result.grad_fn, mode)
        hooks.register_post_accumulate_grad_hook(leaf, mode)
        result.sum().backward(create_graph=create_graph)
        leaf.grad = None


@scenario
def subclass_with_torch_function(s):
    class Logged(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if "hook" in func.__name__:
                s.record("torch function", func.__qualname__, len(args))
            return super().__torch_function__(func, types, args, kwargs or {})

    hooks = hooks_of(s)
    leaf = s.randn(2).as_subclass(Logged).requires_grad_()
    hooks.register_tensor_hook(leaf, lambda grad: s.record("hook", type(grad)))
    hooks.register_post_accumulate_grad_hook(leaf, lambda leaf: s.record("accumulated", type(leaf)))
    (leaf * 2).sum().backward()


@scenario
def torch_function_mode(s):
    class Log(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            s.record("mode", getattr(func, "__name__", str(func)))
            return func(*args, **(kwargs or {}))

    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    with Log():
        handle = hooks.register_post_accumulate_grad_hook(leaf, lambda leaf: s.record("accumulated"))
    s.record("handle", type(handle), list(leaf._post_accumulate_grad_hooks) == [handle.id])


@scenario
def functorch_transforms(s):
    hooks = hooks_of(s)

    def function(x):
        hooks.register_tensor_hook(x, lambda grad: s.record("input", grad))
        y = x * x
        hooks.register_tensor_hook(y, lambda grad: grad * 2)
        hooks.register_node_prehook(y.grad_fn, lambda grads: s.record("prehook", grads))
        hooks.register_node_posthook(y.grad_fn, lambda *grads: s.record("posthook", grads))
        return y.sum()

    x = s.randn(2)
    s.record("grad", torch.func.grad(function)(x))
    s.record("vjp", torch.func.vjp(function, x)[1](s.tensor(1.0)))
    s.record("grad of grad", torch.func.grad(lambda x: torch.func.grad(function)(x).sum())(x))
    s.record("vmap", torch.func.vmap(torch.func.grad(function))(s.randn(2, 2)))


@scenario
def deep_copy(s):
    hooks = hooks_of(s)
    leaf = s.randn(2, requires_grad=True)
    hooks.register_tensor_hook(leaf, lambda grad: s.record("hook", grad))
    hooks.register_post_accumulate_grad_hook(leaf, lambda leaf: s.record("accumulated", leaf.grad))
    for name, twin in ("deep copy", copy.deepcopy(leaf)), ("copy", copy.copy(leaf)):
        s.record(name, twin, twin._backward_hooks, twin._post_accumulate_grad_hooks)
        twin.sum().backward()
    parameter = torch.nn.Parameter(s.randn(2))
    hooks.register_tensor_hook(parameter, lambda grad: s.record("hook of the parameter", grad))
    copy.deepcopy(parameter).sum().backward()
    result = leaf * 2
    hooks.register_tensor_hook(result, lambda grad: None)
    s.raises("result", copy.deepcopy, result)


def named_hook(grad):
    """A hook that can be pickled."""


@scenario
def pickling(s):
    hooks = hooks_of(s)
    marked = unserializable_hook(lambda grad: None)
    for name, hook in ("plain", named_hook), ("marked", marked):
        leaf = s.randn(2, requires_grad=True)
        hooks.register_tensor_hook(leaf, hook)
        hooks.register_post_accumulate_grad_hook(leaf, hook)
        twin = pickle.loads(pickle.dumps(leaf))
        s.record(name, twin, twin._backward_hooks, twin._post_accumulate_grad_hooks)
        buffer = io.BytesIO()
        torch.save(torch.nn.Parameter(leaf), buffer)
        torch.save(leaf, buffer)
        hooks.register_tensor_hook(leaf, named_hook)
        torch.save({"weight": leaf}, buffer)


@scenario
def registered_in_forward(s):
    hooks = hooks_of(s)

    class Hooks(s.Function):
        @staticmethod
        def forward(ctx, x):
            y = x * 2
            s.raises("on the raw output", hooks.register_tensor_hook, y, print)
            hooks.register_tensor_hook(x, lambda grad: s.record("on the input", grad))
            hooks.register_node_prehook(ctx, lambda grads: s.record("prehook of ctx", grads))
            hooks.register_node_posthook(ctx, lambda *grads: s.record("posthook of ctx", grads))
            return y

        @staticmethod
        def backward(ctx, grad):
            hooks.register_node_posthook(ctx, lambda *grads: s.record("registered in backward", grads))
            return grad * 2

    x = s.randn(2, requires_grad=True)
    y = Hooks.apply(x)
    y.sum().backward(retain_graph=True)
    y.sum().backward()


@pytest.mark.parametrize("way", ["register_tensor_hook", "register_post_accumulate_grad_hook"])
def test_torchs_methods_join_the_dict_that_torch_ext_made(way):
    leaf = torch.ones(2, requires_grad=True)
    ran = []
    getattr(torch_ext.hooks, way)(leaf, lambda what: ran.append("ours"))
    getattr(leaf, {"register_tensor_hook": "register_hook"}.get(way, way))(lambda what: ran.append("torch's"))
    getattr(torch_ext.hooks, way)(leaf, lambda what: ran.append("ours again"))
    leaf.sum().backward()
    assert ran == ["ours", "torch's", "ours again"]
