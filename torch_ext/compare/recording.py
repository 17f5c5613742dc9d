# SPDX-License-Identifier: BSD-3-Clause
"""What can be seen of a call's results, so that two calls can be compared bit for bit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .. import _C, _compat
from .texts import without_addresses

_FACTS: dict[str, Callable[[Any], Any]] = {
    "dtype": lambda t: t.dtype,
    "shape": lambda t: tuple(t.shape),
    "strides": lambda t: t.stride(),
    "device": lambda t: t.device,
    "layout": lambda t: t.layout,
    "requires_grad": lambda t: t.requires_grad,
    "is_leaf": lambda t: t.is_leaf,
    "version": lambda t: t._version,
    "is a view": lambda t: t._is_view(),
    "is_conj": lambda t: t.is_conj(),
    "grad_fn": lambda t: t.grad_fn and t.grad_fn.name(),
    "next_functions": lambda t: t.grad_fn and [(node and node.name(), nr) for node, nr in t.grad_fn.next_functions],
}


@dataclass(frozen=True)
class Seen:
    """What is seen of one value.

    Attributes:
        facts: names and texts.
        parts: if it is a tensor, the dense tensors that hold its values.
    """

    facts: dict[str, str]
    parts: tuple[torch.Tensor, ...] = ()


#: What a call gave, by names: "output 0", "gradient of input 1", "raises".
Record = dict[str, Seen]


def see(value: Any) -> Seen:
    """What is seen of ``value``. Runs no code of a tensor's subclass."""
    if not _compat.is_tensor(value):
        return Seen({"value": without_addresses(repr(value))})
    with _compat.without_overrides():
        facts = {"type": type(value).__name__, **{name: _fact(read, value) for name, read in _FACTS.items()}}
    # Not the tensor itself: its graph would live as long as the record.
    return Seen(facts, tuple(each.detach() for each in _compat.parts_of(value)))


def _fact(read: Callable[[Any], Any], tensor: torch.Tensor) -> str:
    try:
        return str(read(tensor))
    except (RuntimeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {error}"


def see_error(error: Exception) -> Seen:
    """What is seen of an exception: type and text, without addresses."""
    return Seen({"exception": without_addresses(f"{type(error).__name__}: {error}")})


def differences(stock: Record, ours: Record) -> Iterator[tuple[str, str, str]]:
    """(what, on stock torch, on torch_ext) of all that differs."""
    for name in {**stock, **ours}:
        if name not in stock or name not in ours:
            there = "there", "not there"
            yield (name, *(there if name in stock else there[::-1]))
            continue
        one, other = stock[name], ours[name]
        facts = {**one.facts, **other.facts}
        found = [each for each in facts if one.facts.get(each) != other.facts.get(each)]
        for fact in found:
            yield f"{name}: {fact}", one.facts.get(fact, "not there"), other.facts.get(fact, "not there")
        if not found:
            pairs = zip(one.parts, other.parts, strict=True)
            yield from (_first(name, *pair) for pair in pairs if not is_same_bits(*pair))


def is_same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have the same bits, NaN and the sign of zero included."""
    readable = _C.can_be_read(one)
    if (one.shape, one.dtype, readable) != (other.shape, other.dtype, _C.can_be_read(other)):
        return False
    if not readable:  # they have no values, such as those of meta
        return True
    with _compat.without_overrides(), torch.no_grad():
        return torch.equal(_bits(one), _bits(other))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def _first(name: str, one: torch.Tensor, other: torch.Tensor) -> tuple[str, str, str]:
    """What differs of two tensors of one form, and the first such element of both."""
    if one.shape != other.shape or one.dtype != other.dtype:  # parts of a sparse tensor or a subclass's
        left, right = (f"{tuple(each.shape)}, {each.dtype}" for each in (one, other))
        return f"{name}: values", left, right
    readable = [_C.can_be_read(each) for each in (one, other)]
    if not all(readable):
        left, right = ("there" if each else "not there" for each in readable)
        return f"{name}: values", left, right
    with _compat.without_overrides(), torch.no_grad():
        size = one.element_size()
        differ = (_bits(one).view(-1, size) != _bits(other).view(-1, size)).any(1).nonzero()[:, 0]
        index = int(differ[0])
        left, right = (_element(each, index) for each in (one, other))
    more = f" and {len(differ) - 1} more" if len(differ) > 1 else ""
    return f"{name}: element {index}{more}", left, right


def _element(tensor: torch.Tensor, index: int) -> str:
    value = tensor.resolve_conj().resolve_neg().reshape(-1)[index]
    number = value.item()
    bits = bytes(_bits(value).tolist()).hex()
    return repr(number) if number == number else f"{number!r} (bits {bits})"  # noqa: PLR0124  # NaN has many
