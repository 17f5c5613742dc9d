# SPDX-License-Identifier: BSD-3-Clause
"""The drop-in for ``torch.autograd.Function``."""

from . import _C, _compat


class Function(_C.torch_function):
    """Base class of custom autograd Functions, with a cheaper call.

    Subclass it as you would subclass :class:`torch.autograd.Function`, whose
    documentation holds for it word for word: ``forward`` and ``setup_context``,
    ``backward`` or ``vjp``, ``jvp``, ``vmap``. It differs in ``apply`` alone.

    On an older torch it also has some of what newer releases have: keyword
    arguments to ``apply`` and ``boxed_grads_call`` (in torch from 2.13 on), and
    ``ctx.set_output_grad_dtype`` (from 2.14 on). ``ctx.input_grad_buffers`` needs
    torch 2.15: before, reading it raises AttributeError.
    """

    apply = _C.apply


_compat.give_backports(Function)
