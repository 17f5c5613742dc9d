# SPDX-License-Identifier: BSD-3-Clause
"""The Functions that differentiate torch's higher-order operators, called without a compiler."""

import torch
import torch._dynamo  # torch does so on the first use of a dispatch mode: its classes are no leak
import torch._inductor.compile_fx  # scan does, with warnings
from harness import scenario
from harness.small_functions import make_product, make_square
from torch._higher_order_ops.associative_scan import associative_scan_op
from torch._higher_order_ops.cond import cond_op
from torch._higher_order_ops.flex_attention import flex_attention
from torch._higher_order_ops.map import map_impl
from torch._higher_order_ops.scan import scan_op
from torch._higher_order_ops.while_loop import while_loop_op
from torch.nn.attention.flex_attention import _create_empty_block_mask, create_block_mask


def first_derivatives(s, label, call, *inputs):
    out = call(*inputs)
    s.record(label, out)
    total = sum(t.sum() for t in torch.utils._pytree.tree_leaves(out) if t.requires_grad)
    leaves = [t for t in inputs if t.requires_grad]
    s.outcome(f"{label}: gradients", torch.autograd.grad, total, leaves, allow_unused=True)


@scenario
def branches(s):
    square, product = make_square(s.Function), make_product(s.Function)
    for pred in True, False:
        x, y = s.randn(3, requires_grad=True), s.randn(3, requires_grad=True)
        first_derivatives(
            s,
            f"{pred}",
            lambda x, y, pred=pred: cond_op(
                s.tensor(pred), lambda x, y: (product.apply(x, y),), lambda x, y: (square.apply(x) + y,), (x, y)
            ),
            square.apply(x).detach().requires_grad_(),
            y,
        )


@scenario
def loops(s):
    square, product = make_square(s.Function), make_product(s.Function)
    xs, weight = s.randn(4, 3, requires_grad=True), s.randn(3, requires_grad=True)
    first_derivatives(s, "map", lambda xs, w: map_impl(lambda x, w: (product.apply(x, w),), (xs,), (w,)), xs, weight)
    first_derivatives(
        s,
        "scan",
        lambda xs, w: scan_op(lambda carry, x, w: (product.apply(carry, w) + x, square.apply(x)), [w * 1], [xs], (w,)),
        xs,
        weight,
    )
    first_derivatives(
        s,
        "associative_scan",
        lambda xs: associative_scan_op(lambda a, b: (product.apply(a, b),), (xs,), ()),
        xs,
    )
    s.outcome(
        "while_loop",
        lambda: while_loop_op(
            lambda i, x: i < 3, lambda i, x: (i + 1, square.apply(x)), (s.tensor(0), s.randn(2, requires_grad=True)), ()
        ),
    )


@scenario
def attention_with_a_function_for_scores(s):
    square = make_square(s.Function)
    q, k, v = (s.randn(1, 1, 4, 4, requires_grad=True) for _ in range(3))
    bias = s.randn(4, requires_grad=True)
    mask = create_block_mask(lambda b, h, i, j: i >= j, 1, 1, 4, 4, device=s.device)

    def score_mod(score, batch, head, q_index, k_index, bias):
        return score + bias[q_index]

    for name, block_mask in ("everything", _create_empty_block_mask(q, k)), ("causal", mask):
        first_derivatives(
            s,
            name,
            lambda q, k, v, bias, m=block_mask: flex_attention(
                square.apply(q), k, v, score_mod, m.as_tuple(), 0.5, {}, (bias,), ()
            )[0],
            q,
            k,
            v,
            bias,
        )
