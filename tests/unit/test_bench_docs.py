# SPDX-License-Identifier: BSD-3-Clause
"""`make bench-docs`: what it runs, which places of the pages it fills, and its pictures; and the time of an import."""

import json
import subprocess
import xml.etree.ElementTree
from pathlib import Path

import pytest

from tools.bench import docs, import_time
from tools.bench.growth import judge
from tools.bench.rows import ROWS

ROOT = Path(__file__).parents[2]


def outcomes():
    """What the benchmarks print, in small."""
    about = {"date": "2030-01-31", "cores": 4}
    machine = {"cpu": "A CPU", "torch": "2.13.0", "python": "3.11.7", "threads": 1}
    rows = [
        {"name": row.name, "title": row.title, "reference": 4.0 + n, "ours": 2.0, "ratio": 0.5, "goal": None}
        for n, row in enumerate(ROWS)
    ]
    rows[0].update(goal=0.3, reference=1234.5)
    rows[0]["instructions"] = {"reference": 37376.0, "ours": 10202, "ratio": 0.27296, "goal": 0.26}
    only_counted = {
        "name": "slow",
        "title": "takes too long",
        "instructions": {**rows[0]["instructions"], "goal": None},
    }
    chains = [
        {"size": n, "reference": 8.0, "ours": 4.0, "ratio": 0.5, "memory": {"reference": 1100.4, "ours": 1050.0}}
        for n in (10, 100, 1_000_000)
    ]
    arguments = [{"size": n, "reference": 4 + 0.4 * n, "ours": 1 + 0.2 * n, "ratio": 0.4} for n in (1, 64)]
    program = {"title": "a program", "reference": 5000.0, "ours": 2500.0, "ratio": 0.5, "calls": 12.0, "share": 0.25}
    return {
        "calls": {
            **about,
            "machine": machine,
            "settings": {"rounds": 200},
            "anomaly_memory": {
                "shallow": {"torch": 1900, "torch_ext": 600},
                "deep": {"torch": 14000, "torch_ext": 1500},
            },
            "rows": [*rows, only_counted],
            "against": [{"machine": {"torch": "2.15.0"}, "rows": rows[:1]}],
        },
        "import_time": {**about, "ms": 6.789, "quartiles": [6.5, 7.0], "runs": 21, "goal": 8.0},
        "growth": {
            **about,
            "machine": machine,
            "chains": chains,
            "arguments": arguments,
            "growth": judge(chains, arguments, "2.13.0"),
        },
        "end_to_end": {**about, "machine": machine, "programs": [program]},
    }


def test_the_pages_have_one_place_for_each_text():
    places = [match[2] for page in docs.PAGES for match in docs._PLACE.finditer((ROOT / page).read_text())]
    assert sorted(places) == sorted(docs.TEXTS)
    for page in docs.PAGES:
        text = (ROOT / page).read_text()
        assert text.count("<!-- bench:") == text.count("<!-- /bench -->") == len(docs._PLACE.findall(text))


def test_the_rows_of_the_readme_exist():
    assert set(docs.OVERHEADS) | {"anomaly", "torch"} <= {row.name for row in ROWS}


def test_what_is_between_the_marks_is_replaced():
    page = "before\n<!-- bench:import_time -->\nold\n\nolder\n<!-- /bench -->\nafter <!-- a comment -->\n"
    filled = docs.fill(page, outcomes())
    assert filled == (
        "before\n<!-- bench:import_time -->\n"
        "`import torch_ext` took 6.8 ms of CPU time after `import torch` "
        "(quartiles 6.5 to 7.0, 21 processes; the goal is 8).\n"
        "<!-- /bench -->\nafter <!-- a comment -->\n"
    )
    assert docs.fill(filled, outcomes()) == filled


def test_a_place_for_something_else_is_an_error():
    with pytest.raises(KeyError, match="typo"):
        docs.fill("<!-- bench:typo -->\n<!-- /bench -->\n", outcomes())


def test_what_was_not_measured_stays():
    page = "<!-- bench:instructions -->\nold\n<!-- /bench -->\n"
    found = outcomes()
    found["calls"]["rows"] = found["calls"]["rows"][1:2]
    found["calls"]["against"] = []
    assert docs.fill(page, found) == page


