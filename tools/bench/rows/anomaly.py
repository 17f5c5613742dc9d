# SPDX-License-Identifier: BSD-3-Clause
"""Training steps in anomaly mode, against the plain step."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

import torch_ext

from .probe import Probe, Row

DEPTH = 60  # Python frames above a training step that is called from deep within a program


def make_blocks():
    """12 x (Linear 64, LayerNorm, GELU), and a batch of 32 for them."""
    torch.manual_seed(0)
    layers = [(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU()) for _ in range(12)]
    return nn.Sequential(*(layer for block in layers for layer in block)), torch.randn(32, 64)


def at_depth(depth, call):
    """``call()``, with ``depth`` more Python frames on the stack.

    They are of two functions in turn, since tracebacks shorten the recursion of one.
    """
    return call() if depth == 0 else _one_deeper(depth - 1, call)


def _one_deeper(depth, call):
    return call() if depth == 0 else at_depth(depth - 1, call)


def training_step(mode=contextlib.nullcontext, depth=0):
    """Forward, backward and the optimizer's step, in the context ``mode()``."""
    model, batch = make_blocks()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step():
        with mode():
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()

    return Probe(lambda: at_depth(depth, step))


def under_anomaly_mode(name, title, set_detect_anomaly, **options):
    """The rows of an anomaly mode, each against the plain step at the same depth."""

    def row(suffix, text, check_nan, depth):
        return Row(
            name + suffix,
            title + text,
            lambda: training_step(depth=depth),
            lambda: training_step(lambda: set_detect_anomaly(True, check_nan=check_nan), depth),
            **options,
        )

    deep = f", {DEPTH} frames deep"
    return (
        row("", "", False, 0),
        row("_nan", ", NaN checks", True, 0),
        row("_deep", deep, False, DEPTH),
        row("_nan_deep", ", NaN checks" + deep, True, DEPTH),
    )


def checked_row(way, title):
    """A row of torch_ext's anomaly mode with NaN checks of another way, against the plain step."""
    return Row(
        f"anomaly_nan_{way}",
        f"training step in anomaly mode, NaN checks {title}",
        training_step,
        lambda: training_step(lambda: torch_ext.anomaly.set_detect_anomaly(True, check_nan=way)),
    )


ROWS = (
    *under_anomaly_mode(
        "anomaly",
        "training step in anomaly mode, the reference being the plain step",
        torch_ext.anomaly.set_detect_anomaly,
    ),
    Row(
        "noting",
        "training step while nodes note where they are made, the reference being the plain step",
        training_step,
        lambda: training_step(torch_ext.graph.noting),
    ),
    checked_row("forward", "in forward too"),
    checked_row("deferred", "deferred"),
    *under_anomaly_mode(
        "torch",
        "the same in torch's own anomaly mode",
        torch.autograd.set_detect_anomaly,
        is_checked=False,
    ),
)
