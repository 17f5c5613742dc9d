# SPDX-License-Identifier: BSD-3-Clause
"""Scenarios that several ranks run at once."""

import functools
import importlib

import torch
import torch.distributed as dist
from harness.scenario import assert_same, transcript
from harness.variants import STOCK, VARIANTS


def on_ranks(body=None, *, count=2, device=None):
    """Creates a pytest test for each variant from ``body``, a function of a ``Scenario``.

    ``count`` ranks run it on stock torch, all at once, and then on the variant. What each has written down there has to
    be the same. What is alive at the end is not compared: gloo's threads release a collective's tensors, and so their
    nodes, some time after it is done.
    """
    if body is None:
        return functools.partial(on_ranks, count=count, device=device)

    def test(variant, ranks):
        __tracebackhide__ = True
        for expected, actual in ranks(count, device).call(_both, body.__module__, body.__name__, variant):
            assert_same(body, expected, actual, VARIANTS[variant])

    functools.update_wrapper(test, body)
    del test.__wrapped__  # pytest would look for its arguments
    test.place_as = test.body = body
    test.__test__ = True
    return test


def _both(module, name, variant):
    """The transcripts of this rank, on stock torch and on the variant."""
    body = getattr(importlib.import_module(module), name).body
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    return [transcript(body, each, device, at_end=False) for each in (STOCK, VARIANTS[variant])]
