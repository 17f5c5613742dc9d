# SPDX-License-Identifier: BSD-3-Clause
"""torch-ext doctor on installations that are broken in one way each: what it finds, and which remedy it names."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from harness.small_checkout import REPOSITORY, Checkout
from rich.console import Console

from torch_ext._build.compiler import no_compiler
from torch_ext_cli.doctor.findings import findings
from torch_ext_cli.doctor.report import show

COMMAND = "import sys; sys.argv = ['torch-ext', *sys.argv[1:]]; from torch_ext_cli import main; main()"
FAKE_TORCH = """
class version: git_version = None; cuda = None
class cuda: is_available = staticmethod(lambda: False)
__version__ = "1.13.1"
def compiled_with_cxx11_abi(): return True
"""
NOT_LENT = re.compile(r"torch.*|functorch|.*\.pth|__editable__.*|__pycache__", re.IGNORECASE)


def link_all(folder, paths):
    folder.mkdir()
    for path in paths:
        (folder / path.name).symlink_to(path)
    return folder


# What docs/commands.md shows: torch has been upgraded where no compiler is.
HOME = "/home/me/env"
SITE = f"{HOME}/lib/python3.12/site-packages"
FACTS = {
    "python": {
        "version": "3.12.1",
        "executable": f"{HOME}/bin/python",
        "abi": "cpython-312-x86_64-linux-gnu",
        "system": "Linux x86_64, glibc 2.36",
    },
    "torch_ext": {
        "folder": f"{SITE}/torch_ext",
        "version": "0.1.0",
        "kind": "wheel",
        "sources": f"{SITE}/torch_ext/_csrc",
        "here": None,
        "installed": {"version": "0.1.0", "editable": False, "folder": f"{SITE}/torch_ext"},
    },
    "torch": {
        "folder": f"{SITE}/torch",
        "others": [],
        "version": "2.14.1+cu130",
        "git": "0123",
        "cuda": "13.0",
        "gpus": [],
    },
    "compiler": {
        "command": None,
        "title": None,
        "ninja": True,
        "error": no_compiler(),
    },
    "cache": {"folder": "/home/me/.cache/torch_ext", "error": None, "writable": True, "builds": [], "unfinished": []},
    "enable": {"file": None, "says": None},
    "variables": {},
    "extension": {
        "has_headers": True,
        "cached": False,
        "extension": None,
        "stamp": {},
        "unlinked": None,
        "loaded": False,
        "beside": [
            {
                "path": f"{SITE}/torch_ext/_C.cpython-312-x86_64-linux-gnu.so",
                "torch": "2.13.0+cu130",
                "misfit": "torch_ext was built for torch 2.13.0+cu130, and torch 2.14.1+cu130 is installed "
                f"({SITE}/torch_ext/_C.cpython-312-x86_64-linux-gnu.so).",
            }
        ],
    },
}


class Installation:
    """A checkout whose extension is built, in an environment with torch and what the commands need.

    Attributes:
        folder: of all of it.
        checkout: as ``conftest`` has it.
        purelib: where the environment's packages are.
        torch: the folders in which a torch is looked for.
        environment: variables.
    """

    def __init__(self, folder, checkout, lent):
        self.folder = folder
        self.checkout = checkout
        self.cwd = folder / "cwd"
        self.cwd.mkdir()
        self.lent = lent
        self.torch = [lent.torch]
        self.environment = {}
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        base = str(folder / "venv")
        self.purelib = Path(sysconfig.get_path("purelib", vars={"base": base, "platbase": base}))

    @property
    def extension(self):
        (path,) = (self.checkout.root / "torch_ext").glob("_C*.so")
        return path

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path.parent

    def restamp(self, **changes):
        path = self.extension.with_suffix(".json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "identity": "another", **changes}))

    def run(self, *arguments):
        """The finished run of ``torch-ext``."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TORCH_EXT")}
        path = [self.checkout.root, *self.torch, self.lent.packages]
        return subprocess.run(
            [self.folder / "venv/bin/python", "-P" if sys.version_info >= (3, 11) else "-B", "-c", COMMAND, *arguments],
            cwd=self.cwd,
            env={
                **inherited,
                "PYTHONPATH": os.pathsep.join(map(str, path)),
                "TORCH_EXT_CACHE": str(self.checkout.cache),
                "CXX": str(self.checkout.compiler),
                "COLUMNS": "80",
                **self.environment,
            },
            capture_output=True,
            check=False,
            text=True,
        )

    def doctor(self):
        """The status, the findings by name, and all facts."""
        done = self.run("doctor", "--json")
        assert done.stderr == "" or self.purelib.joinpath("torch_ext.pth").exists()
        facts = json.loads(done.stdout)
        assert facts["ok"] == (done.returncode == 0)
        return done.returncode, {each["name"]: each for each in facts["findings"]}, facts


