# SPDX-License-Identifier: BSD-3-Clause
"""Which extension fits which torch: a table of what can differ between the torch compiled against and the installed."""

import json
import os
import shutil
import stat
import struct
import sysconfig

import pytest

from torch_ext._build import compiler, stamp

VERSION_H = """#define TORCH_VERSION_MAJOR 2
#define TORCH_VERSION_MINOR 13
#define TORCH_VERSION_PATCH {patch}
#define TORCH_VERSION \\
  "2.13.{patch}"
"""
# A file that is as long as its header says.
WHOLE = b"\x7fELF\x02\x01".ljust(40, b"\0") + struct.pack("<Q", 64) + bytes(10) + struct.pack("<HH", 64, 1) + bytes(66)


class Case:
    """An extension, the torch that it was compiled against, and the torch that is installed."""

    def __init__(self, folder):
        self.cache = folder / "cache"
        self.torch = stamp.Torch("2.13.0+cpu", "a1b2", folder / "torch", "1")
        self.extension = folder / "_C.so"
        self.extension.write_bytes(WHOLE)
        self.header("torch/headeronly/version.h", VERSION_H.format(patch=0))
        self.header("ATen/Tensor.h", "class Tensor;")
        self.header("ATen/unused.h", "class Unused;")
        (self.torch.folder / "version.py").write_text("2.13.0+cpu")
        names = ["ATen/Tensor.h", "torch/headeronly/version.h"]
        stamp.headers_path(self.extension).write_text("".join(f"{name}\n" for name in names))
        self.stamp = {
            "torch": self.torch.version,
            "git": self.torch.git,
            "identity": self.torch.identity(),
            "headers": stamp.digest_of(names, self.torch.include),
            "macros": {"_GLIBCXX_USE_CXX11_ABI": "1"},
            "python": sysconfig.get_config_var("SOABI"),
        }

    def header(self, name, text):
        path = self.torch.include / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def installs(self, version, git="c3d4"):
        """Installs another torch in the same place."""
        self.torch = self.torch._replace(version=version, git=git)
        (self.torch.folder / "version.py").write_text(version)
        os.utime(self.torch.folder / "version.py", ns=(1, 1))

    def misfit(self):
        stamp.stamp_path(self.extension).write_text(json.dumps(self.stamp))
        return stamp.misfit(self.extension, self.torch)


