# SPDX-License-Identifier: BSD-3-Clause
"""What the source of a Function says of it: how it is declared, and what its methods call."""

import ast
import weakref
from collections import Counter
from collections.abc import Iterator

import torch

from .finding import Finding, find
from .source import NOTHING, Flow, Method, called, calls_of, is_nested_autograd, read_method

_CONTAINERS = ("partial", "dict", "list", "tuple", "set", "SimpleNamespace")


class Reading:
    """A Function's methods, and which names in them are its inputs and outputs.

    Attributes:
        forward, setup_context, backward: the methods; None if the class has none, or it can't be read.
        setup: the method that sets ctx up, of the first two.
        inputs: the names of forward's arguments.
        returned: what the statements return that end forward.
    """

    def __init__(self, cls: type[torch.autograd.Function]) -> None:
        self._cls = weakref.ref(cls)  # a class is what readings are kept by
        self.forward = read_method(cls, "forward")
        self.setup_context = read_method(cls, "setup_context")
        self.backward = read_method(cls, "backward") or read_method(cls, "vjp")
        self.boxed = bool(getattr(cls, "boxed_grads_call", False))
        self.setup = self.setup_context or self.forward
        skipped = 0 if self.forward is None else (self.forward.binding == "class") + (self.setup_context is None)
        self.inputs = () if self.forward is None else self.forward.parameters[skipped:]
        self.flow = _flow(self.forward, [*self.inputs, *_rest(self.forward)])
        self.returned = _returned(self.forward)
        self.gradients, self.gradient_flow = self._read_backward()
        self.aliases = self._aliases()

    @property
    def cls(self) -> type:
        """The class."""
        cls = self._cls()
        assert cls is not None
        return cls

    def _read_backward(self) -> tuple[tuple[str, ...], Flow]:
        method = self.backward
        if method is None:
            return (), Flow({})
        skipped = 1 + (method.binding == "class")
        names = method.parameters[skipped:]
        flow = _flow(method, [*names, *_rest(method)])
        flow.ctx = "".join(method.parameters[skipped - 1 : skipped])
        flow.saved = frozenset(["saved tensors"])
        return names, flow.follow(method)

    def ctx(self) -> str:
        """What forward or setup_context calls ctx."""
        if self.setup is None:
            return ""
        return "".join(self.setup.parameters[:2][self.setup.binding == "class" :][:1])

    # --- Names -------------------------------------------------------------------------------------

    def _aliases(self) -> dict[str, tuple[str, str]]:
        """The names in ``setup`` that stand for an input or an output: "input" or "output", and its name."""
        if self.forward is None or self.forward.node is None:
            return {}
        if self.setup_context is None:
            # Each path may return something else, and then it isn't sure which of them a name stands for.
            outputs = {each.id for values in self.returned for each in values if isinstance(each, ast.Name)}
            names = {name: ("output", name) for name in outputs if self.flow.sources.get(name)}
            unchanged = [name for name in self.inputs if not self.flow.assigned.get(name)]
            return names | {name: ("input", name) for name in unchanged}
        names = {}
        parameters = self.setup_context.parameters[self.setup_context.binding == "class" :]
        if len(parameters) < 3:
            return {}
        _, inputs, output = parameters[:3]
        names[output] = ("output", output)
        for node in self.setup_context.nodes():
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                names.update(self._unpacked(node.targets[0], node.value, inputs, output))
        return names

    def _unpacked(
        self, target: ast.expr, value: ast.expr, inputs: str, output: str
    ) -> Iterator[tuple[str, tuple[str, str]]]:
        if isinstance(target, ast.Name) and isinstance(value, ast.Subscript):
            kind = self._kind_of_item(value, inputs, output)
            if kind is not None:
                yield target.id, (kind[0], target.id if kind[0] == "output" else kind[1])
        if not (isinstance(target, (ast.Tuple, ast.List)) and isinstance(value, ast.Name)):
            return
        for index, each in enumerate(target.elts):
            if not isinstance(each, ast.Name):
                return
            if value.id == output:
                yield each.id, ("output", each.id)
            elif value.id == inputs and index < len(self.inputs):
                yield each.id, ("input", self.inputs[index])

    def _kind_of_item(self, value: ast.Subscript, inputs: str, output: str) -> tuple[str, str] | None:
        if not (isinstance(value.value, ast.Name) and isinstance(value.slice, ast.Constant)):
            return None
        index = value.slice.value
        if value.value.id == output:
            return "output", output
        if value.value.id == inputs and isinstance(index, int) and index < len(self.inputs):
            return "input", self.inputs[index]
        return None

    def resolve(self, node: ast.AST) -> tuple[str, str] | None:
        """Which input or output an expression in ``setup`` stands for."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id)
        if isinstance(node, ast.Subscript) and self.setup_context is not None:
            parameters = self.setup_context.parameters[self.setup_context.binding == "class" :]
            if len(parameters) >= 3:
                return self._kind_of_item(node, parameters[1], parameters[2])
        return None

    def has_gradient(self, name: str) -> bool:
        """Whether backward is known to return a gradient for the input ``name``, and not always None."""
        if name not in self.inputs:
            return False
        index = self.inputs.index(name)
        for _, values in self.backward_returns():
            if values is None:
                if len(self.inputs) == 1 and not _rest(self.forward):  # whatever it is, it is for that one
                    return True
            elif index < len(values) and not self.is_none(values[index]):
                return True
        return False

    def is_tensor_output(self, name: str) -> bool:
        """Whether backward uses a gradient of the output that ``setup`` calls ``name``."""
        if len(self.gradients) < 2 or self.backward is None:
            return True
        unpacked = self._output_names()
        index = unpacked.index(name) if name in unpacked else None
        names = self.gradients if index is None else self.gradients[index : index + 1]
        return self.backward.has_name(*names)

    def _output_names(self) -> list[str]:
        if self.setup_context is None:
            return [_name(each) for each in self.returned[-1]] if self.returned else []
        return [name for name, (kind, its) in self.aliases.items() if kind == "output" and name == its][1:]

    def backward_returns(self) -> list[tuple[ast.Return, list[ast.expr] | None]]:
        """What each return statement of backward returns; None if that can't be told."""
        if self.backward is None:
            return []
        returns = [node for node in self.backward.nodes() if isinstance(node, ast.Return)]
        return [(node, self._elements(node.value)) for node in returns]

    def _elements(self, value: ast.expr | None) -> list[ast.expr] | None:
        if value is None:
            return [ast.Constant(None)]
        if isinstance(value, ast.Tuple):
            return None if any(isinstance(each, ast.Starred) for each in value.elts) else value.elts
        if isinstance(value, ast.Constant) and value.value is None:
            return [value]
        flow = self.gradient_flow
        if isinstance(value, ast.Name):
            values = flow.assigned.get(value.id, [])
            return [value] if value.id in self.gradients and not self.boxed and not values else None
        if isinstance(value, (ast.BinOp, ast.UnaryOp)):
            operands = [each for part in _operands(value) for each in (part, *flow.assigned.get(_name(part), []))]
            vague = any(isinstance(each, (ast.Tuple, ast.List, ast.ListComp)) for each in operands)
            if not vague and any(flow.of(each) for each in operands):
                return [value]
        return None

    def is_none(self, value: ast.expr) -> bool:
        """Whether what backward returns is None in any case."""
        if isinstance(value, ast.Constant):
            return value.value is None
        assigned = self.gradient_flow.assigned.get(_name(value), [])
        return bool(assigned) and all(isinstance(each, ast.Constant) and each.value is None for each in assigned)

    def marked(self, method: str) -> set[str] | None:
        """The names of inputs and outputs that ctx.method() is called on; None if that can't be told."""
        names = set()
        for each in calls_of(self.setup, method) if self.setup is not None else ():
            for argument in each.args:
                if isinstance(argument, ast.Starred):
                    return None
                found = self.resolve(argument)
                names.add(found[1] if found else _name(argument))
                names.add(_name(argument))
        return names


