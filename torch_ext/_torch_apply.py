"""Where torch's own ``Function.apply`` calls its C++, for traces that name that place."""
from __future__ import annotations

import bisect
import dis

from . import _C, _compat


def place() -> tuple[str, str, int] | None:
    """File, function and line of the call: what a trace recorded by torch shows for a custom Function.

    None where torch's apply is C++ itself, as from torch 2.14 on.
    """
    code = getattr(_compat.function_of(_C.apply), "__code__", None)
    if code is None:
        return None
    calls = [step.offset for step in dis.get_instructions(code) if step.argval == "apply"]
    starts = [(offset, line) for offset, line in dis.findlinestarts(code) if line is not None]
    index = bisect.bisect([offset for offset, _ in starts], calls[-1]) - 1 if calls else 0
    return code.co_filename, code.co_name, starts[index][1]
