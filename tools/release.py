# SPDX-License-Identifier: BSD-3-Clause
"""Checks that the version can be released: python -m tools.release [TAG]

The version is stated once, in torch_ext/__init__.py. It has to be a semantic one, and the newest part of CHANGELOG.md
has to be about it. With a tag, that has to be v and the version, and the part has to name the day.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: What semver.org allows, as far as Python's packaging reads it the same way.
SEMANTIC = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


def version(root=ROOT):
    """The version of torch_ext, without importing it."""
    for node in ast.parse((root / "torch_ext" / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return ast.literal_eval(node.value)
    raise ValueError("torch_ext/__init__.py states no __version__")


def heading(root=ROOT):
    """The version and the day of the newest part of CHANGELOG.md."""
    found = re.search(r"^## (\S+) \((.+)\)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    return found.groups() if found else (None, None)


def problems(tag, root=ROOT):
    """What keeps the version from being released as ``tag``, a sentence each."""
    stated = version(root)
    newest, day = heading(root)
    if not SEMANTIC.fullmatch(stated):
        yield f"{stated} is no semantic version: it takes three numbers, as in 1.2.3."
    if newest != stated:
        yield f"The newest part of CHANGELOG.md is for {newest}, and the version is {stated}."
    elif tag and not re.fullmatch(r"\d{4}-\d\d-\d\d", day):
        yield f"CHANGELOG.md says ({day}) for {stated}, in place of the day of the release: (2026-01-31)."
    if tag and tag != f"v{stated}":
        yield f"The tag is {tag}, and the version is {stated}: it takes v{stated}."


def main(tag=None):
    found = list(problems(tag))
    print("\n".join(found) or f"{version()} can be released")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