@pytest.fixture
def case(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXT_CACHE", str(tmp_path / "cache"))
    return Case(tmp_path)


def nothing(case):
    pass


def another_build_of_the_release(case):
    case.installs("2.13.0+cu130")


def a_patch_release(case):
    case.installs("2.13.1")
    case.header("torch/headeronly/version.h", VERSION_H.format(patch=1))


def a_header_that_is_not_included(case):
    case.installs("2.13.1")
    case.header("ATen/unused.h", "class Other;")


def moved(case):
    shutil.copytree(case.torch.folder, case.cache.parent / "moved")
    case.torch = case.torch._replace(folder=case.cache.parent / "moved")


def without_headers(case):
    shutil.rmtree(case.torch.include)


def without_a_list_but_the_very_torch(case):
    stamp.headers_path(case.extension).unlink()


@pytest.mark.parametrize(
    "change",
    [
        nothing,
        another_build_of_the_release,
        a_patch_release,
        a_header_that_is_not_included,
        moved,
        without_headers,
        without_a_list_but_the_very_torch,
    ],
)
def test_fits(case, change):
    change(case)
    assert case.misfit() is None


def another_release(case):
    case.installs("2.14.0")
    case.header("torch/headeronly/version.h", VERSION_H.replace("13", "14").format(patch=0))


def the_same_version_of_other_sources(case):
    case.installs("2.13.0+cpu")
    case.header("ATen/Tensor.h", "class Tensor { int more; };")


def compiled_again_from_the_same_revision(case):
    case.installs("2.13.0+cpu", git="a1b2")
    case.header("ATen/Tensor.h", "class Tensor { int less; };")


def a_header_is_gone(case):
    case.installs("2.13.1")
    (case.torch.include / "ATen/Tensor.h").unlink()


def another_without_headers(case):
    case.installs("2.13.0+cpu", git="of another day")
    shutil.rmtree(case.torch.include)


def another_abi(case):
    case.torch = case.torch._replace(cxx11_abi="0")


def another_python(case):
    case.stamp["python"] = "cpython-39-somewhere"


def truncated(case):
    case.extension.write_bytes(WHOLE[:-10])


def empty(case):
    case.extension.write_bytes(b"")


def no_extension_at_all(case):
    case.extension.write_text("#!/bin/sh\n" * 20)


def without_a_stamp(case):
    case.stamp = {}


def with_a_stamp_of_an_older_torch_ext(case):
    case.stamp = {"torch": "2.13.0+cpu", "sources": "0123"}


def without_a_list(case):
    case.installs("2.13.1")
    stamp.headers_path(case.extension).unlink()


@pytest.mark.parametrize(
    "change, says",
    [
        (another_release, "built for torch 2.13.0+cpu, and torch 2.14.0 is installed"),
        (the_same_version_of_other_sources, "built for another torch 2.13.0+cpu than the one in "),
        (compiled_again_from_the_same_revision, "built for another torch 2.13.0+cpu than the one in "),
        (a_header_is_gone, "built for torch 2.13.0+cpu, and torch 2.13.1 is installed"),
        (another_without_headers, "built for another torch 2.13.0+cpu than the one in "),
        (another_abi, "built with _GLIBCXX_USE_CXX11_ABI=1, and torch 2.13.0+cpu with 0"),
        (another_python, "built for Python cpython-39-somewhere, and this is "),
        (truncated, "is damaged: the file ends too early"),
        (empty, "is damaged: the file ends too early"),
        (no_extension_at_all, "is damaged: the file ends too early"),
        (without_a_stamp, "built for torch of an unknown version, and torch 2.13.0+cpu is installed"),
        (with_a_stamp_of_an_older_torch_ext, "built for another torch 2.13.0+cpu"),
        (without_a_list, "built for torch 2.13.0+cpu, and torch 2.13.1 is installed"),
    ],
)
def test_does_not_fit(case, change, says):
    change(case)
    reason = case.misfit()
    assert says in reason and str(case.extension) in reason


@pytest.mark.parametrize("text", ["", "{", "[1]", "\0"])
def test_a_stamp_that_cannot_be_read_is_none(case, text):
    stamp.stamp_path(case.extension).write_text(text)
    assert stamp.read_stamp(case.extension) == {}


# What is remembered


@pytest.mark.parametrize("change, answer", [(a_patch_release, "yes\n"), (another_release, "no\n")])
def test_headers_are_read_once_for_each_torch(case, change, answer, monkeypatch):
    change(case)
    first = case.misfit()
    (known,) = case.cache.iterdir()
    assert known.read_text() == answer and stat.S_IMODE(known.stat().st_mode) == 0o600
    assert stat.S_IMODE(case.cache.stat().st_mode) == 0o700
    monkeypatch.setattr(stamp, "digest_of", None)
    assert case.misfit() == first


def test_an_upgrade_in_place_is_noticed(case):
    a_patch_release(case)
    assert case.misfit() is None
    another_release(case)
    assert case.misfit() is not None


def test_nothing_is_remembered_of_the_very_torch(case):
    assert case.misfit() is None and not case.cache.exists()


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_others_could_have_written_is_not_believed(case, what):
    another_release(case)
    case.misfit()
    (known,) = case.cache.iterdir()
    known.write_text("yes\n")
    assert case.misfit() is None
    (case.cache if what == "folder" else known).chmod(0o777)
    assert case.misfit() is not None


def test_a_cache_that_cannot_be_written_is_done_without(case):
    case.cache.write_text("a file where the folder should be")
    a_patch_release(case)
    assert case.misfit() is None


# What the compiler reads


def test_headers_of_torch_are_found_by_the_compiler(tmp_path, monkeypatch):
    """Those that are included, through others as well, in any spelling; not those of others."""
    include, csrc = tmp_path / "with space" / "include", tmp_path / "csrc"
    for path, text in {
        include / "a.h": '#pragma once\n#include "deep/b.h"\n',
        include / "deep/b.h": "#include <deep/../deep/c.h>\n",
        include / "deep/c.h": "#pragma once\n",
        include / "unused.h": "",
        csrc / "own.h": "#include <a.h>\n",
        csrc / "one.cpp": "#include <own.h>\n#include <string>\n",
        csrc / "more/two.cpp": "#include <vector>\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(compiler.config, "system_headers", lambda: [f"-isystem{include}"])
    reading = compiler.read(compiler.find_compiler(), csrc, include)
    assert reading.headers == ["a.h", "deep/b.h", "deep/c.h"]
    assert reading.macros["_GLIBCXX_USE_CXX11_ABI"] == "1"


def test_sources_that_cannot_be_read(tmp_path):
    (tmp_path / "one.cpp").write_text("#include <missing.h>\n")
    with pytest.raises(ImportError, match=r"cannot read the sources of torch_ext:\n(.*\n)*.*missing\.h"):
        compiler.read(compiler.find_compiler(), tmp_path, tmp_path)


# Which compiler


def program(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\necho $0 $*\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("name", ["c++", "g++", "clang++"])
def test_a_compiler_on_path(tmp_path, monkeypatch, name):
    path = program(tmp_path / "bin" / name)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CXX", raising=False)
    assert compiler.find_compiler() == (path, f"{path} --version\n")


def test_a_compiler_of_a_conda_environment_that_is_not_activated(tmp_path, monkeypatch):
    path = program(tmp_path / "bin" / "x86_64-conda-linux-gnu-c++")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    assert compiler.find_compiler() is None
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path))
    assert compiler.find_compiler().command == path
    monkeypatch.delenv("CONDA_PREFIX")
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert compiler.find_compiler().command == path


def test_a_compiler_with_arguments(tmp_path, monkeypatch):
    path = program(tmp_path / "bin" / "ccache")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CXX", "ccache g++ -pipe")
    assert compiler.find_compiler() == (f"{path} g++ -pipe", f"{path} g++ -pipe --version\n")
