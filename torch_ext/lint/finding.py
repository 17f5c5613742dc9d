# SPDX-License-Identifier: BSD-3-Clause
"""What is found: one mistake of a Function, its line, and what to write instead."""

import dataclasses
import json
import linecache
import os
import re
import textwrap
from dataclasses import dataclass

_WIDTH = 100

#: What each kind of finding says, and what to write instead. Names of the program stand for {name} and {line}.
TEXTS = {
    "kept-input": (
        (
            "its input {name} is kept on ctx: a change of it in place goes unnoticed, and saved-tensor hooks don't "
            "see it; it is no leak."
        ),
        "Write ctx.save_for_backward({name}) and read it from ctx.saved_tensors.",
    ),
    "kept-output": (
        (
            "its output {name} is kept on ctx: the output's grad_fn is ctx, and that cycle leaks the output until the "
            "garbage collector runs."
        ),
        "Write ctx.save_for_backward({name}) and read it from ctx.saved_tensors.",
    ),
    "untracked-argument": (
        (
            "its argument {name} holds tensors that require grad, which autograd doesn't track there: they get no "
            "gradient from this call."
        ),
        "Pass each tensor as an argument of its own, as in apply(*tensors).",
    ),
    "returned-twice": (
        "{name} is returned twice: both outputs are one tensor, whose gradients all come as that of the last.",
        "Return {name}.clone() the second time, or return it once.",
    ),
    "saved-intermediate": (
        (
            "{name} is made inside forward from inputs, saved, and used by backward: autograd doesn't know where it "
            "comes from, and the double backward is silently wrong."
        ),
        "Save the inputs and compute it in backward, return it as one more output, or use @once_differentiable.",
    ),
    "changed-input": (
        (
            "its input {name} is changed in place without mark_dirty: autograd uses the changed values as if they were "
            "the old ones."
        ),
        "Call ctx.mark_dirty({name}) and return {name}, or change {name}.clone().",
    ),
    "aliases-input": (
        "an output shares memory with its input {name}, and autograd doesn't know: a change of one changes the other.",
        "Return {name}.clone() or {name}.view_as({name}).",
    ),
    "not-differentiable": (
        "backward isn't differentiable ({name}), and isn't marked so: a double backward is silently wrong.",
        "Put @once_differentiable below @staticmethod, or compute with operators of torch.",
    ),
    "changed-gradient": (
        "backward changes the gradient {name} in place: others may be given the same tensor.",
        "Change {name}.clone(), or use the operator that returns a new tensor.",
    ),
    "unused-zeros": (
        "backward never uses {name}, and zeros are made for it whenever that output gets no gradient.",
        "Call ctx.set_materialize_grads(False) and expect None, or use mark_non_differentiable on that output.",
    ),
    "unneeded-gradient": (
        "backward computes a gradient for {name}, which needs none.",
        "Compute it under if ctx.needs_input_grad[{index}], and return None otherwise.",
    ),
    "gradient-count": (
        "backward returns {name}.",
        "Return a gradient or None for each argument of forward, in order.",
    ),
    "gradient-form": (
        "backward returns a gradient for {name} {index}.",
        "Return a gradient like the input: its shape, dtype and device.",
    ),
    "wrong-gradient": (
        "the gradient for {name} disagrees with the numerical one.",
        "Correct the formula in backward; torch.autograd.gradcheck shows both.",
    ),
    "wrong-double-gradient": (
        "the double gradient for {name} disagrees with the numerical one.",
        "Compute in backward from saved inputs and outputs, with operators of torch, or use @once_differentiable.",
    ),
    "saved-twice": (
        "save_for_backward is called a second time: what the call in line {name} saved is lost.",
        "Call it once, with all tensors.",
    ),
    "saved-outside": (
        "save_for_backward is called in {name}, where it saves nothing.",
        "Call it in forward or in setup_context.",
    ),
    "not-returned": (
        "{index} is called on {name}, which isn't returned.",
        "Return {name} itself from forward, or leave the call out.",
    ),
    "not-static": (
        "{name} is no staticmethod.",
        "Write @staticmethod above it, and no self or cls in its arguments.",
    ),
    "two-styles": (
        "forward takes {name} though setup_context is defined: it is given the first input as {name}.",
        "Leave {name} out of forward, and set it up in setup_context.",
    ),
}

#: The kinds of findings: short names, for ``ignore=`` and ``# torch_ext: allow=``.
KINDS = tuple(TEXTS)


class FunctionWarning(UserWarning):
    """A custom autograd Function has a mistake, which watch() has seen."""


@dataclass(frozen=True)
class Finding:
    """One mistake of a Function.

    Args:
        kind: one of ``torch_ext.lint.KINDS``.
        function: the qualified name of the class.
        file, line: where it is: the statement, or if that can't be told the method or the class; line 0 if there is
            no source. Of "untracked-argument" where the Function is called.
        what: what is wrong.
        instead: what to write instead.
    """

    kind: str
    function: str
    file: str
    line: int
    what: str
    instead: str

    def __str__(self) -> str:
        place = f"{os.path.basename(self.file)}:{self.line}"
        head = _wrap(f"{place}: {self.function}: {self.what}", "")
        return f"{head}\n{_wrap(self.instead, '    ')}\n    [{self.kind}]"

    def to_json(self, indent: int | None = 2) -> str:
        """The finding as the text of a JSON object, indented by ``indent`` spaces; None for one line."""
        return json.dumps(dataclasses.asdict(self), indent=indent)


def _wrap(text: str, indent: str) -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def find(kind: str, cls: type, place: tuple[str, int], name: str = "", index: object = "") -> Finding:
    """A finding in ``cls`` at ``place``, a file and a line, about what is called ``name``."""
    what, instead = (text.format(name=name, index=index) for text in TEXTS[kind])
    return Finding(kind, cls.__qualname__, *place, what, instead)


_ALLOW = re.compile(r"#\s*torch_ext:\s*allow=([\w\-, ]+)")


def is_allowed(finding: Finding) -> bool:
    """Whether a comment in the finding's line says that it is meant."""
    comment = _ALLOW.search(linecache.getline(finding.file, finding.line))
    return comment is not None and finding.kind in re.split(r"[,\s]+", comment[1])


def check_kinds(kinds: tuple[str, ...]) -> None:
    """Raises if one of ``kinds`` is none."""
    for kind in kinds:
        if kind not in TEXTS:
            raise ValueError(f"ignore= takes kinds of findings, {', '.join(KINDS)}; got {kind!r}")
