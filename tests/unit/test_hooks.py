# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.hooks as an API: what it returns, what it rejects, and whose hook objects it creates."""

import pytest
import torch
from torch.utils.hooks import RemovableHandle

import torch_ext
from torch_ext import hooks


class Impostor:
    """Claims to be a tensor."""

    __class__ = torch.Tensor


@pytest.fixture
def leaf():
    return torch.ones(2, requires_grad=True)


def test_it_is_public():
    assert torch_ext.hooks is hooks
    for name in hooks.__all__:
        assert getattr(hooks, name).__doc__


def test_each_returns_a_handle(leaf):
    result = leaf * 2
    accumulate = result.grad_fn.next_functions[0][0]
    handles = [
        hooks.register_tensor_hook(leaf, print),
        hooks.register_tensor_hook(result, print),
        hooks.register_node_prehook(result.grad_fn, print),
        hooks.register_node_posthook(result.grad_fn, print),
        hooks.register_node_prehook(accumulate, print),
        hooks.register_node_posthook(accumulate, print),
        hooks.register_post_accumulate_grad_hook(leaf, print),
    ]
    assert {type(handle) for handle in handles} == {RemovableHandle}
    assert len({handle.id for handle in handles}) == len(handles)


@pytest.mark.parametrize("register", [hooks.register_tensor_hook, hooks.register_post_accumulate_grad_hook])
@pytest.mark.parametrize("wrong", [None, 3, [torch.ones(2)], torch.Tensor, Impostor()], ids=lambda x: type(x).__name__)
def test_what_is_no_tensor_is_refused(register, wrong):
    with pytest.raises(TypeError, match=f"expected a Tensor, got .*{type(wrong).__name__}"):
        register(wrong, print)


@pytest.mark.parametrize("register", [hooks.register_node_prehook, hooks.register_node_posthook])
@pytest.mark.parametrize("wrong", [None, 3, torch.ones(2), torch.autograd.graph.Node], ids=lambda x: type(x).__name__)
def test_what_is_no_node_is_refused(register, wrong):
    with pytest.raises(TypeError, match=f"expected a graph node, such as tensor.grad_fn, got .*{type(wrong).__name__}"):
        register(wrong, print)


@pytest.mark.parametrize("wrong", [None, 3, "hook"])
def test_what_cannot_be_called_is_refused(leaf, wrong):
    result = leaf * 2
    for register, target in (
        (hooks.register_tensor_hook, leaf),
        (hooks.register_post_accumulate_grad_hook, leaf),
        (hooks.register_node_prehook, result.grad_fn),
        (hooks.register_node_posthook, result.grad_fn),
    ):
        with pytest.raises(TypeError, match=f"expected a hook that can be called, got {type(wrong).__name__}"):
            register(target, wrong)
    assert leaf._backward_hooks is None
    assert leaf._post_accumulate_grad_hooks is None


def test_a_refused_tensor_gets_no_dict(leaf):
    plain, result = torch.ones(2), leaf * 2
    with pytest.raises(RuntimeError, match="doesn't require gradient"):
        hooks.register_tensor_hook(plain, print)
    with pytest.raises(RuntimeError, match="cannot be registered on non-leaf tensors"):
        hooks.register_post_accumulate_grad_hook(result, print)
    assert plain._backward_hooks is None
    assert result._post_accumulate_grad_hooks is None


def test_torchs_register_functions_join_the_dict_on_a_node(leaf):
    node = (leaf * 2).grad_fn
    for ours, theirs in (
        (hooks.register_node_prehook, node.register_prehook),
        (hooks.register_node_posthook, node.register_hook),
    ):
        assert ours(node, print).hooks_dict_ref() is theirs(print).hooks_dict_ref()


def test_they_join_the_dict_that_torchs_methods_made(leaf):
    node = (leaf * 2).grad_fn
    for theirs, ours, target in (
        (node.register_prehook, hooks.register_node_prehook, node),
        (node.register_hook, hooks.register_node_posthook, node),
        (leaf.register_hook, hooks.register_tensor_hook, leaf),
        (leaf.register_post_accumulate_grad_hook, hooks.register_post_accumulate_grad_hook, leaf),
    ):
        assert theirs(print).hooks_dict_ref() is ours(target, print).hooks_dict_ref()
