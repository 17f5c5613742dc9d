# SPDX-License-Identifier: BSD-3-Clause
"""Shows what was found."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .findings import Finding, is_well

Facts = dict[str, Any]


def to_json(facts: Facts, found: list[Finding]) -> str:
    """All facts and findings, for programs."""
    return json.dumps({"ok": is_well(found), "findings": [each._asdict() for each in found], **facts}, indent=2)


def show(facts: Facts, found: list[Finding], console: Console) -> None:
    """Writes the facts as a table, and below it what is wrong."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for title, lines in rows(facts):
        table.add_row(title, Text("\n".join(lines)))
    console.print(table)
    console.print()
    listed = Table.grid(padding=(0, 1))
    listed.add_column(no_wrap=True)
    listed.add_column(overflow="fold")
    for number, each in enumerate(found, 1):
        level = Text("Wrong: ", "red") if each.wrong else Text("Note: ", "yellow")
        listed.add_row(f"{number}.", level.append(f"{each.what}\n{each.remedy}", "default"))
    console.print(listed)
    if is_well(found):
        console.print(Text("Nothing is wrong.", "green"))


def rows(facts: Facts) -> list[tuple[str, list[str]]]:
    """The lines of each section."""
    return [
        ("torch_ext", _torch_ext(facts["torch_ext"])),
        ("extension", _extension(facts["extension"])),
        ("torch", _torch(facts["torch"])),
        ("GPU", _gpu(facts["torch"])),
        ("Python", [facts["python"]["version"], facts["python"]["executable"], facts["python"]["system"]]),
        ("compiler", _compiler(facts["compiler"])),
        ("cache", _cache(facts["cache"])),
        ("enable", [facts["enable"]["file"] or "no: torch-ext enable has not been run in this environment"]),
        ("variables", [f"{name}={value}" for name, value in facts["variables"].items()] or ["none"]),
    ]


def _torch_ext(found: Facts) -> list[str]:
    if found["folder"] is None:
        return ["not found"]
    kinds = {
        "wheel": "installed",
        "editable": "installed from a checkout (editable)",
        "checkout": "in a checkout, not installed",
        "folder": "in a folder, not installed",
    }
    return [f"{found['version']}, {kinds[found['kind']]}", found["folder"]]


def _extension(found: Facts) -> list[str]:
    stamp = found.get("stamp")
    if not stamp:
        return ["none that fits"]
    where = "compiled on import" if found["cached"] else "built ahead of time"
    return [
        f"{where}, for torch {stamp.get('torch')}, Python {stamp.get('python')}",
        f"headers of torch: {str(stamp.get('headers'))[:12]}",
        f"by {(stamp.get('compiler', {}).get('version') or '?').splitlines()[0]}",
        f"with {' '.join(stamp.get('flags', []))}",
        found["extension"],
        *_others(found),
    ]


def _others(found: Facts) -> list[str]:
    others = [str(each["torch"]) for each in found["beside"] if each["path"] != found["extension"]]
    return [f"beside it: for torch {', '.join(others)}"] if others else []


def _torch(found: Facts) -> list[str]:
    if found["folder"] is None:
        return ["not found"]
    return [found.get("version", "can't be imported"), found["folder"]]


def _gpu(found: Facts) -> list[str]:
    if found.get("gpus"):
        return [f"{number}: {name}" for number, name in enumerate(found["gpus"])]
    return ["none, and torch is built without CUDA" if not found.get("cuda") else "none that torch sees"]


def _compiler(found: Facts) -> list[str]:
    if not found:
        return ["not looked for"]
    ninja = "with ninja" if found["ninja"] else "without ninja"
    return [f"{found['title']}, {ninja}", found["command"]] if found["command"] else [f"none, {ninja}"]


def _cache(found: Facts) -> list[str]:
    if not found:
        return ["not looked for"]
    size = sum(each["bytes"] for each in found["builds"])
    count = len(found["builds"])
    return [found["folder"], f"{count} build{'' if count == 1 else 's'}, {size / 1e6:.1f} MB"]
