# SPDX-License-Identifier: BSD-3-Clause
"""What only torch_ext.Function has if the installed torch is older than the release with it."""

import torch
from torch.autograd.function import BackwardCFunction

_NEWER = {"apply_boxed", "boxed_grads_call", "input_grad_buffers", "output_grad_dtypes", "set_output_grad_dtype"}
_OF_TORCH = {*dir(torch.autograd.Function), *dir(BackwardCFunction)}
BACKPORTS = _NEWER - _OF_TORCH
