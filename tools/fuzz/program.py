# SPDX-License-Identifier: BSD-3-Clause
"""A program as data, and as the text of a file that can be run."""

from dataclasses import dataclass
from textwrap import dedent, indent

from harness import torch_is_since

from .choices import Piece

PARAMETERS = ("a", "b", "c")

# What only torch_ext.Function has, up to the release of torch that has it too.
BACKPORTED = {
    "boxed_grads_call": "2.13",
    "wrong class attribute": "2.13",
    "keyword": "2.13",
    "keyword given twice": "2.13",
    "keyword of a tensor": "2.13",
    "keyword that is unknown": "2.13",
    "set_output_grad_dtype": "2.14",
}

_FILE = '''\
"""{title}

Run it from the checkout: PYTHONPATH=. python <this file>
"""

import torch
from tools.fuzz.toolbox import *

VARIANT = "{variant}"


{definitions}

if __name__ == "__main__":
    from tools.fuzz.{module} import main

    main(__file__, VARIANT)
'''

_FUNCTION = """\
class {name}({base}):
{classwide}
    @staticmethod
{decorators}
    def forward({parameters}):
{forward}
        return {returned}

{setup}{backward}{jvp}"""


@dataclass(frozen=True)
class Rule:
    """A derivative: ``backward`` or ``jvp``."""

    name: Piece  # its method's name
    decorator: Piece
    lines: tuple[Piece, ...]
    returned: Piece

    @property
    def pieces(self):
        return (self.name, self.decorator, *self.lines, self.returned)

    def text(self, names):
        if not self.name.code:
            return ""
        lines = [
            "@staticmethod\n",
            f"{self.decorator.code}\n",
            f"def {self.name.code}(ctx, *grads):\n",
            "    total = mix(grads)\n",
            *(indent(line.filled(names), "    ") + "\n" for line in self.lines),
            f"    return {self.returned.filled(names)}\n",
        ]
        return "\n" + indent(dedent("".join(lines)), "    ")


@dataclass(frozen=True)
class Function:
    """A custom Function."""

    base: Piece
    inputs: int
    signature: Piece
    separate: bool
    classwide: tuple[Piece, ...]
    decorator: Piece
    y: Piece
    z: Piece
    lines: tuple[Piece, ...]  # of forward
    context: tuple[Piece, ...]  # of setup_context, or of forward too
    returned: Piece
    backward: Rule
    jvp: Rule

    @property
    def pieces(self):
        return (
            *(self.base, self.signature, *self.classwide, self.decorator, self.y, self.z, *self.lines),
            *(*self.context, self.returned, *self.backward.pieces, *self.jvp.pieces),
        )

    def facilities(self):
        style = "setup_context" if self.separate else "forward(ctx)"
        return {style} | {piece.facility for piece in self.pieces if piece.facility}

    def text(self, number, captured):
        name = f"F{number}"
        parameters = PARAMETERS[: self.inputs]
        names = {
            "p": parameters,
            "n": (*parameters, "y", "z"),
            "o": ("y", "z"),
            "name": (name,),
            "earlier": [f"F{i}.apply" for i in range(number)] or ["torch.neg"],
            "v": captured,
        }
        signature = ", ".join((*parameters, *filter(None, [self.signature.code])))
        forward = [f"y = {self.y.filled(names)}", f"z = {self.z.filled(names)}"]
        forward += [line.filled(names) for line in self.lines]
        context = [f"ctx.shapes, ctx.out_shapes = shapes({_star(parameters, self.signature)}), shapes(y, z)"]
        context += [line.filled(names) for line in self.context]
        setup = ""
        if self.separate:
            unpack = [f"{', '.join(parameters)}, *rest = inputs", "y, z = pick(output), pick(output, 1)"]
            context[0] = "ctx.shapes, ctx.out_shapes = shapes(*inputs), shapes(y, z)"
            setup = f"    @staticmethod\n    def setup_context(ctx, inputs, output):\n{_block(unpack + context, 8)}\n"
        else:
            signature = f"ctx, {signature}"
            forward += context
        text = _FUNCTION.format(
            name=name,
            base=self.base.filled(names | {"earlier": [f"F{i}" for i in range(number)] or ["s.Function"]}),
            classwide=_block([piece.filled(names) for piece in self.classwide], 4),
            decorators=_block([self.decorator.code], 4),
            parameters=signature,
            forward=_block(forward, 8),
            returned=self.returned.filled(names),
            setup=setup,
            backward=self.backward.text(names),
            jvp=self.jvp.text(names),
        )
        return "\n".join(line for line in text.splitlines() if line.strip())


