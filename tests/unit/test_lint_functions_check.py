# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.lint.check(): what it says of wrong Functions, and that it is silent on right ones."""

import inspect
import re

import pytest
import torch
import wrong_functions
from torch_ext import lint
from wrong_functions import RIGHT, WRONG

import torch_ext

BASES = {"stock": torch.autograd.Function, "ours": torch_ext.Function}


def expected(make, letter):
    """What the comments of ``make`` say is found, with lines."""
    lines, first = inspect.getsourcelines(make)
    found = set()
    for number, line in enumerate(lines, first):
        found |= {(kind, number) for letters, kind in re.findall(r"# ([rtw]+): ([\w-]+)", line) if letter in letters}
    return found


def seen(findings):
    assert all(each.file == wrong_functions.__file__ for each in findings)
    return {(each.kind, each.line) for each in findings}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("make", WRONG, ids=lambda make: make.__name__)
def test_reading(make, base):
    cls, *_ = make(BASES[base])
    assert seen(lint.check(cls)) == expected(make, "r")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("make", WRONG, ids=lambda make: make.__name__)
def test_trying(make, base):
    cls, *inputs = make(BASES[base])
    assert seen(lint.check(cls, *inputs)) == expected(make, "t")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("make", RIGHT, ids=lambda make: make.__name__)
def test_right_ones(make, base):
    cls, *inputs = make(BASES[base])
    assert lint.check(cls) == ()
    # All inputs in turn, and these compute what they are asked for or pass it on.
    assert lint.check(cls, *inputs) == ()
