# SPDX-License-Identifier: BSD-3-Clause
"""Hooks on tensors and graph nodes, run by torch_ext.

Each function does what torch's method of the same purpose does, for any tensor
and any node: torch's own nodes, those of stock Functions and of torch_ext's.
Hooks registered here and by torch's methods run in the order in which they were
registered, and :func:`torch.autograd.graph.register_multi_grad_hook` and the like
work with both. Only the way from the engine to the hook is shorter.

A hook costs least if torch_ext was the first to register on the tensor or node:
hooks that come later join the same dict, whoever registers them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import has_torch_function_unary
from torch.utils.hooks import RemovableHandle

from . import _C, _compat

__all__ = [
    "register_node_posthook",
    "register_node_prehook",
    "register_post_accumulate_grad_hook",
    "register_tensor_hook",
]

_Grads = tuple[torch.Tensor | None, ...]


def register_tensor_hook(tensor: torch.Tensor, fn: Callable[[torch.Tensor], torch.Tensor | None]) -> RemovableHandle:
    """Registers ``fn(grad)``, to be called each time a gradient of ``tensor`` is computed.

    As :meth:`torch.Tensor.register_hook`.

    Args:
        tensor: one that requires grad, leaf or not.
        fn: may return a gradient to use in place of ``grad``, like it in shape,
            dtype, device and layout, or None.

    Returns:
        A handle whose ``remove()`` removes the hook.

    Raises:
        RuntimeError: ``tensor`` doesn't require grad.
        TypeError: ``tensor`` is no Tensor, or ``fn`` can't be called.
    """
    _check_callable(fn)
    if _is_up_to_torch(tensor):
        handle: RemovableHandle = tensor.register_hook(fn)
        return handle
    _compat.refresh_view(tensor)
    return _add(_C.tensor_hooks(tensor), fn)


def register_post_accumulate_grad_hook(tensor: torch.Tensor, fn: Callable[[torch.Tensor], None]) -> RemovableHandle:
    """Registers ``fn(tensor)``, to be called each time ``tensor.grad`` has been accumulated.

    As :meth:`torch.Tensor.register_post_accumulate_grad_hook`.

    Args:
        tensor: a leaf that requires grad.
        fn: has to return None.

    Returns:
        A handle whose ``remove()`` removes the hook.

    Raises:
        RuntimeError: ``tensor`` doesn't require grad, or is no leaf.
        TypeError: ``tensor`` is no Tensor, or ``fn`` can't be called.
    """
    _check_callable(fn)
    if _is_up_to_torch(tensor):
        handle: RemovableHandle = tensor.register_post_accumulate_grad_hook(fn)
        return handle
    return _add(_C.post_accumulate_grad_hooks(tensor), fn)


def register_node_prehook(node: torch.autograd.graph.Node, fn: Callable[[_Grads], _Grads | None]) -> RemovableHandle:
    """Registers ``fn(grad_outputs)``, to be called each time before ``node`` runs.

    As :meth:`torch.autograd.graph.Node.register_prehook`.

    Args:
        node: a node of the graph, such as ``tensor.grad_fn``.
        fn: takes the tuple of gradients that the node is to be called with, and
            may return one to use in its place, or None.

    Returns:
        A handle whose ``remove()`` removes the hook.

    Raises:
        TypeError: ``node`` is no node, or ``fn`` can't be called.
    """
    _check_callable(fn)
    return _C.register_prehook(node, fn)


def register_node_posthook(
    node: torch.autograd.graph.Node, fn: Callable[[_Grads, _Grads], _Grads | None]
) -> RemovableHandle:
    """Registers ``fn(grad_inputs, grad_outputs)``, to be called each time ``node`` has run.

    As :meth:`torch.autograd.graph.Node.register_hook`.

    Args:
        node: a node of the graph, such as ``tensor.grad_fn``.
        fn: takes the tuples of gradients that the node returned and was called
            with, and may return a tuple to use in place of the first, or None.

    Returns:
        A handle whose ``remove()`` removes the hook.

    Raises:
        TypeError: ``node`` is no node, or ``fn`` can't be called.
    """
    _check_callable(fn)
    return _C.register_posthook(node, fn)


def _is_up_to_torch(tensor: torch.Tensor) -> bool:
    """Whether ``__torch_function__`` or torch.compile expects torch's method."""
    return isinstance(tensor, torch.Tensor) and (has_torch_function_unary(tensor) or torch.compiler.is_compiling())


def _add(hooks: dict[int, Callable[..., Any]], fn: Callable[..., Any]) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = fn
    return handle


def _check_callable(fn: object) -> None:
    if not callable(fn):
        raise TypeError(f"expected a hook that can be called, got {type(fn).__name__}")
