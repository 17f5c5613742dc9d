"""The function of ``MyFn.apply``: what Python code that looks at functions finds."""

import inspect
import types
import weakref

import torch
import torch_ext

THEIRS = torch.autograd.Function.__dict__["apply"].__func__
OURS = torch_ext.Function.__dict__["apply"].__func__


def test_it_is_equal_to_the_one_it_stands_for():
    assert OURS == THEIRS and THEIRS == OURS and not OURS != THEIRS
    assert hash(OURS) == hash(THEIRS)
    assert OURS != torch.autograd.function.once_differentiable


def test_bound_methods_of_before_and_after_install_are_equal():
    class Fn(torch.autograd.Function):
        pass

    before = Fn.apply
    with torch_ext.installed():
        assert Fn.apply == before and hash(Fn.apply) == hash(before)


def test_it_passes_for_a_function_of_the_same_code():
    assert isinstance(OURS, types.FunctionType) and inspect.isfunction(OURS)
    assert OURS.__code__ is THEIRS.__code__
    assert inspect.signature(OURS) == inspect.signature(THEIRS)


def test_it_is_weakly_referable():
    assert weakref.ref(OURS)() is OURS