def _star(parameters, signature):
    given = list(parameters)
    if "scale" in signature.code:
        given.append("scale")
    if "rest" in signature.code:
        given.append("*rest")
    return ", ".join(given)


def _block(lines, width):
    return indent("\n".join(line for line in lines if line), " " * width)


@dataclass(frozen=True)
class Step:
    """Something that a program does, under context managers."""

    contexts: tuple[Piece, ...]
    action: Piece
    function: int
    arguments: tuple[Piece, ...]

    def facilities(self, functions):
        found = {piece.facility for piece in (*self.contexts, self.action) if piece.facility}
        if any(field in self.action.code for field in ("{call}", "{function}")):
            found |= functions[self.function % len(functions)].facilities()
            found |= {piece.facility for piece in self.arguments if piece.facility}
        return found

    def text(self, number, functions, tensors):
        index = self.function % len(functions)
        function = functions[index]
        leaves = [t for t in tensors if t.startswith("x")]
        names = {
            "x": tensors[::-1],
            "leaf": leaves,
            "leaves": [f"[{', '.join(leaves)}]"],
            "function": [f"F{index}.apply"],
        }
        given = [argument.filled(names) for argument in self.arguments]
        inputs = given[: function.inputs]
        extra = [] if "scale" not in function.signature.code and "rest" not in function.signature.code else given[3:]
        names |= {"inputs": [", ".join(inputs)], "call": [f"F{index}.apply({', '.join(inputs + extra)})"]}
        lines = [piece.filled(names) for piece in self.contexts]
        body = indent(self.action.filled(names), "    " * len(lines))
        lines = [indent(line, "    " * i) for i, line in enumerate(lines)] + [body]
        name = f"step{number}"
        label = f"{number} {self.action.facility}"
        return f"def {name}():\n{_block(lines, 4)}\n\nv{number} = attempt(s, {label!r}, {name})\n"


@dataclass(frozen=True)
class Program:
    """Inputs, Functions over them, and what is done with them."""

    installed: bool
    inputs: tuple[Piece, ...]
    functions: tuple[Function, ...]
    steps: tuple[Step, ...]

    @property
    def variant(self):
        # Functions call each other, so each counts, whether a step calls it or not.
        used = set().union(*self.facilities(), *(function.facilities() for function in self.functions))
        backported = BACKPORTED.keys() & used
        unequal = any(not torch_is_since(BACKPORTED[facility]) for facility in backported)
        return "installed" if self.installed or unequal else "ours"

    def facilities(self):
        """The facilities of each step, by its number; those of the inputs belong to every step."""
        inputs = {piece.facility for piece in self.inputs if piece.facility}
        return [inputs | step.facilities(self.functions) for step in self.steps]

    def text(self, title="A program."):
        tensors = [f"x{i}" for i in range(len(self.inputs))]
        parts = [*self._make_inputs(), *self._define(tensors), *self._do(tensors)]
        return self._file(title, "compare", f"def program(s):\n{_lines(parts)}")

    def text_for_threads(self, title="A program for threads."):
        """The same, but for what Functions know of the tensors outside: with the Functions apart, so that threads that
        each call ``program`` share them. A tensor that a Function captures is one of the calling thread's inputs."""
        tensors = [f"x{i}" for i in range(len(self.inputs))]
        names = ", ".join(f"F{i}" for i in range(len(self.functions)))
        functions = [*self._define([f"s.inputs[{i}]" for i in range(len(tensors))]), f"return ({names},)\n"]
        parts = [*self._make_inputs(), f"s.inputs = [{', '.join(tensors)}]\n", *self._do(tensors)]
        definitions = (f"def functions(s):\n{_lines(functions)}", f"def program(s, {names}):\n{_lines(parts)}")
        return self._file(title, "threads", "\n\n".join(definitions))

    def _make_inputs(self):
        return [f"x{i} = {piece.code}\n" for i, piece in enumerate(self.inputs)]

    def _define(self, captured):
        return [function.text(i, captured) + "\n\n" for i, function in enumerate(self.functions)]

    def _do(self, inputs):
        tensors = list(inputs)
        parts = []
        for i, step in enumerate(self.steps):
            parts.append(step.text(i, self.functions, tensors))
            tensors.append(f"pick(v{i})")
        return [*parts, f"finish(s, {', '.join(inputs)})\n"]

    def _file(self, title, module, definitions):
        return _FILE.format(title=title, variant=self.variant, module=module, definitions=definitions)


def _lines(parts):
    return indent("\n".join(parts), "    ")
