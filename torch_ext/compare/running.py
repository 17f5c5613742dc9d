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
            seen, outputs, leaves = call(apply, arguments)
            record |= seen
            record |= see_all("gradient", gradients_of(outputs, leaves)[0])
    except Exception as error:  # noqa: BLE001  # it is a result
        record["raises"] = see_error(error)
    return record


def call(apply: Any, arguments: Arguments) -> tuple[Record, list[Any], list[torch.Tensor]]:
    """Calls ``apply`` with copies of the arguments: what is seen then, the outputs, the leaves behind the inputs."""
    args, kwargs, leaves = arguments.fresh()
    outputs = as_list(apply(*args, **kwargs))
    record = see_all("output", outputs)
    tensors = {index: each for index, each in enumerate(args) if _is_tensor(each)}
    record |= {f"input {index} after the call": see(each) for index, each in tensors.items()}
    return record, outputs, leaves


def see_all(name: str, values: list[Any]) -> Record:
    """What is seen of several values, called "NAME 0" and so on."""
    return {f"{name} {index}": see(each) for index, each in enumerate(values)}


@contextlib.contextmanager
def as_at_first() -> Iterator[None]:
    """Gradients can be computed, whatever surrounds the call."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def gradients_of(
    outputs: list[Any], leaves: list[torch.Tensor], create_graph: bool = False
) -> tuple[list[Any], list[torch.Tensor]]:
    """The gradients of ``leaves``, and those of ``outputs`` that they come from: the same each time.

    With ``create_graph`` all of them can be differentiated again.
    """
    roots = [each for each in outputs if _is_tensor(each) and each.requires_grad]
    if not roots or not leaves:
        return [], []
    numbers = torch.Generator().manual_seed(0)  # its own: other threads may take random numbers meanwhile
    incoming = [gradient_like(each, numbers).requires_grad_(create_graph) for each in roots]
    return list(torch.autograd.grad(roots, leaves, incoming, create_graph=create_graph, allow_unused=True)), incoming


def gradient_like(output: torch.Tensor, numbers: torch.Generator) -> torch.Tensor:
    """A gradient, or a tangent, for ``output``."""
    if type(output) is not torch.Tensor or output.layout != torch.strided or output.is_nested:
        return torch.ones_like(output)
    dtype = torch.complex64 if output.is_complex() else torch.float32
    return torch.randn(output.shape, generator=numbers, dtype=dtype, device="cpu").to(output.device, output.dtype)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def as_list(output: Any) -> list[Any]:
    """What a Function returns, as a list."""
    return list(output) if isinstance(output, (tuple, list)) else [output]