def _operands(value: ast.expr) -> Iterator[ast.expr]:
    """What arithmetic computes with."""
    if isinstance(value, ast.BinOp):
        yield from _operands(value.left)
        yield from _operands(value.right)
    elif isinstance(value, ast.UnaryOp):
        yield from _operands(value.operand)
    else:
        yield value


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _rest(method: Method | None) -> list[str]:
    return [method.rest] if method is not None and method.rest is not None else []


def _flow(method: Method | None, names: list[str]) -> Flow:
    flow = Flow({name: frozenset([name]) for name in names})
    return flow if method is None else flow.follow(method)


def _returned(method: Method | None) -> list[list[ast.expr]]:
    nodes = method.nodes() if method is not None else ()
    values = [node.value for node in nodes if isinstance(node, ast.Return) and node.value is not None]
    return [value.elts if isinstance(value, (ast.Tuple, ast.List)) else [value] for value in values]


# --- How it is declared ---------------------------------------------------------------------------


def _declared(it: Reading) -> Iterator[Finding]:
    for method in (it.forward, it.setup_context, it.backward):
        if method is not None and not method.binding:
            yield find("not-static", it.cls, method.at(method.node), method.name)
    if it.forward is not None and it.setup_context is not None and it.forward.parameters:
        first = it.forward.parameters[0]
        saves = any(ast.unparse(node.func) == f"{first}.save_for_backward" for node in _save_calls(it.forward))
        if first in ("ctx", "context") or saves:
            yield find("two-styles", it.cls, it.forward.at(it.forward.node), first)


