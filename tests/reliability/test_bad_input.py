# SPDX-License-Identifier: BSD-3-Clause
"""Wrong uses raise what stock torch raises, or a clear error if that crashes; they never crash."""

import json
import re

import pytest
import torch
from harness import torch_is_since
from torch.utils.hooks import RemovableHandle
from wrong_uses import ODD_VALUES, load

import torch_ext
from torch_ext import hooks

CASES = list(load())

# What follows from torch_ext's own class: Python's message on a layout that isn't torch's.
OWN_CLASS = (
    (re.compile(r"_FunctionBase\.__new__"), re.compile(r"raised TypeError: torch.* is not safe, use .*__new__\(\)")),
    (re.compile(r"class assignment to another's"), re.compile(r"raised TypeError: __class__ assignment: .* layout")),
)


# Stock torch writes past the end of such an object: what comes of it changes from run to run.
UNDEFINED = re.compile("_backward_cls without a base of its own")


def outcomes(python, implementation):
    """Name to outcome of each case: a list of lines."""
    process = python("-m", "wrong_uses", implementation)
    output, errors = process.communicate(json.dumps(CASES))
    assert process.returncode == 0, errors
    return json.loads(output)


# What torch_ext.Function has from newer releases of torch.
BACKPORTED = re.compile("takes no keyword arguments|boxed_grads_call|apply_boxed")
SINCE = "2.13"


def is_as_wanted(name, variant, stock, ours):
    if ours == stock:
        return ours != ["crashed"]
    if stock == ["crashed"] or UNDEFINED.match(name):
        return ours[0].startswith("raised ")
    if variant == "ours" and not torch_is_since(SINCE) and BACKPORTED.search(f"{name} {stock} {ours}"):
        return ours != ["crashed"]
    return any(names.search(name) and error.match(ours[0]) for names, error in OWN_CLASS)


def test_wrong_uses(python):
    stock, ours, installed = (outcomes(python, implementation) for implementation in ("stock", "ours", "installed"))
    assert len(stock) == len(CASES) > 200
    wrong = {
        f"{name}, {variant}": {"stock": stock[name], variant: found[name]}
        for variant, found in (("ours", ours), ("installed", installed))
        for name in CASES
        if not is_as_wanted(name, variant, stock[name], found[name])
    }
    assert not wrong, json.dumps(wrong, indent=1)


# --- What torch has nothing like ---------------------------------------------

LEAF = torch.ones(2, requires_grad=True)
NODE = (LEAF * 2).grad_fn
ENGINE = torch.autograd.Variable._execution_engine

OWN = {
    "accelerate": (torch_ext.accelerate, TypeError, "takes a subclass of torch.autograd.Function"),
    "_C.use_our_anomaly_metadata": (torch_ext._C.use_our_anomaly_metadata, TypeError, "takes a bool, got"),
    "_C.make_reporting_engine": (torch_ext._C.make_reporting_engine, TypeError, "expected torch's engine, got"),
    "_C.node_of_root": (torch_ext._C.node_of_root, TypeError, "expected a Tensor, got"),
    "_C.tensor_hooks": (torch_ext._C.tensor_hooks, (TypeError, RuntimeError), "expected a Tensor, got|doesn't require"),
    "_C.post_accumulate_grad_hooks": (
        torch_ext._C.post_accumulate_grad_hooks,
        (TypeError, RuntimeError),
        "expected a Tensor, got|doesn't require",
    ),
    "_C.register_prehook": (lambda x: torch_ext._C.register_prehook(x, print), TypeError, "expected a graph node"),
    "_C.register_posthook": (lambda x: torch_ext._C.register_posthook(x, print), TypeError, "expected a graph node"),
    "register_tensor_hook": (
        lambda x: hooks.register_tensor_hook(x, print),
        (TypeError, RuntimeError),
        "expected a Tensor, got|doesn't require",
    ),
    "register_node_prehook": (lambda x: hooks.register_node_prehook(x, print), TypeError, "expected a graph node"),
    "register_node_posthook": (lambda x: hooks.register_node_posthook(x, print), TypeError, "expected a graph node"),
    "register_post_accumulate_grad_hook": (
        lambda x: hooks.register_post_accumulate_grad_hook(x, print),
        (TypeError, RuntimeError),
        "expected a Tensor, got|doesn't require",
    ),
    "uncallable tensor hook": (
        lambda x: hooks.register_tensor_hook(LEAF, x),
        TypeError,
        "expected a hook that can be called",
    ),
    "uncallable prehook": (
        lambda x: hooks.register_node_prehook(NODE, x),
        TypeError,
        "expected a hook that can be called",
    ),
}


@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize("name", OWN)
def test_own_functions(name, value):
    function, error, message = OWN[name]
    before = torch_ext._C.use_our_anomaly_metadata(False)
    try:
        result = function(ODD_VALUES[value]())
    except ArithmeticError:
        assert value == "an object that raises"
    except Exception as raised:
        assert isinstance(raised, error) and re.search(message, str(raised)), raised
    else:
        # A value that fits is accepted.
        assert result is None or isinstance(result, (bool, RemovableHandle, dict, type(ENGINE)))
        if isinstance(result, RemovableHandle):
            result.remove()
    finally:
        torch_ext._C.use_our_anomaly_metadata(before)


NOT_FUNCTIONS = "Ctx", "torch_function"
FUNCTIONS = [n for n in dir(torch_ext._C) if callable(getattr(torch_ext._C, n)) and n not in NOT_FUNCTIONS]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("count", [0, 3, 40])
def test_wrong_arity(name, count):
    with pytest.raises((TypeError, AttributeError)) as raised:
        getattr(torch_ext._C, name)(*[None] * count, unknown=1)
    assert str(raised.value)


def test_ctx_types_cannot_be_had_without_a_class():
    ctx = torch_ext._C.Ctx()
    if torch_is_since("2.13"):
        assert ctx.name() == "torch._C._FunctionBase"
        assert (ctx.next_functions, list(ctx._input_metadata)) == ((), [])
    else:  # there is no node before the call
        for attribute in "name", "next_functions", "_input_metadata":
            with pytest.raises(RuntimeError, match=r"is invalid for this instance of _C._FunctionBase"):
                getattr(ctx, attribute)()
    assert (ctx.saved_tensors, ctx.needs_input_grad, ctx._raw_saved_tensors) == ((), None, ())
    with pytest.raises(TypeError, match="is not safe"):
        object.__new__(torch_ext._C.Ctx)


def test_methods_are_for_instances_of_their_class():
    for name in "name", "register_hook", "_sequence_nr", "saved_tensors":
        attribute = vars(torch_ext._C.Ctx)[name]
        with pytest.raises(TypeError, match="doesn't apply to"):
            attribute.__get__(torch._C._FunctionBase())