@pytest.mark.parametrize(
    "name, lines",
    [
        (
            "overheads",
            [
                "Microseconds, on one machine (4 cores of A CPU, torch 2.13.0, Python 3.11.7, one thread), 2030-01-31:",
                "| overhead: the input returned as is | 1,234 | 2.00 | 0.50 |",
            ],
        ),
        ("all_rows", ["| overhead: x, the input returned as is | `identity` | 1,234 | 2.00 | 0.50 | 0.30 |"]),
        (
            "anomaly_memory",
            ["a node takes 600 bytes more than without, and 1,900 in torch's; 60 frames deeper, 1,500 and 14,000"],
        ),
        ("growth", ["| 1,000,000 | 8.00 | 4.00 | 0.50 | 1,100 | 1,050 |"]),
        ("end_to_end", ["| a program | 5.00 | 2.50 | 0.50 | 12 | 25% |"]),
    ],
)
def test_a_text_has_the_figures(name, lines):
    text = docs.TEXTS[name](outcomes())
    for line in lines:
        assert line in " ".join(text.split())
    assert text.endswith("\n") and not text.endswith("\n\n")


def test_pages_and_pictures_are_redrawn(tmp_path):
    (tmp_path / "docs").mkdir()
    for page in docs.PAGES:
        (tmp_path / page).write_text((ROOT / page).read_text())
    docs.redraw(tmp_path, outcomes())
    assert "2030-01-31" in (tmp_path / "README.md").read_text()
    assert "2030-01-31" in (tmp_path / "docs/performance.md").read_text()
    pictures = sorted(tmp_path.glob("docs/*.svg"))
    assert [path.name for path in pictures] == ["bench.svg", "growth_arguments.svg", "growth_chains.svg"]
    before = {path: path.read_bytes() for path in pictures}
    for path in pictures:
        # Behind all of it, since pages may be dark.
        whole = next(each for each in xml.etree.ElementTree.fromstring(before[path]).iter() if each.get("d"))
        assert whole.get("style") == "fill: #ffffff"
        assert path.name in (ROOT / "README.md").read_text() + (ROOT / "docs/performance.md").read_text()
        assert (ROOT / "docs" / path.name).is_file()
    docs.redraw(tmp_path, outcomes())
    assert {path: path.read_bytes() for path in pictures} == before


@pytest.fixture
def commands(monkeypatch):
    """The commands that are run in the place of benchmarks."""
    commands = []

    def run(command, **options):
        commands.append(command[1:])
        return subprocess.CompletedProcess(command, 0, stdout='{"figure": 1}')

    monkeypatch.setattr(docs.subprocess, "run", run)
    return commands


def test_one_command_measures_everything(commands, tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(docs, "redraw", lambda *arguments: drawn.append(arguments))
    options = ["--data", str(tmp_path / "data"), "--root", str(tmp_path)]
    assert docs.main(["--quick", *options]) == 0
    modules = ["tools.bench", "tools.bench.import_time", "tools.bench.growth", "tools.bench.end_to_end"]
    assert commands == [["-m", module, "--json", "--quick"] for module in modules]
    ((root, found),) = drawn
    assert root == tmp_path and list(found) == list(docs.MODULES)
    assert all(outcome["figure"] == 1 and "date" in outcome for outcome in found.values())
    assert "python -m tools.bench.growth --json --quick" in capsys.readouterr().err

    assert docs.main(["--redraw", *options]) == 0
    assert len(commands) == 4 and drawn[1] == drawn[0]

    assert docs.main(["--against", "python3.14", *options]) == 0
    assert commands[4] == ["-m", "tools.bench", "--json", "--instructions", "--against", "python3.14"]
    assert commands[5:] == [["-m", module, "--json"] for module in modules[1:]]


def test_make_has_the_command():
    done = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "--dry-run",
            "--always-make",
            "bench-docs",
            "ARGS=--redraw",
            "PYTHON=python",
            "VENV=v",
        ],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "v/bin/python -m tools.bench.docs --redraw"


# --- The time of an import ------------------------------------------------------------------------


def test_an_import_is_timed_in_a_process_of_its_own():
    assert import_time.milliseconds() > 0


@pytest.mark.parametrize("slow, status", [(7.9, 0), (8.1, 1)])
def test_the_first_import_does_not_count(slow, status, monkeypatch, capsys):
    times = iter([1000.0, slow, slow, slow, slow])
    monkeypatch.setattr(import_time, "milliseconds", lambda: next(times))
    assert import_time.main(["--runs", "4", "--json", "--check"]) == status
    outcome = json.loads(capsys.readouterr().out)
    assert outcome == {"ms": slow, "quartiles": [slow, slow], "runs": 4, "goal": 8.0, "met": status == 0}


def test_an_import_as_a_line(monkeypatch, capsys):
    monkeypatch.setattr(import_time, "milliseconds", lambda: 6.54)
    assert import_time.main(["--quick"]) == 0
    printed = "import torch_ext: 6.5 ms of CPU time, quartiles 6.5-6.5, goal 8\n"
    assert capsys.readouterr().out == printed


def test_one_run_is_too_few(capsys):
    with pytest.raises(SystemExit):
        import_time.main(["--runs", "1"])
    assert "at least 2 runs" in capsys.readouterr().err
