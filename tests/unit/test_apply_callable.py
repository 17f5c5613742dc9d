# SPDX-License-Identifier: BSD-3-Clause
"""``MyFn.apply``: what code that inspects functions finds."""

import inspect
import types
import weakref

import torch
from harness import torch_is_since

import torch_ext
from torch_ext._compat import function_of

THEIRS = function_of(torch.autograd.Function.__dict__["apply"])
OURS = function_of(torch_ext.Function.__dict__["apply"])


class Fn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2


def test_it_is_of_the_kind_that_it_stands_for():
    theirs = Fn.apply
    assert OURS is not THEIRS
    with torch_ext.installed():
        ours = Fn.apply
        kinds = [type(apply) for apply in (torch.autograd.Function.__dict__["apply"], ours)]
    assert kinds == [type(torch.autograd.Function.__dict__["apply"]), type(theirs)]
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__self__"):
        assert getattr(ours, name) == getattr(theirs, name)


if torch_is_since("2.14"):  # a method of C

    def test_bound_methods_print_alike():
        theirs = Fn.apply
        with torch_ext.installed():
            assert repr(Fn.apply).split(" at 0x")[0] == repr(theirs).split(" at 0x")[0]

    def test_unbound_it_takes_the_class_first():
        x = torch.ones(1, requires_grad=True)
        for apply in (THEIRS, OURS):
            assert apply(Fn, x).item() == 2

else:  # one of Python

    def test_it_is_equal_to_the_one_it_stands_for():
        assert OURS == THEIRS and THEIRS == OURS and not OURS != THEIRS  # noqa: SIM202 (both operators)
        assert hash(OURS) == hash(THEIRS)
        assert OURS != torch.autograd.function.once_differentiable  # noqa: SIM300 (ours is asked)

    def test_bound_methods_of_before_and_after_install_are_equal():
        before = Fn.apply
        with torch_ext.installed():
            assert Fn.apply == before and hash(Fn.apply) == hash(before)

    def test_it_passes_for_a_function_of_the_same_code():
        assert isinstance(OURS, types.FunctionType) and inspect.isfunction(OURS)
        assert OURS.__code__ is THEIRS.__code__
        assert inspect.signature(OURS) == inspect.signature(THEIRS)

    def test_it_is_weakly_referable():
        assert weakref.ref(OURS)() is OURS