def _save_calls(method: Method) -> list[ast.Call]:
    return list(calls_of(method, "save_for_backward"))


def _saving(it: Reading) -> Iterator[Finding]:
    if it.setup is not None and it.setup.node is not None:
        for first, second in _twice(it.setup.node.body):
            yield find("saved-twice", it.cls, it.setup.at(second), str(first.lineno))
    if it.backward is not None:
        for node in _save_calls(it.backward):
            yield find("saved-outside", it.cls, it.backward.at(node), it.backward.name)


def _twice(body: list[ast.stmt]) -> Iterator[tuple[ast.Call, ast.Call]]:
    """The calls of save_for_backward that come after another one on some path, with that one."""
    found: list[tuple[ast.Call, ast.Call]] = []
    _follow_saves(body, None, found)
    yield from found[:1]


def _follow_saves(
    body: list[ast.stmt], before: ast.Call | None, found: list[tuple[ast.Call, ast.Call]]
) -> tuple[ast.Call | None, bool]:
    """The last save after ``body``, and whether ``body`` ends the method."""
    for statement in body:
        if isinstance(statement, ast.If):
            one, ends = _follow_saves(statement.body, before, found)
            other, other_ends = _follow_saves(statement.orelse, before, found)
            if ends and other_ends:
                return None, True
            before = (None if ends else one) or (None if other_ends else other)
        elif isinstance(statement, (ast.With, ast.For, ast.While)):
            before, ends = _follow_saves(statement.body, before, found)
            if ends and isinstance(statement, ast.With):
                return None, True
        elif isinstance(statement, (ast.Return, ast.Raise)):
            return None, True
        elif isinstance(statement, ast.Expr) and called(statement.value) == "save_for_backward":
            assert isinstance(statement.value, ast.Call)
            if before is not None:
                found.append((before, statement.value))
            before = statement.value
    return before, False


# --- What is kept on ctx --------------------------------------------------------------------------


def _kept(it: Reading) -> Iterator[Finding]:
    if it.setup is None:
        return
    harmless = it.marked("mark_non_differentiable")
    dirty = it.marked("mark_dirty") or set()
    for node, _, value in kept_values(it.setup, it.ctx()):
        for each in held(value, it.setup):
            what = it.resolve(each)
            if what is None or harmless is None or _text(each) in harmless:
                continue
            is_dirty = what[0] == "input" and what[1] in dirty
            if is_dirty or (what[0] == "output" and it.is_tensor_output(_text(each))):
                yield find("kept-output", it.cls, it.setup.at(node), _text(each))
            elif it.has_gradient(what[1]):
                yield find("kept-input", it.cls, it.setup.at(node), _text(each))


def kept_values(method: Method, ctx: str) -> Iterator[tuple[ast.AST, str, ast.expr]]:
    """The statements that put something on ctx, with the attribute and what they put there."""
    for node in method.nodes():
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs = zip(target.elts, node.value.elts, strict=False) if several else [(target, node.value)]  # type: ignore[attr-defined]
                for one, value in pairs:
                    if isinstance(one, ast.Attribute) and _name(one.value) == ctx:
                        yield node, one.attr, value
        elif called(node) == "setattr" and isinstance(node, ast.Call) and len(node.args) == 3:
            name = node.args[1]
            if _name(node.args[0]) == ctx and isinstance(name, ast.Constant):
                yield node, str(name.value), node.args[2]


