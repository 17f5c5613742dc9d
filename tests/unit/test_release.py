# SPDX-License-Identifier: BSD-3-Clause
"""What a release has to have, and the workflow that would publish it."""

import importlib.metadata
import re

import pytest

import torch_ext
from tools import release
from torch_ext._build import config

WORKFLOW = (release.ROOT / ".github" / "workflows" / "release.yml").read_text()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "torch_ext").mkdir()

    def write(version, heading):
        (tmp_path / "torch_ext" / "__init__.py").write_text(f'"""Text."""\n\n__version__ = "{version}"\n')
        (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n\n## 0.0.9 (2020-01-01)\n")
        return tmp_path

    return write


@pytest.mark.parametrize("version, heading, tag, says", [
    ("0.1.0", "## 0.1.0 (unreleased)", None, None),
    ("0.1.0", "## 0.1.0 (2026-01-31)", "v0.1.0", None),
    ("10.20.30", "## 10.20.30 (2026-01-31)", "v10.20.30", None),
    ("0.1.0", "## 0.1.0 (unreleased)", "v0.1.0", "says (unreleased) for 0.1.0, in place of the day"),
    ("0.1.0", "## 0.1.0 (2026-01-31)", "v0.1.1", "The tag is v0.1.1, and the version is 0.1.0"),
    ("0.1.0", "## 0.1.0 (2026-01-31)", "0.1.0", "it takes v0.1.0"),
    ("0.2.0", "## 0.1.0 (2026-01-31)", None, "CHANGELOG.md is for 0.1.0, and the version is 0.2.0"),
    ("0.2.0", "", None, "CHANGELOG.md is for 0.0.9, and the version is 0.2.0"),
    ("0.1", "## 0.1 (2026-01-31)", None, "0.1 is no semantic version"),
    ("01.1.0", "## 01.1.0 (2026-01-31)", None, "01.1.0 is no semantic version"),
    ("0.1.0.dev1", "## 0.1.0.dev1 (unreleased)", None, "0.1.0.dev1 is no semantic version"),
])  # fmt: skip
def test_what_can_be_released(root, version, heading, tag, says):
    found = list(release.problems(tag, root(version, heading)))
    assert [says in problem for problem in found] == ([True] if says else [])


def test_this_version_is_the_only_one_stated(capsys):
    assert release.main() == 0 and capsys.readouterr().out == f"{torch_ext.__version__} can be released\n"
    assert release.version() == torch_ext.__version__
    stating = re.compile(r"\bversion *= *[\"']?\d", re.IGNORECASE)
    files = [release.ROOT / "pyproject.toml", release.ROOT / "setup.py"]
    assert [path.name for path in files if stating.search(path.read_text().replace("python_version", ""))] == []


def test_the_installed_metadata_has_it():
    assert importlib.metadata.version("torch_ext") == torch_ext.__version__


def test_the_workflow_makes_wheels_for_what_is_supported():
    """For each Python, and for the releases of torch that there are for it."""
    rows = dict(re.findall(r'python: "(3\.\d+)", torch: "(.+?)"', WORKFLOW))
    (_, oldest), (_, newest) = config.MINIMUM_PYTHON, config.NEWEST_PYTHON
    assert list(rows) == [f"3.{minor}" for minor in range(oldest, newest + 1)]
    minors = {python: [config.release_of(each) for each in torches.split()] for python, torches in rows.items()}
    assert {release for releases in minors.values() for release in releases} == set(config.SUPPORTED_TORCH)
    assert all(releases == sorted(set(releases), key=releases.index) for releases in minors.values())
    page = (release.ROOT / "docs" / "releasing.md").read_text()
    assert all(f"| {python} | {torches} |" in page for python, torches in rows.items())


def test_the_workflow_has_no_secret():
    assert "secrets." not in WORKFLOW and "password" not in WORKFLOW and "id-token: write" in WORKFLOW
