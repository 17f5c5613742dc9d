# SPDX-License-Identifier: BSD-3-Clause
"""Calling a Function on either side, whatever is installed, and recording what it gives."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from .. import _C
from .copying import Arguments
from .random_state import RandomState
from .recording import Record, see, see_error


def stock_apply(cls: Any) -> Any:
    """``cls.apply`` on stock torch."""
    return _C.torch_apply.__get__(None, cls)


def our_apply(cls: Any) -> Any:
    """``cls.apply`` on torch_ext."""
    return _C.apply.__get__(None, cls)


def record_call(apply: Any, arguments: Arguments, random_state: RandomState) -> Record:
    """Calls ``apply`` with copies of the arguments, and its backward, and says what that gives."""
    record: Record = {}
    random_state.restore()
    try:
        with as_at_first():
            args, kwargs, leaves = arguments.fresh()
            outputs = _flat(apply(*args, **kwargs))
            record |= {f"output {index}": see(each) for index, each in enumerate(outputs)}
            tensors = {index: each for index, each in enumerate(args) if _is_tensor(each)}
            record |= {f"input {index} after the call": see(each) for index, each in tensors.items()}
            gradients = gradients_of(outputs, leaves)
            record |= {f"gradient {index}": see(each) for index, each in enumerate(gradients)}
    except Exception as error:  # noqa: BLE001  # it is a result
        record["raises"] = see_error(error)
    return record


@contextlib.contextmanager
def as_at_first() -> Iterator[None]:
    """Gradients can be computed, whatever surrounds the call."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def gradients_of(outputs: list[Any], leaves: list[torch.Tensor], create_graph: bool = False) -> list[Any]:
    """The gradients of ``leaves`` for gradients of ``outputs`` that are the same each time."""
    roots = [each for each in outputs if _is_tensor(each) and each.requires_grad]
    if not roots or not leaves:
        return []
    numbers = torch.Generator().manual_seed(0)  # its own: other threads may take random numbers meanwhile
    incoming = [_gradient_like(each, numbers) for each in roots]
    return list(torch.autograd.grad(roots, leaves, incoming, create_graph=create_graph, allow_unused=True))


def _gradient_like(output: torch.Tensor, numbers: torch.Generator) -> torch.Tensor:
    if type(output) is not torch.Tensor or output.layout != torch.strided or output.is_nested:
        return torch.ones_like(output)
    dtype = torch.complex64 if output.is_complex() else torch.float32
    return torch.randn(output.shape, generator=numbers, dtype=dtype, device="cpu").to(output.device, output.dtype)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _flat(output: Any) -> list[Any]:
    return list(output) if isinstance(output, (tuple, list)) else [output]
