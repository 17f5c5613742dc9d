# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.graph.saved_memory agrees with what the device's allocator has handed out."""

import gc

import torch
from harness.engine import settle
from torch import nn

from torch_ext.graph import saved_memory

# The allocator hands out multiples of 512 bytes: each tensor here is one.
BATCH, WIDTH = 128, 256


def test_bytes_are_the_allocators(device):
    module = torch.get_device_module(device)
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.Tanh()).to(device)
    net(torch.ones(BATCH, WIDTH, device=device)).exp().sum().backward()  # libraries get their workspaces
    net.zero_grad()
    settle(device)
    gc.collect()
    start = module.memory_allocated(device)
    node = net(torch.ones(BATCH, WIDTH, device=device)).exp().sum(1).grad_fn
    settle(device)
    memory = saved_memory(node, net)
    assert memory.total == module.memory_allocated(device) - start >= 5 * BATCH * WIDTH * 4
    assert {each.device for each in memory.storages} == {str(torch.empty(0, device=device).device)}
    assert memory.apart("parameter") == sum(each.nbytes for each in net.parameters())
    del node
    settle(device)
    assert module.memory_allocated(device) == start
