# SPDX-License-Identifier: BSD-3-Clause
"""Selective activation checkpointing: what a Function does again in backward, and what was kept for it."""

import functools

import torch
import torch._dynamo  # torch does so on the first use of a dispatch mode: its classes are no leak
import torch.utils.checkpoint as checkpointing
from harness import scenario
from harness.small_functions import make_doubler, make_product, make_square
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

aten = torch.ops.aten


def make_talker(s):
    """sin(x) that records when it runs, in either style."""

    class Talker(s.Function):
        @staticmethod
        def forward(ctx, x, name):
            s.record(f"forward of {name}", torch.is_grad_enabled())
            y = x.sin()
            ctx.name = name
            ctx.save_for_backward(x, y)
            return y

        @staticmethod
        def backward(ctx, grad):
            x, _ = ctx.saved_tensors
            s.record(f"backward of {ctx.name}")
            return grad * x.cos(), None

    class Apart(s.Function):
        @staticmethod
        def forward(x, name):
            s.record(f"forward of {name}", torch.is_grad_enabled())
            return x.sin()

        @staticmethod
        def setup_context(ctx, inputs, output):
            x, ctx.name = inputs
            s.record(f"setup_context of {ctx.name}")
            ctx.save_for_backward(x, output)

        backward = Talker.backward

    return Talker, Apart


def make_block(s):
    talker, apart = make_talker(s)

    def block(x, weight):
        return apart.apply(talker.apply(x @ weight, "first") @ weight, "second").exp()

    return block


def selectively(policy, **options):
    return functools.partial(create_selective_checkpoint_contexts, policy, **options)


def run(s, label, body, *inputs, **options):
    out = checkpoint(body, *inputs, use_reentrant=False, **options)
    s.record(label, out)
    s.record(f"{label}: gradients", torch.autograd.grad(out.sum(), inputs))


@scenario
def list_of_operators(s):
    block = make_block(s)
    for operators in [], [aten.mm.default], [aten.sin.default], [aten.mm.default, aten.sin.default, aten.exp.default]:
        inputs = s.randn(2, 2, requires_grad=True), s.randn(2, 2, requires_grad=True)
        run(s, f"keeps {operators}", block, *inputs, context_fn=selectively(operators))
    s.raises("no overload", run, s, "mm", block, *inputs, context_fn=selectively([aten.mm]))
    s.raises("a Function", run, s, "mm", block, *inputs, context_fn=selectively([make_square(s.Function)]))


