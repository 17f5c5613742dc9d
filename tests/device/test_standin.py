# SPDX-License-Identifier: BSD-3-Clause
"""The stand-in itself: what nobody waits for hasn't run, memory is counted and overwritten, errors come late."""

import gc
import os

import pytest
import torch
from harness import compare
from harness.small_functions import make_square
from harness.variants import STOCK

ONES = [1.0, 1.0, 1.0]


@pytest.fixture
def module(device):
    return torch.get_device_module(device)


@pytest.fixture
def side(module):
    return module.Stream()


def is_unwritten(tensor):
    """Whether the values are what the allocator leaves."""
    return torch.isnan(tensor).all().item()


def ones_on(stream, module, device):
    with module.stream(stream):
        return torch.ones(3, device=device)


WAYS_TO_WAIT = {
    "for a stream": lambda module, side: module.current_stream().wait_stream(side),
    "for an event": lambda module, side: module.current_stream().wait_event(side.record_event()),
    "the host for a stream": lambda module, side: side.synchronize(),
    "the host for an event": lambda module, side: side.record_event().synchronize(),
    "the host for the device": lambda module, side: module.synchronize(),
}


@pytest.mark.parametrize("way", WAYS_TO_WAIT)
def test_values_are_there_after_waiting(device, module, side, way):
    x = ones_on(side, module, device)
    WAYS_TO_WAIT[way](module, side)
    assert (x * 1).tolist() == ONES


def test_values_are_not_there_without_waiting(device, module, side):
    x = ones_on(side, module, device)
    assert is_unwritten((x * 1).cpu())


def test_an_event_is_about_what_came_before_it(device, module, side):
    x = ones_on(side, module, device)
    event = side.record_event()
    y = ones_on(side, module, device)
    module.current_stream().wait_event(event)
    assert (x * 1).tolist() == ONES
    assert is_unwritten((y * 1).cpu())


def test_who_asks_gets_there(device, module, side):
    x = ones_on(side, module, device)
    while not side.query():
        pass
    assert (x * 1).tolist() == ONES


def test_time_between_events(module):
    start, end = (torch.Event(module.current_stream().device, enable_timing=True) for _ in range(2))
    start.record()
    module._sleep(1)
    end.record()
    end.synchronize()
    assert start.elapsed_time(end) >= 1


@pytest.mark.parametrize("waits", [True, False])
def test_copies_to_another_device_wait_for_both(device, module, waits):
    there = torch.device(device.type, 1)
    x = torch.ones(3, device=device)
    y = x.to(there)
    if waits:
        module.current_stream(device).wait_stream(module.current_stream(there))
    assert (y * 1).tolist() == ONES


def test_what_is_given_back_is_overwritten(device, module):
    module.synchronize()
    x = torch.ones(3, device=device)
    place = x.data_ptr()
    del x
    y = torch.empty(3, device=device)
    assert y.data_ptr() == place
    assert is_unwritten(y.cpu())


@pytest.mark.parametrize("recorded", [True, False])
def test_memory_that_another_stream_still_reads(device, module, side, recorded):
    x = torch.ones(3, device=device)
    side.wait_stream(module.current_stream())
    with module.stream(side):
        y = x * 1
    if recorded:
        x.record_stream(side)
    del x
    module.current_stream().synchronize()
    module.current_stream().wait_stream(side)
    assert is_unwritten(y.cpu()) is not recorded


def test_memory_is_counted(device, module):
    gc.collect()
    before = module.memory_allocated(device)
    kept = [torch.ones(1000, device=device) for _ in range(3)]
    assert module.memory_allocated(device) - before == 3 * 4096
    module.reset_peak_memory_stats(device)
    kept.append(torch.ones(1000, device=device))
    kept.clear()
    assert module.memory_allocated(device) == before
    assert module.max_memory_allocated(device) - before == 4 * 4096


@pytest.mark.parametrize("pinned", [True, False])
def test_copies_from_the_host(device, pinned):
    """One that doesn't block reads pinned memory when the stream gets there."""
    x = torch.zeros(3, pin_memory=pinned)
    y = x.to(device, non_blocking=True)
    x.fill_(1)
    assert y.tolist() == (ONES if pinned else [0.0] * 3)


@pytest.mark.parametrize("pinned", [True, False])
def test_copies_to_the_host(device, module, pinned):
    x = torch.zeros(3, pin_memory=pinned)
    x.copy_(torch.ones(3, device=device), non_blocking=True)
    assert x.tolist() == ([0.0] * 3 if pinned else ONES)
    module.synchronize()
    assert x.tolist() == ONES


def test_waiting_can_be_forbidden(device, module):
    x = torch.ones(3, device=device)
    module.set_sync_debug_mode("error")
    try:
        y = torch.where(x > 0, x * 2, x)
        with pytest.raises(RuntimeError, match="called a synchronizing standin operation"):
            y.sum().item()
    finally:
        module.set_sync_debug_mode("default")
    assert y.tolist() == [2.0] * 3


def test_random_numbers_depend_on_the_seed_and_the_order_of_calls(device, module):
    def draw():
        torch.manual_seed(3)
        return torch.cat([torch.randn(3, device=device), torch.rand(3, device=device), torch.randn(3, device=device)])

    state = module.get_rng_state()
    drawn = draw()
    assert torch.equal(drawn, draw())
    assert not torch.equal(drawn[:3], drawn[6:])
    module.set_rng_state(state)
    assert torch.equal(module.get_rng_state(), state)


def test_no_use_after_a_fork(device):
    torch.ones(3, device=device)
    child = os.fork()
    if child == 0:
        try:
            torch.ones(3, device=device)
        except RuntimeError as error:
            os._exit(7 if "forked subprocess" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_scenario_fails_if_a_wait_is_missing(device):
    runs = iter(range(2))

    def body(s):
        x = s.randn(3, requires_grad=True)
        side, around = s.device_module.Stream(), s.device_module.current_stream()
        side.wait_stream(around)
        with s.device_module.stream(side):
            y = make_square(s.Function).apply(x)
        if next(runs) == 0:
            around.wait_stream(side)
        s.record("output", y.detach() * 1)

    with pytest.raises(AssertionError, match=r"differs from stock torch(.|\n)*nan"):
        compare(body, STOCK, device)


def test_a_scenario_fails_if_memory_is_kept(device):
    kept = []

    def body(s):
        before = s.device_module.memory_allocated(s.device)
        y = make_square(s.Function).apply(s.randn(1000, requires_grad=True))
        y.sum().backward()
        if len(kept) < 1:
            kept.append(y.data)
        del y
        s.record("kept", s.device_module.memory_allocated(s.device) - before)

    with pytest.raises(AssertionError, match="kept: 4096"):
        compare(body, STOCK, device)
