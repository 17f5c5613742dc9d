"""The drop-in for ``torch.autograd.Function``."""

import torch

from . import _C


class Function(torch.autograd.Function):
    """Base class of custom autograd Functions, with a cheaper call.

    Subclass it as you would subclass :class:`torch.autograd.Function`, whose
    documentation holds for it word for word: ``forward`` and ``setup_context``,
    ``backward`` or ``vjp``, ``jvp``, ``vmap``. It differs in ``apply`` alone.
    """

    apply = classmethod(_C.apply)
