# SPDX-License-Identifier: BSD-3-Clause
"""Differences that the fuzzer found, and that have no place in another file."""

import contextlib
import functools
import warnings

import torch
from harness import scenario
from harness.changed_views import changed_views


@contextlib.contextmanager
def in_anomaly_mode(s):
    """Without its warnings, whose text names a place in C++."""
    with warnings.catch_warnings(), s.detect_anomaly():
        warnings.simplefilter("ignore")
        yield


def with_flag(s, name, value):
    class Flagged(s.Function):
        @staticmethod
        def forward(x):
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            (ctx.x,) = inputs

        @staticmethod
        def backward(ctx, grad):
            return grad

    setattr(Flagged, name, value)
    return Flagged


@scenario(since="2.13")
def wrong_flags_are_told_after_the_arguments(s):
    for name in ("clear_saved_tensors_on_access", "boxed_grads_call"):
        wrong = with_flag(s, name, 1)
        x = s.randn(2, requires_grad=True)
        s.raises(f"{name}, no arguments", wrong.apply)
        s.raises(f"{name}, unknown keyword", lambda wrong=wrong, x=x: wrong.apply(x, unknown=1))
        s.raises(name, wrong.apply, x)
        s.record("the node was made: the next number", x * 2)


@scenario
def history_of_a_changed_view_is_older_than_the_node(s):
    Double = with_flag(s, "unused", True)
    view = (s.randn(2, 2, requires_grad=True) * 2)[0]
    view[:1].mul_(2)
    s.record("node", Double.apply(view).grad_fn)


@scenario
def sequence_numbers_after_a_failure_in_anomaly_mode(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("backward")

    x = s.randn(3, requires_grad=True)
    y = Fails.apply(x)
    with in_anomaly_mode(s):
        with contextlib.suppress(ValueError):
            y.sum().backward(retain_graph=True)
        with contextlib.suppress(ValueError):
            y.backward(torch.ones_like(y))
    s.record("made afterwards", Fails.apply(x))


@scenario
def a_changed_view_is_asked_for_its_node_by_nobody_before_torch(s):
    for kind, view in changed_views(s).items():
        for place in "root", "input", "input of a failure":
            root = view if place == "root" else s.randn(2, requires_grad=place == "input").sum()
            inputs = [s.randn(2, requires_grad=True)] if place == "root" else [view]
            gradients = torch.ones_like(root)
            with in_anomaly_mode(s):
                call = functools.partial(torch.autograd.grad, retain_graph=True, allow_unused=True)
                try:
                    s.record(f"{kind}, {place}", call(root, inputs, gradients))
                except RuntimeError as error:
                    s.record(f"{kind}, {place}", str(error))  # without the report, which stock doesn't make
            s.outcome(f"{kind}, {place}: its node", lambda view=view: view.grad_fn)


@scenario
def a_changed_view_that_was_saved_gets_no_node_after_backward(s):
    class Keeps(s.Function):
        @staticmethod
        def forward(ctx, x):
            y = x * 3
            x.mul_(2)
            ctx.save_for_backward(x)
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad * 3

    leaf = s.randn(2, 2, requires_grad=True)
    y = Keeps.apply(leaf[0])
    with in_anomaly_mode(s):
        s.record("gradient", torch.autograd.grad(y.sum(), leaf))
    s.record("made afterwards", leaf * 2)