@scenario
def policies(s):
    block = make_block(s)
    inputs = s.randn(2, 2, requires_grad=True), s.randn(2, 2, requires_grad=True)

    def policy(answer, ctx, op, *args, **kwargs):
        s.record("asked", op, ctx.is_recompute, len(args), kwargs)
        return answer

    for answer in (*CheckpointPolicy, True, False):
        if "OFFLOAD" in str(answer):
            continue  # for compiled code alone
        run(s, f"{answer}", block, *inputs, context_fn=selectively(functools.partial(policy, answer)))

    def by_need(ctx, op, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if op is aten.sin.default else CheckpointPolicy.MUST_RECOMPUTE

    run(s, "by operator", block, *inputs, context_fn=selectively(by_need))

    def fails(ctx, op, *args, **kwargs):
        raise KeyError(str(op))

    s.raises("policy that raises", run, s, "never", block, *inputs, context_fn=selectively(fails))


@scenario
def early_stop(s):
    block = make_block(s)
    inputs = s.randn(2, 2, requires_grad=True), s.randn(2, 2, requires_grad=True)
    for stop in True, False:
        run(s, f"early_stop={stop}", block, *inputs, early_stop=stop)
        run(
            s,
            f"keeps mm, early_stop={stop}",
            block,
            *inputs,
            early_stop=stop,
            context_fn=selectively([aten.mm.default]),
        )


@scenario
def several_backwards(s):
    square = make_square(s.Function)
    x = s.randn(2, requires_grad=True)
    for context_fn in checkpointing.noop_context_fn, selectively([aten.mul.Tensor]):
        out = checkpoint(lambda x: square.apply(square.apply(x)), x, use_reentrant=False, context_fn=context_fn)
        s.outcome("first", torch.autograd.grad, out.sum(), x, retain_graph=True)
        s.outcome("second", torch.autograd.grad, out.sum(), x)
        out = checkpoint(lambda x: square.apply(square.apply(x)), x, use_reentrant=False, context_fn=context_fn)
        s.outcome("create_graph", lambda out=out: torch.autograd.grad(out.sum(), x, create_graph=True))


@scenario
def what_was_kept_is_changed(s):
    square = make_square(s.Function)
    x = s.randn(2, requires_grad=True)
    for allowed in False, True:

        def body(x):
            y = square.apply(x)
            z = y * 1
            with torch.no_grad():
                y.add_(1)
            return square.apply(z)

        context_fn = selectively([aten.mul.Tensor], allow_cache_entry_mutation=allowed)
        s.outcome(f"allowed: {allowed}", run, s, "changed", body, x, context_fn=context_fn)


@scenario
def changes_in_place_inside(s):
    Doubler = make_doubler(s.Function)
    product = make_product(s.Function)
    x = s.randn(3, requires_grad=True)
    for context_fn in checkpointing.noop_context_fn, selectively([aten.mul_.Tensor]), selectively([aten.exp.default]):
        s.outcome("call", run, s, "call", lambda x: product.apply(Doubler.apply(x.exp()), x), x, context_fn=context_fn)


@scenario
def recomputation_that_differs(s):
    square, product = make_square(s.Function), make_product(s.Function)
    for determinism_check in "default", "none":
        for name, later in (
            ("other Function", lambda x: product.apply(x, x)),
            ("fewer", lambda x: x * 1),
            ("more", lambda x: square.apply(square.apply(x))),
            ("other shape", lambda x: square.apply(x[:1])),
        ):
            calls = []

            def body(x, calls=calls, later=later):
                calls.append(1)
                return square.apply(square.apply(x)) if len(calls) == 1 else later(x)

            x = s.randn(3, requires_grad=True)
            s.outcome(f"{name}, {determinism_check}", run, s, name, body, x, determinism_check=determinism_check)


@scenario
def nested_policies(s):
    block = make_block(s)
    inputs = s.randn(2, 2, requires_grad=True), s.randn(2, 2, requires_grad=True)

    def outer(x, weight):
        inner = checkpoint(block, x, weight, use_reentrant=False, context_fn=selectively([aten.sin.default]))
        return block(inner, weight)

    run(s, "kept", outer, *inputs, context_fn=selectively([aten.mm.default]))
    run(s, "nothing kept", outer, *inputs)


@scenario
def a_function_that_checkpoints_itself(s):
    square = make_square(s.Function)

    class Segment(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return square.apply(x).sin()

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                out = checkpoint(
                    lambda x: square.apply(x).sin(), x, use_reentrant=False, context_fn=selectively([aten.mul.Tensor])
                )
            return torch.autograd.grad(out, x, grad)

    x = s.randn(3, requires_grad=True)
    out = Segment.apply(x)
    out.sum().backward()
    s.record("alone", out, x)
    run(s, "in a checkpoint", Segment.apply, x)


@scenario
def recomputed_under_other_modes(s):
    block = make_block(s)
    inputs = s.randn(2, 2, requires_grad=True), s.randn(2, 2, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        run(s, "autocast", block, *inputs)
    with torch.autograd.graph.save_on_cpu():
        run(s, "save_on_cpu", block, *inputs, context_fn=selectively([aten.mm.default]))
    with s.detect_anomaly():
        run(s, "anomaly mode", block, *inputs)
    out = checkpoint(block, *inputs, use_reentrant=False).sum()
    with torch.no_grad():
        s.record("no_grad around backward", torch.autograd.grad(out, inputs))


@scenario
def checkpointed_under_transforms(s):
    product = make_product(s.Function)

    def body(x):
        return checkpoint(lambda x: product.apply(product.apply(x, x).sin(), x), x, use_reentrant=False)

    x = s.randn(3)
    s.outcome("vjp", lambda: torch.func.vjp(body, x)[1](torch.ones_like(x)))
    s.outcome("grad", torch.func.grad(lambda x: body(x).sum()), x)
    s.outcome("vmap", torch.func.vmap(body), s.randn(2, 3, requires_grad=True))


@scenario
def one_group_of_backwards(s):
    block = make_block(s)
    inputs = s.randn(2, 2, requires_grad=True), s.randn(2, 2, requires_grad=True)
    out = checkpoint(lambda x, w: (block(x, w), block(w, x)), *inputs, use_reentrant=False)

    def backwards():
        with checkpointing.GraphExecGroup():
            first = torch.autograd.grad(out[0].sum(), inputs, retain_graph=True)
            return first, torch.autograd.grad(out[1].sum(), inputs)

    s.outcome("recomputed once", backwards)


@scenario
def what_stays_alive(s):
    square = make_square(s.Function)
    x = s.randn(3, requires_grad=True)

    def call(**options):
        checkpoint(lambda x: square.apply(square.apply(x)), x, use_reentrant=False, **options).sum().backward()

    s.references("recomputed", call, x, square)
    s.references("selective", lambda: call(context_fn=selectively([aten.mul.Tensor])), x, square)
