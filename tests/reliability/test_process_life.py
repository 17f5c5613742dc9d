# SPDX-License-Identifier: BSD-3-Clause
"""Forks, exits, reloads, signals, deep graphs: each life in a process of its own. See :mod:`lives`."""

import signal

import pytest

ENDS_WELL = (
    "ends_with_live_graphs",
    "runs_backward_at_exit",
    "forks_after_use",
    "loads_data_in_forked_workers",
    "spawns",
    "reloads_modules",
    "imports_again",
    "loses_its_modules",
    "is_interrupted_in_forward_and_backward",
    "reaches_the_recursion_limit_in_backward",
    "re_enters_deeply",
    "drops_a_million_nodes",
    "clears_the_type_cache",
    "drops_hooks_after_a_subinterpreter",
    "backward_is_refused_after_a_subinterpreter",
)

LONG = (
    "runs_a_million_nodes",
    "collects_a_million_nodes_in_a_cycle",
    "drops_a_million_nodes_that_others_are_between",
)

# Where torch sees a GPU, its engine has threads for it from the first backward on, and refuses backward in a child.
FORKS = ("forks_after_use", "loads_data_in_forked_workers")

EXITS = {
    "leaves_in_a_hook": 7,
    "exits_in_a_hook": 8,
    "exits_in_a_hook_on_a_thread": 9,
    "aborts_in_forward_of_a_thread_while_another_runs": 6,
}


def live(python, name, lines=""):
    """(exit status, stdout, stderr) of the life ``name``."""
    process = python("-m", "lives", name, **({"CUDA_VISIBLE_DEVICES": ""} if name in FORKS else {}))
    return process.communicate(lines), process.returncode


@pytest.mark.parametrize("name", [*ENDS_WELL, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)])
def test_ends_well(python, name):
    assert live(python, name) == (("", ""), 0)


@pytest.mark.parametrize("name", EXITS)
def test_exits_as_told(python, name):
    assert live(python, name) == (("", ""), EXITS[name])


def test_is_interrupted_at_any_time(python):
    process = python("-m", "lives", "is_interrupted_at_any_time")
    for _ in range(100):
        process.stdin.write("again\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n", process.communicate()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n", process.communicate()
    assert process.communicate() == ("", "") and process.returncode == 0


def test_another_interpreter_is_refused(python):
    (output, errors), status = live(python, "is_imported_by_another_interpreter")
    assert (status, errors) == (0, "")
    assert "ImportError" in output and "works in the main interpreter only" in output
