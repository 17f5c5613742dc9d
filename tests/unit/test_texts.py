# SPDX-License-Identifier: BSD-3-Clause
"""Texts that users read, word for word: torch_ext's own, and torch's messages as it passes them on."""

import re

import expecttest
import pytest
import torch

import torch_ext


class Double(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2, grad


def message(exception, function, *args):
    with pytest.raises(exception) as caught:
        function(*args)
    return str(caught.value)


def test_repr_of_an_output_and_its_node(device):
    y = Double.apply(torch.ones(1, device=device, requires_grad=True))
    text = f"{y.detach().cpu()}\n{re.sub('0x[0-9a-f]+', '0x...', repr(y.grad_fn))}\n{y.grad_fn.name()}"
    expecttest.assert_expected_inline(
        text,
        """\
tensor([2.])
<torch.autograd.function.DoubleBackward object at 0x...>
DoubleBackward""",
    )


def test_wrong_number_of_gradients(device):
    y = Double.apply(torch.ones(1, device=device, requires_grad=True))
    expecttest.assert_expected_inline(
        message(RuntimeError, y.backward),
        """function DoubleBackward returned an incorrect number of gradients (expected 1, got 2)""",
    )


def test_accelerate_what_is_no_function():
    expecttest.assert_expected_inline(
        message(TypeError, torch_ext.accelerate, 3),
        """accelerate() takes a subclass of torch.autograd.Function, got 3""",
    )


def test_accelerate_function_itself():
    expecttest.assert_expected_inline(
        message(TypeError, torch_ext.accelerate, torch.autograd.Function),
        """accelerate() takes one custom Function; to run all of them on torch_ext, torch.autograd.Function itself, use torch_ext.install()""",
    )


def test_graph_of_a_trace():
    traced = torch.jit.trace(lambda x: Double.apply(x), torch.ones(1), check_trace=False)
    graph = re.sub(r" # .*", "", str(traced.graph))
    expecttest.assert_expected_inline(
        graph,
        """\
graph(%x : Float(1, strides=[1], requires_grad=0, device=cpu)):
  %3 : Float(1, strides=[1], requires_grad=0, device=cpu) = ^Double[inplace=0, module="test_texts", Subgraph=<Graph>]()(%x)
  return (%3)
""",
    )
