# SPDX-License-Identifier: BSD-3-Clause
"""Which line and which module a node belongs to, as far as its noted stack and its parameters can tell."""

from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any

from torch import nn
from torch.autograd.graph import Node

from .. import _C, _compat
from ..anomaly import places
from ..anomaly.facts import Frame
from ..anomaly.graph import frames_of, metadata_of, next_nodes


def stack_of(node: Node) -> tuple[Frame, ...]:
    """The forward call that made ``node``, outermost frame first; empty if it was not noted."""
    return frames_of(metadata_of(node))


def notes_of(node: Node) -> tuple[int, int] | None:
    """How many backwards had begun when ``node`` was made, and which freed it; None if that was not noted.

    Adds nothing to the node.
    """
    notes = _C.notes_of(node)
    # Metadata that somebody has read into being later is no note.
    return None if notes is None or "traceback_" not in metadata_of(node) else notes


def line_of(stack: Iterable[Frame]) -> Frame | None:
    """The innermost frame that is not torch's nor torch_ext's; the innermost of all if there is none."""
    frames = tuple(stack)
    return places.line_of(frames) or (frames[-1] if frames else None)


class Modules:
    """Finds the module that a node belongs to.

    The stack has the class whose method ran, and not the instance. With ``module`` given the instance is known if it
    is the only one of its class in there, or if the node uses a parameter of it.
    """

    def __init__(self, module: nn.Module | None) -> None:
        self._methods: dict[str, list[tuple[int, int, type]]] = {}
        for cls in {*_subclasses(nn.Module)}:
            for code in _codes(cls):
                span = code.co_firstlineno, max(line or 0 for _, _, line in code.co_lines())
                self._methods.setdefault(code.co_filename, []).append((*span, cls))
        self._instances = [] if module is None else list(module.named_modules())
        self._owners: dict[Any, str] = {}
        for name, owner in self._instances:
            for parameter in owner._parameters.values():
                storage = None if parameter is None else _compat.storage_of(parameter)
                if storage is not None:
                    self._owners.setdefault(storage[0], name)

    def of(self, node: Node, stack: tuple[Frame, ...]) -> str:
        """Returns "layers.0 (Linear)", or "Linear" if the instance isn't known; "" if no module's method ran."""
        cls = next(filter(None, map(self._class_of, reversed(stack))), None)
        instances = {name: type(each) for name, each in self._instances if cls is not None and isinstance(each, cls)}
        used = list(dict.fromkeys(self._owners[key] for key in _storages_near(node) if key in self._owners))
        named = [name for name in used if name in instances] or (used if cls is None else [])
        name = named[0] if len(named) == 1 else (next(iter(instances)) if len(instances) == 1 else None)
        if name is None:
            return "" if cls is None else cls.__name__
        kind = next(type(each).__name__ for known, each in self._instances if known == name)
        return f"{name} ({kind})" if name else kind

    def _class_of(self, frame: Frame) -> type | None:
        spans = [span for span in self._methods.get(frame.file, ()) if span[0] <= frame.line <= span[1]]
        # The innermost of nested ones begins last.
        return max(spans, key=lambda span: span[0])[2] if spans else None


def _subclasses(cls: type) -> Iterator[type]:
    subclasses: list[type] = type.__subclasses__(cls)
    for each in subclasses:
        yield each
        yield from _subclasses(each)


def _codes(cls: type) -> Iterator[CodeType]:
    for value in list(vars(cls).values()):
        function: Callable[..., Any] | Any = (
            getattr(value, "__func__", value) if isinstance(value, staticmethod) else value
        )
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            yield code


def _storages_near(node: Node) -> Iterator[int]:
    """The storages of the leaves that ``node`` was given, also through one node such as a transpose's."""
    near = next_nodes(node)
    for each in [*near, *(further for one in near if len(one.next_functions) == 1 for further in next_nodes(one))]:
        variable = _compat.variable_of(each)
        storage = None if variable is None else _compat.storage_of(variable)
        if storage is not None:
            yield storage[0]
