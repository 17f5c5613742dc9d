# SPDX-License-Identifier: BSD-3-Clause
"""The dicts that nodes have as their metadata are used again, and nobody can tell."""

import gc
import os
import threading
import weakref

import pytest
import torch
from harness.levels import FREE_THREADED
from torch.fx import traceback as fx_traceback

import torch_ext


class Thing:
    pass


def node():
    return torch.ones(1, requires_grad=True).exp().grad_fn


def leave_alone(metadata):
    return None


def read(metadata):
    return metadata["traceback_"][-1]


def keep(metadata):
    return metadata


def keep_traceback(metadata):
    return metadata["traceback_"]


def add(metadata):
    metadata["mine"] = Thing()
    return weakref.ref(metadata["mine"])


def replace(metadata):
    metadata["traceback_"] = Thing()
    return weakref.ref(metadata["traceback_"])


def replace_and_keep(metadata):
    kept = metadata["traceback_"]
    metadata["traceback_"] = Thing()
    return kept, weakref.ref(metadata["traceback_"])


def replace_key(metadata):
    metadata["mine"] = metadata.pop("traceback_")


def add_and_remove(metadata):
    metadata["mine"] = Thing()
    return weakref.ref(metadata.pop("mine"))


def clear(metadata):
    metadata.clear()


def append(metadata):
    metadata["traceback_"].append(Thing())
    return weakref.ref(metadata["traceback_"][-1])


def empty(metadata):
    metadata["traceback_"].clear()


def cycle(metadata):
    metadata["mine"] = metadata


TOUCHES = (
    leave_alone,
    read,
    keep,
    keep_traceback,
    add,
    replace,
    replace_and_keep,
    replace_key,
    add_and_remove,
    clear,
    append,
    empty,
    cycle,
)


def touched(touch):
    """What ``touch`` returns for nodes that are gone then."""
    return [touch(node().metadata) for _ in range(100)]


@pytest.fixture(autouse=True)
def anomaly_mode():
    with torch_ext.anomaly.set_detect_anomaly(True):
        yield


@pytest.mark.parametrize("touch", TOUCHES)
def test_a_new_node_has_its_own_stack_alone(touch):
    kept = touched(touch)
    nodes = [node() for _ in range(300)]
    for each in nodes:
        assert list(each.metadata) == ["traceback_"]
        assert "in node" in each.metadata["traceback_"][-1]
    assert len({id(each.metadata) for each in nodes}) == len(nodes)
    assert len({id(each.metadata["traceback_"]) for each in nodes}) == len(nodes)
    del kept


@pytest.mark.parametrize("touch", [keep, keep_traceback])
def test_what_is_kept_stays_as_it_is(touch):
    kept = touched(touch)
    copies = [list(each["traceback_"] if touch is keep else each) for each in kept[:50]]
    several = [node() for _ in range(300)]
    for each, copy in zip(kept, copies, strict=False):
        assert (each["traceback_"] if touch is keep else each) == copy
    # Read only now, after others were made and are gone.
    del several
    for each in kept:
        lines = each["traceback_"] if touch is keep else each
        assert "in node" in lines[-1]
        assert "in touched" in lines[-2] or "<listcomp>" in lines[-2]


@pytest.mark.parametrize("touch", [add, replace, add_and_remove, append])
def test_what_was_put_into_it_dies_with_the_node(touch):
    one = node()
    held = touch(one.metadata)
    assert (held() is None) is (touch is add_and_remove)
    del one
    assert held() is None


def test_what_the_collector_shows_is_not_used_again():
    touched(leave_alone)
    node()  # makes ready what was given back
    one_entry = [each for each in gc.get_objects() if type(each) is dict and len(each) == 1]
    # Compared by type first: what other tests left may raise in a comparison.
    found = [each for each in one_entry for key in each if type(key) is str and key == "traceback_"]
    assert found or FREE_THREADED  # where none is made ready
    for each in found:
        each["traceback_"].append("seen")
    held = {id(each) for each in found}
    nodes = [node() for _ in range(300)]
    assert not held & {id(each.metadata) for each in nodes}
    assert all("seen" not in each.metadata["traceback_"] for each in nodes)


def test_a_preserved_stack_comes_first():
    with fx_traceback.preserve_node_meta():
        fx_traceback.set_stack_trace(["the one of the graph"])
        kept = node()
        assert kept.metadata["traceback_"] == ["the one of the graph"]
    del kept
    assert "in node" in node().metadata["traceback_"][-1]


def test_on_several_threads():
    wrong = []

    def work(name):
        namespace = {"torch": torch}
        exec(f"def {name}():\n    return torch.ones(1, requires_grad=True).exp().grad_fn\n", namespace)
        for _ in range(30):
            nodes = [namespace[name]() for _ in range(20)]
            wrong.extend(each for each in nodes if f"in {name}" not in each.metadata["traceback_"][-1])

    threads = [threading.Thread(target=work, args=(f"made_by_{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_in_a_forked_process():
    kept = [node() for _ in range(10)]
    child = os.fork()
    if child == 0:
        kept.clear()
        os._exit(0 if "in node" in node().metadata["traceback_"][-1] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all("in node" in each.metadata["traceback_"][-1] for each in kept)


@pytest.mark.parametrize("thread", [False, True])
def test_codes_are_let_go_with_the_node(thread):
    def make(number):
        namespace = {"torch": torch}
        exec(f"def f{number}():\n    return torch.ones(1, requires_grad=True).exp()\n", namespace)
        namespace[f"f{number}"]()
        refs.append(weakref.ref(namespace[f"f{number}"].__code__))

    refs = []
    for number in range(300):
        if thread:
            other = threading.Thread(target=make, args=(number,))
            other.start()
            other.join()
        else:
            make(number)
    gc.collect()  # a function is in a cycle with its globals
    assert sum(ref() is not None for ref in refs) == 0
