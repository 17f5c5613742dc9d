# SPDX-License-Identifier: BSD-3-Clause
"""What can't be run here is left out, and fixtures with a small checkout of torch_ext."""

import importlib.util
import shutil

import pytest
from harness.small_checkout import Checkout

# Of the extra "docs", which there is from Python 3.11 on.
collect_ignore = [] if importlib.util.find_spec("furo") else ["test_site.py"]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.fixture(scope="module")
def shared_checkout(tmp_path_factory):
    """A checkout for tests that change nothing in it."""
    return Checkout(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def path_without_ninja(tmp_path):
    """A PATH with a compiler and no ninja."""
    folder = tmp_path / "path"
    folder.mkdir()
    for program in ("c++", "g++", "as", "ld", "sh", "sleep"):
        if shutil.which(program):
            (folder / program).symlink_to(shutil.which(program))
    return str(folder)