def held(value: ast.AST, method: Method) -> Iterator[ast.expr]:
    """The expressions whose values ``value`` keeps as they are: itself, what is in a container or a closure."""
    if isinstance(value, (ast.Name, ast.Subscript)):
        local = _local_function(method, _name(value))
        if local is None:
            yield value
        else:
            yield from _closed_over(local.body)
    elif isinstance(value, (ast.Tuple, ast.List, ast.Set)):
        for each in value.elts:
            yield from held(each, method)
    elif isinstance(value, ast.Dict):
        for each in value.values:
            yield from held(each, method)
    elif isinstance(value, ast.Lambda):
        yield from _closed_over([value.body])
    elif isinstance(value, ast.Call) and called(value) in _CONTAINERS:
        for each in (*value.args, *(keyword.value for keyword in value.keywords)):
            yield from held(each, method)


def _local_function(method: Method, name: str) -> ast.FunctionDef | None:
    return next((node for node in method.nodes() if isinstance(node, ast.FunctionDef) and node.name == name), None)


def _closed_over(body: list[ast.AST] | list[ast.stmt] | list[ast.expr]) -> Iterator[ast.expr]:
    for node in body:
        if isinstance(node, ast.Name):
            yield node
        else:
            yield from _closed_over(list(ast.iter_child_nodes(node)))


def _text(node: ast.AST) -> str:
    return ast.unparse(node)


# --- What forward does with its inputs and outputs ------------------------------------------------


def _returns(it: Reading) -> Iterator[Finding]:
    if it.forward is None or it.setup is None:
        return
    flat = it.marked("mark_non_differentiable")
    for values in it.returned:
        counts = Counter(_name(each) for each in values)
        for name, count in counts.items():
            if name and count > 1 and flat is not None and name not in flat and it.flow.sources.get(name):
                yield find("returned-twice", it.cls, it.forward.at(values[0]), name)
        for each in values:
            aliased = _alias_of(each, it)
            if aliased and it.has_gradient(aliased):
                yield find("aliases-input", it.cls, it.forward.at(each), aliased)
    names = [[_name(each) for each in values] for values in it.returned]
    if not names or not all(all(values) for values in names):
        return
    returned = {name for values in names for name in values}
    for method in ("mark_dirty", "mark_non_differentiable"):
        for call in calls_of(it.setup, method):
            for argument in call.args:
                what = it.resolve(argument)
                name = what[1] if what and what[0] == "input" else _name(argument)
                known = it.setup is it.forward or (what is not None and what[0] == "input")
                if known and name and name not in returned:
                    yield find("not-returned", it.cls, it.setup.at(call), name, f"{method}()")


def _alias_of(node: ast.expr, it: Reading) -> str:
    """The input that ``node`` is a detached alias of."""
    assigned = it.flow.assigned.get(_name(node), [])
    if len(assigned) == 1 and _name(node) not in it.inputs:
        node = assigned[0]
    if called(node) == "detach" and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        base: ast.expr = node.func.value
    elif isinstance(node, ast.Attribute) and node.attr == "data":
        base = node.value
    else:
        return ""
    name = _name(base)
    return name if name in it.inputs and not it.flow.assigned.get(name) else ""


def _changed_inputs(it: Reading) -> Iterator[Finding]:
    dirty = it.marked("mark_dirty")
    if it.forward is None or dirty is None:
        return
    names = [each for each in it.inputs if not it.flow.assigned.get(each) and each not in dirty]
    for node, name in changes(it.forward, names):
        if it.has_gradient(name):
            yield find("changed-input", it.cls, it.forward.at(node), name)


def changes(method: Method, names: list[str] | tuple[str, ...]) -> Iterator[tuple[ast.AST, str]]:
    """The nodes that change the value of one of ``names`` in place."""
    for node in method.nodes():
        targets: list[ast.AST] = []
        if isinstance(node, ast.AugAssign):
            targets = [_base(node.target)]
        elif isinstance(node, ast.Assign):
            targets = [_base(each) for each in node.targets if isinstance(each, ast.Subscript)]
        elif isinstance(node, ast.Call):
            targets = [keyword.value for keyword in node.keywords if keyword.arg == "out"]
            if isinstance(node.func, ast.Attribute) and _is_inplace(node.func.attr):
                targets.append(node.func.value)
                if _name(node.func.value) in ("torch", "F"):
                    targets.extend(node.args[:1])
        for target in targets:
            if _name(target) in names:
                yield node, _name(target)


def _base(node: ast.expr) -> ast.expr:
    return _base(node.value) if isinstance(node, ast.Subscript) else node


