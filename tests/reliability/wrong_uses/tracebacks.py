# SPDX-License-Identifier: BSD-3-Clause
"""The stack of a node in anomaly mode, used as no list should be."""

import sys
import warnings

import torch

from . import ODD_VALUES, case, leaf, make_function


def stack(api):
    anomaly = sys.modules.get("torch_ext") or torch.autograd
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with anomaly.detect_anomaly():
            return make_function(api).apply(leaf()).grad_fn.metadata["traceback_"]


METHODS = ("append", "extend", "insert", "pop", "remove", "index", "count", "sort", "reverse", "copy", "clear")
OPERATIONS = {
    "item": lambda stack, value: type(stack[value]),
    "item assignment": lambda stack, value: stack.__setitem__(value, value),
    "item deletion": lambda stack, value: stack.__delitem__(value),
    "plus": lambda stack, value: len(stack + value) - len(stack),
    "plus from the right": lambda stack, value: len(value + stack) - len(stack),
    "in-place plus": lambda stack, value: len(stack.__iadd__(value)) - len(stack),
    "times": lambda stack, value: len(stack * value) // len(stack) if value is not True and value != 1 << 80 else None,
    "contains": lambda stack, value: value in stack,
    "eq": lambda stack, value: stack == value,
    "lt": lambda stack, value: stack < value,
    "attribute": lambda stack, value: getattr(stack, value),
    "attribute assignment": lambda stack, value: setattr(stack, "name", value),
    "slice assignment": lambda stack, value: stack.__setitem__(slice(None), value),
    "call": lambda stack, value: stack(value),
    "hash": lambda stack, value: hash(stack),
    "init": lambda stack, value: stack.__init__(value),
}

for label, make_value in ODD_VALUES.items():
    for name in METHODS:

        @case(f"traceback's {name}({label})")
        def _(api, name=name, make_value=make_value):
            result = getattr(stack(api), name)(make_value())
            return None if name == "pop" else result

    for name, operation in OPERATIONS.items():

        @case(f"traceback's {name} with {label}")
        def _(api, operation=operation, make_value=make_value):
            return operation(stack(api), make_value())
