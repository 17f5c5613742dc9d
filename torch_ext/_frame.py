# SPDX-License-Identifier: BSD-3-Clause
"""A Python frame for a Function's call, as torch's own ``apply`` has one, for whoever looks at frames.

torch.jit.trace names the values of a graph by the variables of the frame that calls torch, and notes the whole stack as
the place of each node. torch.compile passes over the frame and looks at those that it calls. Otherwise what is disabled
for one frame alone, as by ``torch.compiler.disable(MyFn.apply, recursive=False)``, would be disabled for forward's.
Python's profilers show the frame and the method of C++ that it calls: a row each, as for torch's own.
"""

import bisect
import dis
from collections.abc import Callable
from types import CodeType
from typing import Any

import torch

from . import _C, _compat


def apply(method: Callable[..., Any], cls: type[torch.autograd.Function], /, *args: Any, **kwargs: Any) -> Any:
    return method(*args, **kwargs)


def _line_of_call(code: CodeType) -> int:
    """The line on which torch's ``apply`` calls its C++."""
    calls = [step.offset for step in dis.get_instructions(code) if step.argval == "apply"]
    starts = [(offset, line) for offset, line in dis.findlinestarts(code) if line is not None]
    index = bisect.bisect([offset for offset, _ in starts], calls[-1]) - 1 if calls else 0
    return starts[index][1]


def _stand_in_place_of(code: CodeType) -> None:
    """Gives our frame the file, function and lines of torch's, whose code is ``code``."""
    first = code.co_firstlineno
    source = [""] * (_line_of_call(code) - 1)
    source[first - 1] = f"def {code.co_name}(method, cls, /, *args, **kwargs):"
    source.append(" return method(*args, **kwargs)")
    module = compile("\n".join(source), code.co_filename, "exec")
    (apply.__code__,) = (each for each in module.co_consts if isinstance(each, CodeType))


# From torch 2.14 on torch's apply is C++ itself and has no frame.
if _torchs := getattr(_compat.function_of(_C.apply), "__code__", None):
    _stand_in_place_of(_torchs)
    _compat.pass_over_frame(apply.__code__)
    _C.set_framed_apply(apply, _compat.get_eval_frame_callback)
