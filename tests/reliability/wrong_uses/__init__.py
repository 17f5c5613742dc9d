# SPDX-License-Identifier: BSD-3-Clause
"""Wrong uses, each a function of an implementation, with a name. ``python -m wrong_uses`` runs them.

Each returns its outcome, or raises. A case is run on stock torch in one process and on torch_ext in another, and
the two outcomes are compared: see :mod:`test_bad_input`.
"""

import importlib
import pathlib

import torch

#: Name to function of an implementation: an object with the attribute ``Function``.
CASES = {}

#: Values of every kind, none of which fits everywhere.
ODD_VALUES = {
    "None": lambda: None,
    "True": lambda: True,
    "a number": lambda: 3,
    "a negative number": lambda: -1,
    "a huge number": lambda: 1 << 80,
    "a float": lambda: 1.5,
    "text": lambda: "text",
    "an object": object,
    "a class": lambda: int,
    "a function": lambda: len,
    "an empty tuple": tuple,
    "a tuple of numbers": lambda: (1, 2),
    "a tuple of Nones": lambda: (None, None),
    "a list": lambda: [torch.ones(2)],
    "a dict": dict,
    "a tensor": lambda: torch.ones(2),
    "a tuple of tensors": lambda: (torch.ones(2), torch.ones(3, requires_grad=True)),
    "a tuple of a tensor and a number": lambda: (torch.ones(2), 3),
    "a long tuple": lambda: (None,) * 100,
    "an object that raises": lambda: Raising(),
}


class Raising:
    """Raises whatever it is asked for."""

    def __getattr__(self, name):
        raise ArithmeticError("asked for " + name)

    def _raise(self, *args):
        raise ArithmeticError("asked")

    __bool__ = __len__ = __iter__ = __call__ = __index__ = __eq__ = __getitem__ = __float__ = _raise
    __hash__ = None


def case(name):
    """Registers a function of an implementation as the case ``name``."""

    def register(function):
        assert name not in CASES, name
        CASES[name] = function
        return function

    return register


def load():
    """Fills :data:`CASES` from the modules beside this file."""
    for file in sorted(pathlib.Path(__file__).parent.glob("*.py")):
        if not file.name.startswith("_"):
            importlib.import_module(f"{__name__}.{file.stem}")
    return CASES


def make_function(api, in_forward=lambda ctx, x: None, in_backward=lambda ctx, grad: None):
    """A Function that doubles and saves its input, and calls ``in_forward`` and ``in_backward``."""

    class Double(api.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            in_forward(ctx, x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            in_backward(ctx, grad)
            return grad * 2

    return Double


def leaf():
    return torch.tensor([1.0, 2.0], requires_grad=True)


def run(function, *args, **kwargs):
    """Forward and backward: the outputs and the gradients."""
    outputs = function.apply(*args, **kwargs)
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    first.backward(torch.ones_like(first))
    return outputs, [x.grad for x in args if isinstance(x, torch.Tensor)]
