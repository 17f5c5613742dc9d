# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.lint.check(): what it says of wrong Functions, and that it is silent on right ones."""

import dataclasses
import inspect
import json
import re

import pytest
import torch
import torch.nn.modules._functions
import torch.nn.parallel._functions
import torch.utils.checkpoint
import wrong_functions
from torch.testing._internal import autograd_function_db
from wrong_functions import RIGHT, WRONG, input_on_ctx, leaf, takes_something

import torch_ext
from torch_ext import lint

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


# --- Texts ----------------------------------------------------------------------------------------


def texts_of_all_kinds():
    """The first finding of each kind in the table, as if all stood in one place."""
    found = {}
    for make in WRONG:
        cls, *inputs = make(torch.autograd.Function)
        for finding in lint.check(cls, *inputs):
            found.setdefault(finding.kind, finding)
    cls = takes_something(torch.autograd.Function)
    (found["untracked-argument"],) = lint.check(cls, leaf(), [leaf()])
    assert set(found) == set(lint.KINDS)
    places = {"file": "/there/layers.py", "line": 12, "function": "Fn"}
    texts = "\n".join(str(dataclasses.replace(found[kind], **places)) for kind in lint.KINDS)
    return re.sub(r"in line \d+", "in line 10", texts)


TEXTS = """\
layers.py:12: Fn: its input x is kept on ctx: a change of it in place goes unnoticed, and
    saved-tensor hooks don't see it; it is no leak.
    Write ctx.save_for_backward(x) and read it from ctx.saved_tensors.
    [kept-input]
layers.py:12: Fn: its output y is kept on ctx: the output's grad_fn is ctx, and that cycle leaks the
    output until the garbage collector runs.
    Write ctx.save_for_backward(y) and read it from ctx.saved_tensors.
    [kept-output]
layers.py:12: Fn: its argument others holds tensors that require grad, which autograd doesn't track
    there: they get no gradient from this call.
    Pass each tensor as an argument of its own, as in apply(*tensors).
    [untracked-argument]
layers.py:12: Fn: y is returned twice: both outputs are one tensor, whose gradients all come as that
    of the last.
    Return y.clone() the second time, or return it once.
    [returned-twice]
layers.py:12: Fn: half is made inside forward from inputs, saved, and used by backward: autograd
    doesn't know where it comes from, and the double backward is silently wrong.
    Save the inputs and compute it in backward, return it as one more output, or use
    @once_differentiable.
    [saved-intermediate]
layers.py:12: Fn: its input x is changed in place without mark_dirty: autograd uses the changed
    values as if they were the old ones.
    Call ctx.mark_dirty(x) and return x, or change x.clone().
    [changed-input]
layers.py:12: Fn: an output shares memory with its input x, and autograd doesn't know: a change of
    one changes the other.
    Return x.clone() or x.view_as(x).
    [aliases-input]
layers.py:12: Fn: backward isn't differentiable (.numpy()), and isn't marked so: a double backward
    is silently wrong.
    Put @once_differentiable below @staticmethod, or compute with operators of torch.
    [not-differentiable]
layers.py:12: Fn: backward changes the gradient grad in place: others may be given the same tensor.
    Change grad.clone(), or use the operator that returns a new tensor.
    [changed-gradient]
layers.py:12: Fn: backward never uses two, and zeros are made for it whenever that output gets no
    gradient.
    Call ctx.set_materialize_grads(False) and expect None, or use mark_non_differentiable on that
    output.
    [unused-zeros]
layers.py:12: Fn: backward computes a gradient for y, which needs none.
    Compute it under if ctx.needs_input_grad[1], and return None otherwise.
    [unneeded-gradient]
layers.py:12: Fn: backward returns 1 gradient, and forward takes 2 arguments.
    Return a gradient or None for each argument of forward, in order.
    [gradient-count]
layers.py:12: Fn: backward returns a gradient for x of shape (2,), and the input's is (3,).
    Return a gradient like the input: its shape, dtype and device.
    [gradient-form]
layers.py:12: Fn: the gradient for x disagrees with the numerical one.
    Correct the formula in backward; torch.autograd.gradcheck shows both.
    [wrong-gradient]
layers.py:12: Fn: the double gradient for x disagrees with the numerical one.
    Compute in backward from saved inputs and outputs, with operators of torch, or use
    @once_differentiable.
    [wrong-double-gradient]
layers.py:12: Fn: save_for_backward is called a second time: what the call in line 10 saved is
    lost.
    Call it once, with all tensors.
    [saved-twice]
layers.py:12: Fn: save_for_backward is called in backward, where it saves nothing.
    Call it in forward or in setup_context.
    [saved-outside]
layers.py:12: Fn: mark_non_differentiable() is called on index, which isn't returned.
    Return index itself from forward, or leave the call out.
    [not-returned]
layers.py:12: Fn: forward is no staticmethod.
    Write @staticmethod above it, and no self or cls in its arguments.
    [not-static]
layers.py:12: Fn: forward takes ctx though setup_context is defined: it is given the first input as
    ctx.
    Leave ctx out of forward, and set it up in setup_context.
    [two-styles]"""


