# SPDX-License-Identifier: BSD-3-Clause
"""The ratios in instructions that are checked in, by torch and Python, and what has risen since."""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path(__file__).parents[1] / "instructions.json"
TOLERANCE = 0.02  # by how much a ratio may rise


def key_of(outcome):
    """Which ratios an outcome (what ``to_json`` returns) compares with: "torch 2.13, Python 3.11"."""
    torch, python = (".".join(outcome["machine"][name].split(".")[:2]) for name in ("torch", "python"))
    return f"torch {torch}, Python {python}"


def read(file=FILE):
    return json.loads(file.read_text()) if file.exists() else {}


def update(outcomes, file=FILE):
    """Write the ratios of what was counted; what wasn't stays."""
    ratios = read(file)
    for outcome in outcomes:
        ratios.setdefault(key_of(outcome), {}).update({name: round(ratio, 3) for name, ratio in checked(outcome)})
    file.write_text(json.dumps(ratios, indent=2, sort_keys=True) + "\n")


def checked(outcome):
    """The names and ratios of the rows that say something of torch_ext."""
    return [(row["name"], row["instructions"]["ratio"]) for row in outcome["rows"] if row["instructions"]["checked"]]


def risen(outcome, file=FILE):
    """The names of an outcome's rows whose ratio is too high."""
    before = read(file).get(key_of(outcome), {})
    return [name for name, ratio in checked(outcome) if name in before and ratio > before[name] + TOLERANCE]


def check(outcomes, file=FILE):
    """Return what is wrong, a line for each row whose ratio has risen or that is missing, and what can't be checked."""
    wrong, unknown = [], []
    for outcome in outcomes:
        key = key_of(outcome)
        before = read(file).get(key)
        if before is None:
            unknown.append(f"{key}: {file.name} has nothing to compare with; --update writes it")
            continue
        too_high = risen(outcome, file=file)
        for name, ratio in checked(outcome):
            if name not in before:
                wrong.append(f"{key}: {name} is not in {file.name}; --update writes it")
            elif name in too_high:
                wrong.append(f"{key}: {name} has risen from {before[name]:.3f} to {ratio:.3f}")
    return wrong, unknown