def _is_inplace(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_") and name not in ("requires_grad_", "share_memory_", "set_")


# --- What backward does ---------------------------------------------------------------------------


def _counts(it: Reading) -> Iterator[Finding]:
    if it.forward is None or it.backward is None or it.boxed or it.forward.node is None:
        return
    most = None if it.forward.rest else len(it.inputs)
    least = len(it.inputs)
    if it.setup_context is None:
        least -= len(it.forward.parameters) - it.forward.required
    for node, values in it.backward_returns():
        if values is None:
            continue
        extra = values[most:] if most is not None else []
        if len(values) < least or not all(isinstance(each, ast.Constant) and each.value is None for each in extra):
            yield find("gradient-count", it.cls, it.backward.at(node), count_text(len(values), most or least))


def count_text(returned: int, taken: int) -> str:
    """How many gradients backward returns, and how many arguments forward takes."""
    return f"{returned} gradient{'s' * (returned != 1)}, and forward takes {taken} argument{'s' * (taken != 1)}"


def _gradients(it: Reading) -> Iterator[Finding]:
    method = it.backward
    if method is None or method.node is None or it.boxed:
        return
    names = [name for name in it.gradients if not it.gradient_flow.assigned.get(name)]
    for node, name in changes(method, names):
        yield find("changed-gradient", it.cls, method.at(node), name)
    yield from _unused(it, method)


def _unused(it: Reading, method: Method) -> Iterator[Finding]:
    if len(it.gradients) < 2 or not it.backward_returns() or it.setup is None or it.setup.node is None:
        return
    if any(each is not None and each.has_name("set_materialize_grads") for each in (it.forward, it.setup)):
        return
    if it.setup.has_name("mark_non_differentiable"):
        return
    assert method.node is not None
    used = {node.id for node in ast.walk(method.node) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for index, name in enumerate(it.gradients):
        # Of what comes from numbers alone it isn't sure that it is a tensor.
        sources = NOTHING.union(*(it.flow.of(values[index]) for values in it.returned if index < len(values)))
        if name not in used and any(it.has_gradient(each) or each in _rest(it.forward) for each in sources):
            yield find("unused-zeros", it.cls, method.at(method.node), name)


_CUTS = {"numpy": ".numpy()", "item": ".item()", "tolist": ".tolist()", "detach": ".detach()"}
_RAW = {"data_ptr": "a kernel that is given .data_ptr()"}
_MODES = ("no_grad", "inference_mode")


def _differentiable(it: Reading) -> Iterator[Finding]:
    method = it.backward
    if method is None or method.node is None or method.once or is_nested_autograd(method):
        return
    returns = it.backward_returns()
    if not returns or all(values is not None and all(it.is_none(each) for each in values) for _, values in returns):
        return
    for decorator in method.node.decorator_list:
        name = called(decorator) or getattr(decorator, "attr", getattr(decorator, "id", ""))
        if name in _MODES:
            yield find("not-differentiable", it.cls, method.at(decorator), f"torch.{name}()")
            return
    for node in method.nodes():
        cut = _cut(node, it.gradient_flow)
        if cut:
            yield find("not-differentiable", it.cls, method.at(node), cut)
            return


def _cut(node: ast.AST, flow: Flow) -> str:
    """How ``node`` takes values out of the graph; "" if it doesn't."""
    if isinstance(node, ast.With):
        return next(
            (f"torch.{called(each.context_expr)}()" for each in node.items if called(each.context_expr) in _MODES), ""
        )
    if isinstance(node, ast.Attribute) and node.attr == "data" and flow.of(node.value):
        return ".data"
    if not isinstance(node, ast.Call):
        return ""
    func = node.func
    arguments = flow.of(ast.Tuple([*node.args, *(each.value for each in node.keywords)]))
    if isinstance(func, ast.Attribute):
        if func.attr in (_CUTS | _RAW) and flow.of(func.value) != NOTHING:
            return (_CUTS | _RAW)[func.attr]
        base: ast.expr = func
        while isinstance(base, ast.Attribute):
            base = base.value
        if _name(base) in ("np", "numpy") and arguments:
            return "numpy"
    if isinstance(func, ast.Subscript) and arguments:
        return f"the kernel {_text(func.value)}"
    return ""


_RULES = (_declared, _saving, _kept, _returns, _changed_inputs, _counts, _gradients, _differentiable)


def read(cls: type[torch.autograd.Function], it: Reading | None = None) -> list[Finding]:
    """What the source of ``cls`` alone shows; nothing if there is none."""
    it = Reading(cls) if it is None else it
    return [finding for rule in _RULES for finding in rule(it)]
