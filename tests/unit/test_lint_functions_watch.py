# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.lint.watch(): what it sees while programs run, and that they run as without it."""

import contextlib
import inspect
import warnings

import pytest
import torch
import wrong_functions
from test_lint_functions_check import expected, seen
from wrong_functions import RIGHT, TRACKED, UNTRACKED, WRONG, leaf, takes_something

import torch_ext
from torch_ext import lint

pytestmark = pytest.mark.filterwarnings("ignore::torch_ext.lint.FunctionWarning")

BASES = {"stock": torch.autograd.Function, "ours": torch_ext.Function, "installed": torch.autograd.Function}


def is_tensor(value):
    return isinstance(value, torch.Tensor)


def run(cls, inputs):
    """A call with its double backward; what torch refuses is refused."""
    needed = [each for each in inputs if is_tensor(each) and each.requires_grad]
    outputs = cls.apply(*inputs)
    outputs = [each for each in (outputs if isinstance(outputs, tuple) else [outputs]) if is_tensor(each) and each.requires_grad]
    gradients = [torch.ones_like(each).requires_grad_() * 1 for each in outputs]
    torch.autograd.grad(outputs, needed, gradients, create_graph=True, allow_unused=True)


@contextlib.contextmanager
def running_on(base):
    with torch_ext.installed() if base == "installed" else contextlib.nullcontext():
        yield


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("make", WRONG, ids=lambda make: make.__name__)
def test_watching(make, base):
    with running_on(base), lint.watch() as watch:
        cls, *inputs = make(BASES[base])
        with contextlib.suppress(RuntimeError):
            run(cls, inputs)
    assert seen(watch.findings) == expected(make, "w")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("make", RIGHT, ids=lambda make: make.__name__)
def test_right_ones(make, base):
    with running_on(base), lint.watch() as watch:
        cls, *inputs = make(BASES[base])
        try:
            run(cls, inputs)
        except RuntimeError as error:
            assert "once_differentiable" in str(error)
    assert watch.findings == []


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", [*UNTRACKED, *TRACKED])
def test_arguments(name, base):
    cls = takes_something(BASES[base])
    argument = (UNTRACKED | TRACKED)[name]()
    with running_on(base), lint.watch() as watch:
        cls.apply(leaf(), argument)  # here
        cls.apply(torch.ones(3), argument)  # and here
    lines, first = inspect.getsourcelines(test_arguments)
    marks = [number for number, line in enumerate(lines, first) if line.rstrip().endswith(" here")]
    expected = [("untracked-argument", line) for line in marks] if name in UNTRACKED else []
    assert [(each.kind, each.line) for each in watch.findings] == expected


def test_tensors_that_are_arguments_too_are_tracked():
    class Fn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, all_of_them, *xs):
            return sum(xs)

        @staticmethod
        def backward(ctx, grad):
            return (None, grad, grad)

    xs = leaf(), leaf()
    with lint.watch() as watch:
        Fn.apply(list(xs), *xs).sum().backward()
    assert watch.findings == []