def test_texts():
    assert texts_of_all_kinds() == TEXTS
    assert max(map(len, TEXTS.split("\n"))) <= 100


def test_as_json():
    (finding,) = lint.check(input_on_ctx(torch.autograd.Function)[0])
    assert json.loads(finding.to_json()) == dataclasses.asdict(finding)


# --- What it takes --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, int, None, input_on_ctx])
def test_what_is_no_function(value):
    with pytest.raises(TypeError, match=r"check\(\) takes a subclass of torch.autograd.Function, got"):
        lint.check(value)


def test_ignored_kinds():
    cls, x = input_on_ctx(torch.autograd.Function)
    assert lint.check(cls, x, ignore=["kept-input"]) == ()
    with pytest.raises(ValueError, match=r"ignore= takes kinds of findings, kept-input, .*; got 'leak'"):
        lint.check(cls, ignore=["leak"])


def test_a_class_without_source():
    namespace = {"torch": torch}
    exec(
        "class Fn(torch.autograd.Function):\n"
        "    @staticmethod\n"
        "    def forward(ctx, x):\n"
        "        ctx.x = x\n"
        "        return x * x\n"
        "    @staticmethod\n"
        "    def backward(ctx, grad):\n"
        "        return grad * ctx.x\n",
        namespace,
    )
    assert lint.check(namespace["Fn"]) == ()
    assert [each.kind for each in lint.check(namespace["Fn"], leaf())] == ["kept-input", "wrong-gradient"]


def test_inputs_and_random_numbers_are_left_alone():
    cls, x = wrong_functions.changed_input(torch.autograd.Function)
    before, state = x.detach().clone(), torch.get_rng_state()
    assert lint.check(cls, x)
    assert torch.equal(x, before) and x._version == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_says_which_input():
    cls, *inputs = wrong_functions.wrong_formula_of_the_second(torch.autograd.Function)
    (finding,) = lint.check(cls, *inputs)
    assert finding.what == "the gradient for y disagrees with the numerical one."


def test_an_error_of_forward_is_passed_on():
    cls, x = input_on_ctx(torch.autograd.Function)
    with pytest.raises(TypeError):
        lint.check(cls, x, 3)


def test_torchs_own_functions():
    """All that torch has; two that it tests itself with never look at a gradient, and say so."""
    found = {(cls.__name__, each.kind) for cls in torchs_functions() for each in lint.check(cls)}
    assert found <= {("CubeGenVmap", "unused-zeros"), ("NumpyCubeNotComposable", "unused-zeros")}


def torchs_functions():
    modules = (autograd_function_db, torch.utils.checkpoint, torch.nn.parallel._functions, torch.nn.modules._functions)
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, torch.autograd.Function):
                yield value
