"""A Python frame for a Function's call, as torch's own ``apply`` has one, while torch.compile looks at frames.

What is disabled for one frame alone, as by ``torch.compiler.disable(MyFn.apply, recursive=False)``, would otherwise
be disabled for forward's.
"""

from torch._C._dynamo.eval_frame import (
    _FrameAction,
    _FrameExecStrategy,
    get_eval_frame_callback,
    set_code_exec_strategy,
)

from . import _C


def apply(cls, /, *args, **kwargs):
    return _C.call(cls, *args, **kwargs)


# The frame is passed over and those it calls are not, as with torch's.
set_code_exec_strategy(
    apply.__code__, _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.DEFAULT)
)
_C.set_framed_apply(apply, get_eval_frame_callback)