@pytest.fixture(scope="module")
def lent(tmp_path_factory):
    """Folders that lend torch, and what the commands need besides, to an environment."""
    folder = tmp_path_factory.mktemp("lent")
    purelib = Path(torch.__file__).parents[1]
    packages = [path for path in purelib.iterdir() if not NOT_LENT.fullmatch(path.name)]
    return SimpleNamespace(
        torch=link_all(folder / "torch", [purelib / name for name in ("torch", "torchgen", "functorch")]),
        packages=link_all(folder / "packages", [*packages, REPOSITORY / "torch_ext_cli"]),
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    checkout = Checkout(tmp_path_factory.mktemp("built"))
    checkout.build_in_place()
    return checkout


@pytest.fixture
def installation(tmp_path, built, lent):
    shutil.copytree(built.root.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("build"))
    checkout = object.__new__(Checkout)
    checkout.root, checkout.cache, checkout.tools = (
        tmp_path / "copy" / name for name in ("checkout", "cache", "tools")
    )
    checkout.compiler = checkout.tools / built.compiler.name
    return Installation(tmp_path, checkout, lent)


def test_a_good_installation(installation):
    status, found, facts = installation.doctor()
    assert (status, found) == (0, {})
    extension = facts["extension"]
    assert extension["loaded"] and extension["extension"] == str(installation.extension)
    assert extension["stamp"]["torch"] == facts["torch"]["version"] == torch.__version__
    assert len(extension["stamp"]["headers"]) == 64 and extension["stamp"]["flags"][0] == "-std=c++20"
    assert facts["torch_ext"]["version"] == "1.2.3" and facts["torch_ext"]["kind"] == "checkout"
    assert facts["compiler"]["command"] == str(installation.checkout.compiler) and facts["compiler"]["ninja"]
    assert facts["variables"]["TORCH_EXT_CACHE"] == facts["cache"]["folder"] == str(installation.checkout.cache)
    assert facts["torch"]["gpus"] == [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    # Only what an import would remember too: that the torch, which is elsewhere now, has the same headers.
    assert [path.suffix for path in installation.checkout.cache.iterdir()] == [".fits"]


def test_nothing_is_built_yet(installation):
    """That is not wrong: the next import compiles."""
    installation.extension.unlink()
    status, found, facts = installation.doctor()
    assert status == 0 and found.keys() == {"extension-unbuilt"} and facts["extension"]["extension"] is None
    assert "torch-ext build" in found["extension-unbuilt"]["remedy"]


# Broken installations: each is broken by a function, and has a line in the table


def without_torch(it):
    it.torch = []


def with_an_unsupported_torch(it):
    it.torch = [it.write("old/torch/__init__.py", FAKE_TORCH).parent]


def whose_torch_does_not_import(it):
    it.torch = [it.write("bad/torch/__init__.py", "raise ImportError('libcudart.so.12: cannot open')").parent]


def whose_torch_crashes(it):
    it.torch = [it.write("bad/torch/__init__.py", "import os; os.kill(os.getpid(), 11)").parent]


def with_two_torches(it):
    it.torch.append(it.write("second/torch/__init__.py", FAKE_TORCH).parent)


def built_for_another_torch(it):
    it.restamp(torch="2.12.1+cpu", headers="others")


def built_for_another_torch_without_compiler(it):
    built_for_another_torch(it)
    it.environment["CXX"] = "no-such-compiler"


def whose_compiler_fails(it):
    built_for_another_torch(it)
    it.environment["CXX"] = "false"


def built_for_another_python(it):
    it.extension.rename(it.extension.with_name("_C.cpython-39-somewhere.so"))
    (it.checkout.root / "csrc").rename(it.checkout.root / "elsewhere")


def built_for_another_abi(it):
    it.restamp(macros={"_GLIBCXX_USE_CXX11_ABI": "0"})


def with_a_truncated_extension(it):
    it.extension.write_bytes(it.extension.read_bytes()[:5000])


def without_a_stamp(it):
    it.extension.with_suffix(".json").unlink()


def with_newer_sources(it):
    it.checkout.set_answer(43)


def with_a_cpp_library_of_its_own(it):
    it.extension.write_bytes(it.extension.read_bytes().replace(b"libstdc++.so.6", b"libm.so.6\0\0\0\0\0"))


def with_an_extension_that_does_not_load(it):
    it.extension.write_bytes(it.extension.read_bytes().replace(b"PyInit__C", b"PyInit__D"))


def with_an_extension_that_crashes(it):
    it.checkout.write("csrc/compat.h", "#pragma once\n#include <cstdlib>\n#define ANSWER (abort(), 1)\n")
    it.checkout.build_in_place()


def without_ninja(it):
    built_for_another_torch(it)
    it.environment["PATH"] = "/nowhere"
    it.environment["CXX"] = shutil.which("c++")
    it.lent = SimpleNamespace(
        packages=link_all(it.folder / "less", [p for p in it.lent.packages.iterdir() if p.name != "ninja"])
    )


def whose_cache_cannot_be_written(it):
    built_for_another_torch(it)
    it.checkout.cache.write_text("a file where the folder should be")


def whose_cache_others_can_write(it):
    it.checkout.cache.mkdir()
    it.checkout.cache.chmod(0o777)


def with_a_stale_pth(it):
    (it.purelib / "torch_ext.pth").write_text("import torch_ext_that_is_gone\n")


def hidden_by_a_folder(it):
    it.write("cwd/torch_ext/__init__.py", "")


def hidden_by_a_file(it):
    it.write("cwd/torch_ext.py", "")


def that_is_something_else(it):
    shutil.rmtree(it.checkout.root / "torch_ext")
    it.checkout.write("torch_ext/__init__.py", "")


BROKEN = [
    (without_torch, "torch-missing", "none is installed", "pip install 'torch>="),
    (with_an_unsupported_torch, "unsupported", "torch 1.13.1 is installed", "pip install 'torch>="),
    (whose_torch_does_not_import, "torch-broken", "ImportError: libcudart.so.12: cannot", "--force-reinstall 'torch>="),
    (whose_torch_crashes, "torch-broken", "ended by SIGSEGV", "--force-reinstall 'torch>="),
    (with_two_torches, "torch-twice", "second/torch", "pip uninstall torch"),
    (built_for_another_torch, "extension-unfit", "built for torch 2.12.1+cpu, and torch ", "torch-ext build"),
    (built_for_another_torch_without_compiler, "compiler", "no-such-compiler is not on PATH", "apt-get install g++"),
    (whose_compiler_fails, "compiler", "the C++ compiler does not run", "Set CXX to a compiler that runs"),
    (built_for_another_python, "extension-missing", "no extension for this Python", "pip install --no-build-isolation"),
    (built_for_another_abi, "extension-unfit", "built with _GLIBCXX_USE_CXX11_ABI=0", "torch-ext build"),
    (with_a_truncated_extension, "extension-unfit", "is damaged", "torch-ext build"),
    (without_a_stamp, "extension-unfit", "built for torch of an unknown version", "torch-ext build"),
    (with_newer_sources, "extension-unfit", "The sources are newer", "torch-ext build"),
    (with_a_cpp_library_of_its_own, "cpp-library", "a copy of it, into _C.", "CXX=/usr/bin/g++"),
    (with_an_extension_that_does_not_load, "extension-broken", "cannot be loaded", "pip install --no-build-isolation"),
    (with_an_extension_that_crashes, "extension-broken", "ended by SIGABRT", "pip install --no-build-isolation"),
    (without_ninja, "ninja", "ninja, which was not found", "pip install ninja"),
    (whose_cache_cannot_be_written, "cache", "can't be written", "TORCH_EXT_CACHE"),
    (whose_cache_others_can_write, "cache", "can be written by others", "TORCH_EXT_CACHE"),
    (with_a_stale_pth, "enable", "No module named 'torch_ext_that_is_gone'", "torch-ext disable"),
    (hidden_by_a_folder, "hidden", "cwd/torch_ext hides", "another folder"),
    (hidden_by_a_file, "hidden", "cwd/torch_ext.py hides", "another folder"),
    (that_is_something_else, "package-missing", "No torch_ext is found", "pip install torch_ext"),
]


@pytest.mark.parametrize("breaks, name, what, remedy", BROKEN, ids=[row[0].__name__ for row in BROKEN])
def test_broken(installation, breaks, name, what, remedy):
    breaks(installation)
    compiled = installation.checkout.compilations()
    status, found, _ = installation.doctor()
    assert status == 1 and found[name]["wrong"]
    assert what in found[name]["what"] and remedy in found[name]["remedy"]
    assert installation.checkout.compilations() == compiled


def test_what_is_not_needed_is_not_wrong(installation):
    """Where an extension fits, neither compiler nor cache has to be there."""
    installation.environment["CXX"] = "no-such-compiler"
    installation.checkout.cache.write_text("a file where the folder should be")
    status, found, _ = installation.doctor()
    assert status == 0 and found.keys() == {"compiler", "cache"}
    assert found["compiler"]["what"].startswith("Not needed now: no C++ compiler was found: CXX=no-such-compiler")


def test_the_remedy_is_one(installation):
    """torch-ext build mends what doctor says that it mends."""
    built_for_another_torch(installation)
    assert installation.doctor()[0] == 1
    assert installation.run("build").returncode == 0
    status, found, facts = installation.doctor()
    assert (status, found) == (0, {}) and facts["extension"]["cached"]


def test_the_report(installation):
    built_for_another_torch_without_compiler(installation)
    done = installation.run("doctor")
    assert done.returncode == 1 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(done.stdout.split())
    assert "extension none that fits" in text and f"torch {torch.__version__}" in text and "compiler none" in text
    assert "2. Wrong: torch_ext was built for torch 2.12.1+cpu, and torch" in text
    assert "Compile it now, or let the next import do it: torch-ext build" in text
    assert "Nothing is wrong" not in text
    good = installation.environment.pop("CXX") and installation.run("build")
    assert good.returncode == 0 and installation.run("doctor").stdout.endswith("Nothing is wrong.\n")


def test_the_page_shows_what_doctor_prints():
    console = Console(width=80, highlight=False, record=True, file=io.StringIO())
    show(FACTS, findings(FACTS), console)
    printed = "".join(f"{line.rstrip()}\n" for line in console.export_text().splitlines())
    page = (REPOSITORY / "docs" / "commands.md").read_text()
    assert f"```text\n{printed}```" in page
