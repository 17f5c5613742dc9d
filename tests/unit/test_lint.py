# SPDX-License-Identifier: BSD-3-Clause
"""What ``make lint`` prints and returns. The tests don't need the programs that check."""

import re

import pytest

from tools import lint


@pytest.fixture
def parts(monkeypatch):
    """Three parts, of which the second has found something; the names of those that ran."""
    ran = []

    def part(name, output, status):
        def run():
            ran.append(name)
            return output, status

        return run

    parts = {"first": part("first", "all good", 0), "second": part("second", "a.py:1: bad\n", 1)}
    monkeypatch.setattr(lint, "PARTS", {**parts, "third": part("third", "", 0)})
    return ran


def test_all_parts_run_and_those_that_fail_say_what_they_found(parts, capsys):
    assert lint.main([]) == 1
    assert parts == ["first", "second", "third"]
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r" +", " ", line) for line in lines] == [
        "first ok 0 s",
        "second failed 0 s",
        "a.py:1: bad",
        "third ok 0 s",
    ]


def test_parts_can_be_chosen(parts, capsys):
    assert lint.main(["third", "first"]) == 0
    assert parts == ["third", "first"]


def test_a_part_that_does_not_exist(parts, capsys):
    assert lint.main(["first", "fourth"]) == 2
    assert parts == []
    assert capsys.readouterr().err == "no such part: fourth; there are first, second, third\n"


def test_a_program_fails_with_what_it_wrote():
    output, status = lint.module("json.tool", "no-such-file")()
    assert status != 0 and "no-such-file" in output
