# SPDX-License-Identifier: BSD-3-Clause
"""Copies of the arguments of a call, to call a Function again without touching what the program has."""

from typing import Any

import torch

from .. import _compat


class Arguments:
    """The arguments of a call, copied.

    Tensors are copied, also in lists, tuples and dicts; anything else is the program's own object. One tensor that is
    passed twice is one tensor in the copy too.

    Attributes:
        args, kwargs: the copies; tensors that require grad are leaves.

    Raises:
        Exception: what copying a tensor raises, of a subclass for instance.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = _Copier(is_passed=False).copy((args, kwargs))

    def fresh(self) -> tuple[tuple[Any, ...], dict[str, Any], list[torch.Tensor]]:
        """Arguments for a call, and the leaves behind those that require grad.

        What is passed is no leaf itself: a Function may change it in place.
        """
        copier = _Copier(is_passed=True)
        args, kwargs = copier.copy((self.args, self.kwargs))
        return args, kwargs, copier.leaves


class _Copier:
    """Copies values, each tensor once. For passing on, those that require grad come from a leaf."""

    def __init__(self, *, is_passed: bool) -> None:
        self.leaves: list[torch.Tensor] = []
        self._is_passed = is_passed
        self._copies: dict[int, Any] = {}

    def copy(self, value: Any) -> Any:
        if _compat.is_tensor(value):
            if id(value) not in self._copies:
                self._copies[id(value)] = self._copy_tensor(value)
            return self._copies[id(value)]
        if type(value) in (list, tuple):
            return type(value)(self.copy(each) for each in value)
        if type(value) is dict:
            return {key: self.copy(each) for key, each in value.items()}
        return value

    def _copy_tensor(self, value: torch.Tensor) -> torch.Tensor:
        copy = value.detach().clone()
        if not value.requires_grad:
            return copy
        copy.requires_grad_()
        if not self._is_passed:
            return copy
        self.leaves.append(copy)
        with torch.enable_grad():
            return copy.clone()
