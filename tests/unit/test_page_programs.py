# SPDX-License-Identifier: BSD-3-Clause
"""docs/*.md: the programs of these pages run as they stand, and print what the page says."""

from pathlib import Path

import pytest
from harness.page_programs import printed_by, programs_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
LEAST = {"quickstart": 3, "hooks": 5, "tracer": 2, "faq": 25}
CASES = [
    (page, number, program, shown)
    for page in LEAST
    for number, (program, shown) in enumerate(programs_of((DOCS / f"{page}.md").read_text()))
]


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    return printed_by([program for _, _, program, _ in CASES], tmp_path_factory.mktemp("programs"))


@pytest.mark.parametrize("page", LEAST)
def test_there_are_programs(page):
    assert sum(case[0] == page for case in CASES) >= LEAST[page]


def test_each_question_has_one():
    text = (DOCS / "faq.md").read_text()
    assert [part.split("\n")[0] for part in text.split("\n### ")[1:] if len(programs_of(part)) != 1] == []


@pytest.mark.parametrize("index", range(len(CASES)), ids=[f"{page}-{number}" for page, number, *_ in CASES])
def test_the_page_shows_what_is_printed(index, printed):
    *_, shown = CASES[index]
    assert printed[index].rstrip() == shown.rstrip()
