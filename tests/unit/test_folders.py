# SPDX-License-Identifier: BSD-3-Clause
"""The arrows between the folders of csrc, which docs/architecture.svg draws: no include goes against one."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"

# What each folder may include, besides itself; none of them in a circle.
ARROWS = {
    "module.cpp": {"function/forward", "function/ctx", "function/torch_own", "hooks", "anomaly", "notes", "tracer"},
    "function/forward": {
        "function/backward",
        "function/ctx",
        "function/torch_own",
        "function/type_cache",
        "notes",
        "tracer",
    },
    "function/backward": {"function/ctx", "function/torch_own", "function/type_cache", "notes"},
    "function/ctx": {"hooks"},
    "function/torch_own": set(),
    "function/type_cache": set(),
    "hooks": set(),
    "anomaly": {"notes"},
    "notes": set(),
    "tracer": set(),
    "compat.h": {"python"},
    "python": set(),
    "cpp": set(),
}
FOR_ALL = {"compat.h", "cpp", "python"}


def folder_of(name):
    """The name in ARROWS that the file ``name``, a path in csrc, belongs to."""
    (folder,) = [folder for folder in ARROWS if name.startswith((f"{folder}/", f"{folder}.")) or name == folder]
    return folder


@pytest.mark.parametrize("folder", ARROWS)
def test_includes_follow_the_arrows(folder):
    allowed = ARROWS[folder] | {folder} | (set() if folder in FOR_ALL else FOR_ALL)
    included = set()
    for path in CSRC.rglob("*.*"):
        if folder_of(path.relative_to(CSRC).as_posix()) == folder:
            own = [name for name in re.findall(r"#include <(.+?)>", path.read_text()) if (CSRC / name).exists()]
            included |= {folder_of(name) for name in own}
    assert included <= allowed
    assert included >= ARROWS[folder] - {"module.cpp"}, "an arrow that nobody needs"


def test_every_file_has_a_folder():
    names = [path.relative_to(CSRC).as_posix() for path in CSRC.rglob("*.*")]
    assert {folder_of(name) for name in names} == set(ARROWS)
