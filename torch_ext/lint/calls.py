# SPDX-License-Identifier: BSD-3-Clause
"""What one call of a Function shows, forward and backward.

Looks at what a call was given and gave. Computes nothing but whether a gradient is zero, and keeps no tensor.
"""

import ast
import dataclasses
import os
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .. import _compat
from .finding import Finding, find
from .reading import Reading, count_text, kept_values, read
from .source import Flow, Names, calls_of, is_nested_autograd, is_tensor

Report = Callable[[Finding], None]
#: The versions of a call's tensors before it, by identity.
Versions = dict[int, int | None]

_PACKAGES = tuple(
    os.path.dirname(os.path.abspath(each)) + os.sep for each in (torch.__file__, os.path.dirname(__file__))
)


@dataclass(frozen=True)
class _Like:
    """What a gradient has to be like."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@dataclass
class _Call:
    """What backward has to know of a call of forward."""

    inputs: tuple[_Like | None, ...]
    needs: tuple[bool, ...]
    outputs: tuple[torch.dtype, ...]
    intermediates: tuple[tuple[str, ast.AST | None, str], ...]


_lock = threading.RLock()  # a Function may be called in a finaliser that runs while the lock is held
_readings: "weakref.WeakKeyDictionary[type, tuple[Reading, list[Finding]]]" = weakref.WeakKeyDictionary()
_calls: "weakref.WeakKeyDictionary[Any, _Call]" = weakref.WeakKeyDictionary()


def reading_of(cls: Any) -> tuple[Reading, list[Finding]]:
    """The class as it is written, and what that shows; read once."""
    with _lock:
        found = _readings.get(cls)
    if found is None:
        it = Reading(cls)
        found = it, read(cls, it)
        with _lock:
            _readings[cls] = found
    return found


def forget_readings() -> None:
    """Reads classes anew from now on: they may have got other methods."""
    with _lock:
        _readings.clear()


def versions_of(values: tuple[Any, ...]) -> Versions:
    """The versions of the tensors in ``values``."""
    return {id(each): _compat.version_of(each) for each in values if is_tensor(each)}


# --- Forward --------------------------------------------------------------------------------------


class _Forward:
    """A call of forward that has just returned, with ctx set up."""

    def __init__(self, ctx: Any, args: tuple[Any, ...], before: Versions, output: Any) -> None:
        self.cls = type(ctx)._forward_cls
        self.it, _ = reading_of(self.cls)
        self.ctx, self.args, self.before = ctx, args, before
        self.outputs = output if isinstance(output, (tuple, list)) else (output,)
        needs = _tuple_of(ctx, "needs_input_grad")
        self.needs = needs if len(needs) == len(args) else (False,) * len(args)
        self.dirty = _tuple_of(ctx, "dirty_tensors")
        self.flat = _tuple_of(ctx, "non_differentiable")

    def name(self, index: int) -> str:
        names = self.it.inputs
        if index < len(names):
            return names[index]
        rest = self.it.forward.rest if self.it.forward is not None else None
        return f"{rest}[{index - len(names)}]" if rest else f"number {index}"

    def input_index(self, value: Any) -> int | None:
        return next((index for index, each in enumerate(self.args) if each is value), None)

    def is_output(self, value: Any) -> bool:
        return _is_in(value, self.outputs)

    def place(self, method: Any, node: ast.AST | None = None) -> tuple[str, int]:
        if method is None:
            return "", 0
        place: tuple[str, int] = method.at(node or method.node)
        return place


def _tuple_of(ctx: Any, name: str) -> tuple[Any, ...]:
    """What torch keeps as a tuple on ctx, and a program may replace by anything."""
    value = getattr(ctx, name, None)
    return value if type(value) is tuple else ()


def observe_forward(ctx: Any, args: tuple[Any, ...], before: Versions, output: Any, report: Report) -> None:
    """Reports on a call of forward that has just returned ``output``."""
    call = _Forward(ctx, args, before, output)
    for finding in _untracked(call):
        report(finding)
    if not any(call.needs):
        return
    for rule in (_kept, _returned_twice, _changed, _aliases):
        for finding in rule(call):
            report(finding)
    with _lock:
        _calls[ctx] = _Call(
            tuple(_Like(each.shape, each.dtype, each.device) if is_tensor(each) else None for each in args),
            call.needs,
            tuple(each.dtype for each in call.outputs if is_tensor(each)),
            tuple(_intermediates(call)),
        )


def _is_in(value: Any, values: Any) -> bool:
    return any(each is value for each in values)


def _has_derivative(value: Any) -> bool:
    return is_tensor(value) and (value.is_floating_point() or value.is_complex())


def _kept(call: _Forward) -> Iterator[Finding]:
    for attribute, value in list(vars(call.ctx).items()):
        for tensor in _held(value):
            index = call.input_index(tensor)
            is_result = call.is_output(tensor) and not _is_in(tensor, call.flat) and _has_derivative(tensor)
            if is_result and (index is None or _is_in(tensor, call.dirty)):
                kind, name = "kept-output", f"ctx.{attribute}"
            elif index is not None and call.needs[index]:
                kind, name = "kept-input", call.name(index)
            else:
                continue
            setup = call.it.setup
            nodes = kept_values(setup, call.it.ctx()) if setup is not None else ()
            node = next((node for node, attr, _ in nodes if attr == attribute), None)
            yield find(kind, call.cls, call.place(setup, node), name)


def _returned_twice(call: _Forward) -> Iterator[Finding]:
    for index, value in enumerate(call.outputs):
        if _has_derivative(value) and _is_in(value, call.outputs[:index]) and not _is_in(value, call.flat):
            node = call.it.returned[-1][0] if call.it.returned else None
            yield find("returned-twice", call.cls, call.place(call.it.forward, node), f"output {index}")


def _changed(call: _Forward) -> Iterator[Finding]:
    memory = [_compat.memory_of(each) for each in call.dirty]
    for index, value in enumerate(call.args):
        if not is_tensor(value) or not call.needs[index] or id(value) not in call.before:
            continue
        if call.before[id(value)] == _compat.version_of(value):
            continue
        if not _is_in(value, call.dirty) and _compat.memory_of(value) not in memory:
            yield find("changed-input", call.cls, call.place(call.it.forward), call.name(index))


def _aliases(call: _Forward) -> Iterator[Finding]:
    for output in call.outputs:
        if not _has_derivative(output) or not output.numel() or call.input_index(output) is not None:
            continue
        if _is_in(output, call.flat):
            continue
        for index, value in enumerate(call.args):
            if not is_tensor(value) or not call.needs[index] or _is_view_of(output, value):
                continue
            if _compat.address_of(output) == _compat.address_of(value) is not None:
                node = call.it.returned[-1][0] if call.it.returned else None
                yield find("aliases-input", call.cls, call.place(call.it.forward, node), call.name(index))
                break


def _is_view_of(output: torch.Tensor, value: torch.Tensor) -> bool:
    base = output._base
    return base is not None and (base is value or base is value._base)


def _intermediates(call: _Forward) -> Iterator[tuple[str, ast.AST | None, str]]:
    """What is saved, or kept on ctx, that forward has computed from inputs with gradients: text, node and attribute."""
    method = call.it.setup
    if method is None or method.node is None:
        return
    flow = _setup_flow(call.it)
    saves = list(calls_of(method, "save_for_backward"))
    saved = _tuple_of(call.ctx, "to_save")
    if len(saves) == 1 and len(saves[0].args) == len(saved):
        for value, node in zip(saved, saves[0].args, strict=True):
            if _is_made_inside(call, value, flow.of(node)):
                yield ast.unparse(node), saves[0], "saved_tensors"
    kept = vars(call.ctx)
    for statement, attribute, expression in kept_values(method, call.it.ctx()):
        if _is_made_inside(call, kept.get(attribute), flow.of(expression)):
            yield ast.unparse(expression), statement, attribute


def _setup_flow(it: Reading) -> Flow:
    if it.setup_context is None or it.setup is None:
        return it.flow
    return Flow({name: frozenset([name]) for name in it.setup.parameters[1:]}).follow(it.setup)


def _is_made_inside(call: _Forward, value: Any, names: Names) -> bool:
    if not _has_derivative(value) or value.requires_grad or call.is_output(value):
        return False
    if call.input_index(value) is not None:
        return False
    if call.it.setup_context is not None:
        return bool(names)
    inputs = call.it.inputs
    needing = {call.name(index) for index, needs in enumerate(call.needs) if needs and index < len(inputs)}
    rest = call.it.forward.rest if call.it.forward is not None else None
    if rest and any(call.needs[len(inputs) :]):
        needing.add(rest)
    return bool(names & needing)


# --- Arguments that aren't tracked ----------------------------------------------------------------


def _untracked(call: _Forward) -> Iterator[Finding]:
    backward = call.it.backward
    # A checkpoint differentiates what it calls by itself.
    if torch.is_inference_mode_enabled() or backward is None or is_nested_autograd(backward):
        return
    for index, value in enumerate(call.args):
        if is_tensor(value):
            continue
        inside = [each for each in _held(value) if each.requires_grad]
        if inside and not all(call.input_index(each) is not None for each in inside):
            yield find("untracked-argument", call.cls, _callers_place(), call.name(index))


def _callers_place() -> tuple[str, int]:
    """Where the innermost call is that neither torch nor torch_ext makes."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGES):
        frame = frame.f_back
    return ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)


