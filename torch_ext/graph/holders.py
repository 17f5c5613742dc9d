# SPDX-License-Identifier: BSD-3-Clause
"""Who holds an object, in words, as far as Python's garbage collector can tell."""

import gc
import os
import types
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from .. import _C

_HERE = os.path.dirname(__file__) + os.sep
_DEPTH = 4
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
UNSEEN = "a local variable or C++ code"


def holder_of(targets: Sequence[Any], own: Iterable[Any]) -> str:
    """Who holds ``targets``: "a list of 12, attribute losses of a Trainer".

    If several do, the one that holds most of them. Objects in ``own`` don't count.
    """
    return _name_holder(targets, {id(each) for each in own}, _DEPTH)


def _name_holder(targets: Sequence[Any], own: set[int], depth: int) -> str:
    wanted = {id(each) for each in targets}
    best, most = None, (0, 0)
    referrers = _C.referrers_of(targets)
    own = own | {id(targets), id(referrers)}
    for referrer in referrers:
        if id(referrer) in own or _is_ours(referrer):
            continue
        held = sum(id(each) in wanted for each in gc.get_referents(referrer))
        # A named place says more than a container, and that more than what can't be described.
        rank = held, _rank(referrer)
        if rank > most:
            best, most = referrer, rank
    return UNSEEN if best is None else _describe(best, wanted, own, depth)


def _is_ours(referrer: Any) -> bool:
    """Whether it is a frame of this module or its callers in this folder, which Python 3.10 shows."""
    return _is(referrer, types.FrameType) and str(referrer.f_code.co_filename).startswith(_HERE)


def _is(obj: object, *classes: type) -> bool:
    """As isinstance(), which would ask an object of another class for its ``__class__``."""
    return any(cls in type(obj).__mro__ for cls in classes)


def _rank(referrer: object) -> int:
    if type(referrer) in _CONTAINERS:
        return 2
    return 3 if hasattr(type(referrer), "__dict__") and not _is(referrer, type, types.CellType) else 1


def _describe(holder: Any, wanted: set[int], own: set[int], depth: int) -> str:
    if type(holder) is dict:
        owner = _owner_of(holder)
        if owner is not None:
            return _of_owner(owner, holder, wanted)
    if type(holder) in _CONTAINERS:
        kind = f"a {type(holder).__name__} of {len(holder)}"
        further = _name_holder([holder], own, depth - 1) if depth > 1 else UNSEEN
        return kind if further == UNSEEN else f"{kind}, {further}"
    if _is(holder, types.FrameType):
        return f"a local variable of {_of_code(holder.f_code)}"
    if _is(holder, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType):
        code = getattr(holder, "gi_code", None) or getattr(holder, "cr_code", None) or getattr(holder, "ag_code", None)
        return f"a local variable of {_of_code(code)}" if code is not None else "a generator"
    if _is(holder, types.CellType):
        return "a variable of an enclosing function"
    if _is(holder, types.FunctionType):
        return f"a default argument of {_of_code(holder.__code__)}"
    return _of_owner(holder, _namespace_of(holder) or {}, wanted)


def _owner_of(namespace: dict[Any, Any]) -> Any:
    """Whose attributes are in the dict; None if it is no such dict."""
    # Without a closure, whose cell would be one more holder.
    for owner in _C.referrers_of([namespace]):
        if _namespace_of(owner) is namespace:
            return owner
        if _is(owner, type) and id(namespace) in set(map(id, gc.get_referents(owner))):
            return owner
    return None


def _namespace_of(owner: object) -> dict[str, Any] | None:
    """The dict with the attributes of ``owner``; no code of its class runs."""
    try:
        namespace = object.__getattribute__(owner, "__dict__")
    except (AttributeError, TypeError):
        return None
    return namespace if type(namespace) is dict else None


def _of_owner(owner: Any, namespace: dict[str, Any], wanted: set[int]) -> str:
    name = next((str(key) for key, value in list(namespace.items()) if id(value) in wanted), "")
    if _is(owner, types.ModuleType):
        return f"global variable {name} of module {owner.__name__}"
    if _is(owner, type):
        return f"attribute {name} of class {owner.__name__}"
    slots = (
        key for cls in type(owner).__mro__ for key, value in vars(cls).items() if _slot_holds(value, owner, wanted)
    )
    name = name or next(slots, "")
    return f"attribute {name} of a {type(owner).__name__}" if name else f"a {type(owner).__name__}"


def _slot_holds(value: object, owner: object, wanted: set[int]) -> bool:
    if not isinstance(value, types.MemberDescriptorType):
        return False
    try:
        return id(value.__get__(owner)) in wanted
    except AttributeError:
        return False


def _of_code(code: types.CodeType) -> str:
    return f"{code.co_name} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"
