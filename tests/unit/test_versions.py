"""The releases that torch_ext supports are stated once for each part, and alike."""

import re
from pathlib import Path

from torch_ext import _build

REPOSITORY = Path(__file__).resolve().parents[2]
COMPAT = (REPOSITORY / "csrc" / "compat.h").read_text()


def test_supported_releases_have_no_gaps():
    minors = [int(release.removeprefix("2.")) for release in _build.SUPPORTED_TORCH]
    assert minors == list(range(minors[0], minors[-1] + 1))


def test_cpp_and_python_support_the_same_releases():
    first, last = _build.SUPPORTED_TORCH[0], _build.SUPPORTED_TORCH[-1]
    assert f"no entry for this torch; it knows {first} to {last}" in COMPAT
    bounds = re.search(r"MINOR < (\d+) \|\| \\\s+TORCH_VERSION_MINOR > (\d+)", COMPAT)
    assert [f"2.{minor}" for minor in bounds.groups()] == [first, last]
    assert f"needs Python {'.'.join(map(str, _build.MINIMUM_PYTHON))} or newer" in COMPAT


def test_only_compat_asks_for_a_version():
    asks = re.compile(r"TORCH_VERSION_(MAJOR|MINOR)|PY_(VERSION_HEX|MINOR_VERSION)")
    files = [path.name for path in (REPOSITORY / "csrc").rglob("*") if path.is_file() and asks.search(path.read_text())]
    assert files == ["compat.h"]
    asks = re.compile(r"TorchVersion|version_info")
    files = [path.name for path in (REPOSITORY / "torch_ext").glob("*.py") if asks.search(path.read_text())]
    assert set(files) <= {"_build.py", "_compat.py"}