_DEEPEST = 4
_MOST_ITEMS = 1000


def _held(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """The tensors in a value: itself, in containers, dataclasses, modules and closures. Runs no code of theirs."""
    if is_tensor(value):
        yield value
    elif depth < _DEEPEST:
        for each in _items(value)[:_MOST_ITEMS]:
            yield from _held(each, depth + 1)


def _items(value: Any) -> list[Any]:
    kind = type(value)
    if issubclass(kind, (list, tuple, set, frozenset)):
        return list(value)
    if issubclass(kind, dict):
        return list(value.values())
    if kind is types.FunctionType:
        return [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
    if kind is types.MethodType:
        return [value.__self__]
    if kind is partial:
        return [*value.args, *value.keywords.values()]
    if issubclass(kind, torch.nn.Module):
        parts = vars(value)
        return [*parts.get("_parameters", {}).values(), *parts.get("_modules", {}).values()]
    if dataclasses.is_dataclass(kind) or kind is types.SimpleNamespace:
        return list(getattr(value, "__dict__", {}).values())
    return []


# --- Backward -------------------------------------------------------------------------------------


class _Backward:
    """A call of backward that has just returned."""

    def __init__(self, ctx: Any, gradients: tuple[Any, ...], before: Versions, result: Any) -> None:
        self.cls = type(ctx)._forward_cls
        self.it, self.static = reading_of(self.cls)
        self.gradients, self.before = gradients, before
        self.result = result if isinstance(result, tuple) else (result,)
        with _lock:
            self.call = _calls.get(ctx)
        self.inputs = () if self.call is None else self.call.inputs
        self.needs = () if self.call is None else self.call.needs

    def place(self, node: ast.AST | None = None) -> tuple[str, int]:
        method = self.it.backward
        return ("", 0) if method is None else method.at(node or method.node)

    def place_of_return(self) -> tuple[str, int]:
        returns = self.it.backward_returns()
        return self.place(returns[0][0] if len(returns) == 1 else None)

    def name(self, index: int) -> str:
        names = self.it.inputs
        if index < len(names):
            return names[index]
        rest = self.it.forward.rest if self.it.forward is not None else None
        return f"{rest}[{index - len(names)}]" if rest else f"input {index}"


def observe_backward(ctx: Any, gradients: tuple[Any, ...], before: Versions, result: Any, report: Report) -> None:
    """Reports on a call of backward that has just returned ``result``."""
    call = _Backward(ctx, gradients, before, result)
    for rule in (_changed_gradient, _count, _unneeded, _form, _double):
        for finding in rule(call):
            report(finding)


def _changed_gradient(call: _Backward) -> Iterator[Finding]:
    for index, each in enumerate(call.gradients):
        if is_tensor(each) and call.before.get(id(each)) != _compat.version_of(each):
            names = call.it.gradients
            yield find("changed-gradient", call.cls, call.place(), names[index] if index < len(names) else f"{index}")


def _count(call: _Backward) -> Iterator[Finding]:
    taken = len(call.needs)
    if call.call is None:
        return
    if len(call.result) < taken or any(each is not None for each in call.result[taken:]):
        yield find("gradient-count", call.cls, call.place_of_return(), count_text(len(call.result), taken))


def _unneeded(call: _Backward) -> Iterator[Finding]:
    free = [*call.gradients, *(each for each, needs in zip(call.result, call.needs, strict=False) if needs)]
    memory = {_compat.memory_of(each) for each in free if is_tensor(each)}
    for index, (each, needs) in enumerate(zip(call.result, call.needs, strict=False)):
        # What only passes on a gradient that came, or that another input needs, has cost nothing.
        if is_tensor(each) and call.inputs[index] is not None and not needs and _compat.memory_of(each) not in memory:
            yield find("unneeded-gradient", call.cls, call.place_of_return(), call.name(index), index)


def _form(call: _Backward) -> Iterator[Finding]:
    if call.call is None:
        return
    came = {each.dtype for each in call.gradients if is_tensor(each)}
    for index, (each, like, needs) in enumerate(zip(call.result, call.call.inputs, call.needs, strict=False)):
        if not is_tensor(each):
            continue
        problem = ""
        if like is None:
            problem = "which is no tensor"
        elif not needs:
            continue
        elif not _can_be_summed_to(each.shape, like.shape):
            problem = f"of shape {tuple(each.shape)}, and the input's is {tuple(like.shape)}"
        elif each.dtype != like.dtype and {*call.call.outputs, *came} == {like.dtype}:
            problem = f"in {each.dtype}, and the input is in {like.dtype}"
        elif each.device != like.device and (each.dim() or like.shape):
            problem = f"on {each.device}, and the input is on {like.device}"
        if problem:
            yield find("gradient-form", call.cls, call.place_of_return(), call.name(index), problem)


def _can_be_summed_to(shape: torch.Size, target: torch.Size) -> bool:
    """Whether torch sums a gradient to the shape of its input by itself."""
    own = shape[len(shape) - len(target) :]
    return len(shape) >= len(target) and all(one in (other, 1) for one, other in zip(target, own, strict=True))


def _double(call: _Backward) -> Iterator[Finding]:
    method = call.it.backward
    if not torch.is_grad_enabled() or method is None or method.once:
        return
    if call.call is not None and not is_nested_autograd(method):
        for text, node, attribute in call.call.intermediates:
            setup = call.it.setup
            if setup is not None and method.has_name(attribute):
                yield find("saved-intermediate", call.cls, setup.at(node), text)
    given = [each for each in call.gradients if _has_derivative(each)]
    if not any(each.requires_grad for each in given):
        return
    if not all(each.requires_grad or _is_zero(each) for each in given):
        return
    for each, needs in zip(call.result, call.needs, strict=False):
        if needs and _has_derivative(each) and not each.requires_grad and not _is_zero(each):
            cut = next((finding for finding in call.static if finding.kind == "not-differentiable"), None)
            place = call.place_of_return() if cut is None else (cut.file, cut.line)
            yield find("not-differentiable", call.cls, place, "what it returns has no graph")
            return


def _is_zero(value: torch.Tensor) -> bool:
    """Whether a tensor is zero; True if that can't be told without running code of its class."""
    if type(value) not in (torch.Tensor, torch.nn.Parameter) or value.device.type == "meta":
        return True
    with torch.no_grad():
        return value.layout == torch.strided and not bool(value.any())
