"""Every difference between releases of torch that the Python part of torch_ext sees.

The C++ part has its own, in ``csrc/compat.h``.
"""

import inspect

import torch
from torch.autograd.function import BackwardCFunction, FunctionCtx
from torch.torch_version import TorchVersion

from . import _C


def set_output_grad_dtype(self, *dtypes: torch.dtype | None) -> None:
    """Declares the dtype in which backward gets the gradient of each output.

    Call it at most once, in ``forward`` or ``setup_context``, with a value for
    each output: a dtype, which the engine converts the gradient to, or None, and
    the gradient comes as it is. For an output that is no differentiable tensor
    only None is valid. Without a call each gradient comes in its output's dtype.

    Raises:
        RuntimeError: called a second time; ``apply`` raises it where what was
            declared doesn't fit the outputs.
    """
    if self.output_grad_dtypes is not None:
        raise RuntimeError("set_output_grad_dtype can only be called once")
    self.output_grad_dtypes = dtypes


def input_grad_buffers(self):
    """The engine's buffers for the gradients of the inputs: torch 2.15 has them.

    Raises:
        AttributeError: always, on this torch.
    """
    raise AttributeError(f"ctx.input_grad_buffers needs torch 2.15 or newer, and this is torch {torch.__version__}")


def apply_to_gradients(self, *gradients):
    """What ``grad_fn.apply(*gradients)`` does: one list for backward where ``boxed_grads_call`` asks for that."""
    # A class that has become another's has no such attribute; torch itself asks for none here.
    if getattr(self._forward_cls, "boxed_grads_call", False):
        gradients = (list(gradients),)
    return BackwardCFunction.apply(self, *gradients)


def ctx_backports() -> dict[str, object]:
    """What the newest torch's ctx has and this torch's lacks."""
    backports: dict[str, object] = {}
    if not hasattr(FunctionCtx, "set_output_grad_dtype"):
        backports["set_output_grad_dtype"] = set_output_grad_dtype
        backports["output_grad_dtypes"] = _C.output_grad_dtypes
    if not hasattr(FunctionCtx, "input_grad_buffers"):
        backports["input_grad_buffers"] = property(input_grad_buffers)
    if not hasattr(BackwardCFunction, "apply_boxed"):
        backports["apply"] = apply_to_gradients
        backports["apply_boxed"] = BackwardCFunction.apply
    return backports


def give_backports(cls: type[torch.autograd.Function]) -> None:
    """Makes ``cls`` and its subclasses have what the newest torch's Function has."""
    if not hasattr(torch.autograd.Function, "boxed_grads_call"):
        cls.boxed_grads_call = False
    _C.give_backports(cls, ctx_backports())


def refresh_view(tensor: object) -> None:
    """Does what the first step of ``Tensor.register_hook`` is from torch 2.15 on.

    Reading ``grad_fn`` makes a new node, and drops the old hooks, where the base of a view was changed in place.
    """
    if TorchVersion(torch.__version__) >= "2.15":
        getattr(tensor, "grad_fn", None)


def has_node(grad_fn: torch.autograd.graph.Node) -> bool:
    """Whether there is a node behind ``grad_fn``: before torch 2.13 the ctx of a Function may outlive its node."""
    try:
        type(grad_fn).metadata.__get__(grad_fn)
    except RuntimeError:
        return False
    return True


def function_of(attribute: object) -> object:
    """The function behind an ``apply`` as it stands in a class: a classmethod, or what C has for one."""
    return getattr(attribute, "__func__", attribute)


def apply_of(cls: type) -> object:
    """The function behind ``cls.apply``, found without calling descriptors."""
    return function_of(inspect.getattr_static(cls, "apply"))
