# SPDX-License-Identifier: BSD-3-Clause
"""The engine's threads: on a GPU, backward runs on a thread that stays alive, one for each device."""

import functools

import torch

from . import standin

# More nodes than the engine's threads create while the tests run.
_AHEAD = 200_000


def prepare(device):
    """Start the engine's thread for ``device``, and load what torch loads there on first use.

    Each thread numbers its nodes for itself. This thread's numbers are moved far ahead of the other's, so that a
    number tells which of the two created a node.
    """
    if device.type == "cpu":
        return
    x = torch.ones(2, 2, device=device, requires_grad=True)
    # On the engine's thread too, cuBLAS warns if it is the first to be used.
    torch.autograd.grad((x @ x).exp().sum(), x, create_graph=True)[0].sum().backward()
    leaf = torch.zeros((), requires_grad=True)
    while torch._C._autograd._get_sequence_nr() < _AHEAD:
        leaf.neg()
    settle(device)


@functools.cache
def _small_graph(device):
    root = torch.zeros((), device=device, requires_grad=True).sum()
    root.grad_fn._set_sequence_nr(0)  # the engine runs the youngest nodes first, so this one last
    return root, torch.ones((), device=device)


def settle(device):
    """Return when the engine's thread for ``device`` has released what it ran last.

    It does so some time after backward has returned, at the latest when it gets its next task.
    """
    if device.type == "cpu":
        return
    root, gradient = _small_graph(device)
    # A mode of the caller must not see it.
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        torch.autograd.backward(root, gradient, retain_graph=True)
    if device.type == standin.NAME:
        # Work that nobody waits for stays in its queue, and holds memory there.
        torch.accelerator.synchronize(device)
