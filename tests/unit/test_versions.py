# SPDX-License-Identifier: BSD-3-Clause
"""Each part states the releases that torch_ext supports once, and all state the same."""

import re
from pathlib import Path

from torch_ext._build import config

REPOSITORY = Path(__file__).resolve().parents[2]
COMPAT = (REPOSITORY / "csrc" / "compat.h").read_text()


def test_supported_releases_have_no_gaps():
    minors = [int(release.removeprefix("2.")) for release in config.SUPPORTED_TORCH]
    assert minors == list(range(minors[0], minors[-1] + 1))


def test_cpp_and_python_support_the_same_releases():
    first, last = config.SUPPORTED_TORCH[0], config.SUPPORTED_TORCH[-1]
    assert f"no entry for this torch; it knows {first} to {last}" in COMPAT
    bounds = re.search(r"MINOR < (\d+) \|\| \\\s+TORCH_VERSION_MINOR > (\d+)", COMPAT)
    assert [f"2.{minor}" for minor in bounds.groups()] == [first, last]
    (_, oldest), (_, newest) = config.MINIMUM_PYTHON, config.NEWEST_PYTHON
    assert f"PY_VERSION_HEX < 0x03{oldest:02X}0000 || PY_VERSION_HEX >= 0x03{newest + 1:02X}0000" in COMPAT
    assert f'#error "torch_ext knows Python 3.{oldest} to 3.{newest}"' in COMPAT


def test_private_names_of_torch_are_in_one_place():
    private = re.compile(r"\btorch(\.\w+)*\._[a-z]|\bfrom torch[\w.]* import .*\b_[a-z]", re.IGNORECASE)
    package = REPOSITORY / "torch_ext"
    files = [str(path.relative_to(package)) for path in package.rglob("*.py") if private.search(path.read_text())]
    assert files == ["_compat.py"]


def test_only_compat_asks_for_a_version():
    asks = re.compile(r"TORCH_VERSION_(MAJOR|MINOR)|PY_(VERSION_HEX|MINOR_VERSION)")
    files = [path.name for path in (REPOSITORY / "csrc").rglob("*") if path.is_file() and asks.search(path.read_text())]
    assert files == ["compat.h"]
    asks = re.compile(r"TorchVersion|version_info")
    package = REPOSITORY / "torch_ext"
    files = {str(path.relative_to(package)) for path in package.rglob("*.py") if asks.search(path.read_text())}
    assert files <= {"_build/config.py", "_compat.py"}
