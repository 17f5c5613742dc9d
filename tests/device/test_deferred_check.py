# SPDX-License-Identifier: BSD-3-Clause
"""check_nan="deferred" waits for the device once a backward, and names what check_nan=True names."""

import pytest
import torch

from torch_ext import anomaly


@pytest.fixture
def module(device):
    return torch.get_device_module(device)


@pytest.fixture
def no_waiting(module):
    """Any wait for the device raises an error."""
    module.set_sync_debug_mode("error")
    yield
    module.set_sync_debug_mode("default")


class Waits:
    """Lets the device be waited for from the end of a leaf's backward on."""

    def __init__(self, leaf, module):
        self.ended = 0
        self.module = module
        leaf.register_post_accumulate_grad_hook(self.end)

    def end(self, leaf):
        self.ended += 1
        self.module.set_sync_debug_mode("default")


def test_nodes_do_not_wait(no_waiting, device, module):
    x = torch.ones(4, device=device, requires_grad=True)
    waits = Waits(x, module)
    with anomaly.set_detect_anomaly(True, "deferred"):
        y = x
        for _ in range(8):
            y = y.sin() * 2
        y.sum().backward()
    assert waits.ended == 1


def test_same_findings(device):
    def report(way):
        x = torch.tensor([-1.0, 4.0], device=device, requires_grad=True)
        with anomaly.set_detect_anomaly(True, way), pytest.raises(RuntimeError, match="returned nan values in its 0th"):
            (x.sqrt() * 3).sum().backward()
        return anomaly.last_report()

    there, here = report(True), report("deferred")
    assert (here.node_name, here.path, here.born.name) == (there.node_name, there.path, there.born.name)
