# SPDX-License-Identifier: BSD-3-Clause
"""torch-ext build and torch-ext clean, on a small checkout, and what they say where they can't."""

import fcntl
import json
import os
import re

import pytest
import torch
from harness.small_checkout import REPOSITORY

from torch_ext._build import cache

COMMAND = "import sys; sys.argv = ['torch-ext', *{!r}]; from torch_ext_cli import main; main()"


@pytest.fixture
def run(checkout):
    """Runs a command, and returns its status, stdout and stderr."""

    def run(*arguments, **environment):
        path = os.pathsep.join((str(checkout.root), str(REPOSITORY)))
        process = checkout.start(COMMAND.format(arguments), **{"PYTHONPATH": path, **environment})
        output, errors = process.communicate()
        return process.returncode, output, errors

    return run


def only_build(checkout):
    (extension,) = checkout.cache.glob("*.so")
    return extension


# build


def test_build_compiles_what_the_next_import_takes(checkout, run):
    status, output, errors = run("build")
    assert (status, output) == (0, f"Compiled for torch {torch.__version__}: {only_build(checkout)}\n")
    assert re.fullmatch(r"torch_ext: building for torch .* \.\.\. done after \d+ s\n", errors)
    assert checkout.run() == ("42\n", "")
    assert run("build") == (0, f"There already, for torch {torch.__version__}: {only_build(checkout)}\n", "")
    assert checkout.compilations() == 1


def test_build_again(checkout, run):
    run("build")
    before = only_build(checkout).stat().st_mtime_ns
    status, output, _ = run("build", "--force", "--verbose")
    assert status == 0 and output.startswith("Compiled for torch ")
    assert checkout.compilations() == 2 and only_build(checkout).stat().st_mtime_ns > before


def test_build_shows_the_compiler(checkout, run):
    assert f"{checkout.compiler} -MMD" in run("build", "--verbose")[2]


def test_build_where_an_installation_has(checkout, run):
    extension = checkout.build_in_place()
    assert run("build") == (0, f"There already, for torch {torch.__version__}: {extension}\n", "")
    status, output, errors = run("build", "--force")
    assert (status, output) == (1, "") and errors.startswith(f"torch-ext build: {extension} was built ahead ")


@pytest.mark.parametrize(
    "environment, sources, says",
    [
        ({"CXX": "no-such-compiler"}, True, "no C++ compiler was found: CXX=no-such-compiler is not on PATH"),
        ({"TORCH_EXT_CACHE": "/dev/null/cache"}, True, "torch_ext cannot build in /dev/null/cache: "),
        ({}, False, "There is no extension for this Python. There are no sources to compile."),
    ],
)
def test_build_that_cannot_be_done(checkout, run, environment, sources, says):
    if not sources:
        (checkout.root / "csrc").rename(checkout.root / "elsewhere")
    status, output, errors = run("build", **environment)
    assert (status, output) == (1, "") and errors.startswith("torch-ext build: ") and says in errors
    assert errors.count("\n") == 1


def test_build_shows_what_does_not_compile(checkout, run):
    checkout.set_answer("no_such_name")
    status, _, errors = run("build")
    assert status == 1 and "no_such_name" in errors and "The whole output is in " in errors
    assert "Traceback" not in errors


# clean


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*"))


def test_clean_removes_what_is_of_no_use(checkout, run):
    run("build")
    old = only_build(checkout)
    checkout.set_answer(43)
    run("build")
    (checkout.cache / "notes.txt").write_text("somebody's")
    before = set(checkout.cache.iterdir())
    gone = {path for path in before if path.name.startswith(old.stem)}
    assert {path.suffix for path in gone} == {".so", ".json", ".headers", ".log", ".lock"}
    freed = sum(path.stat().st_size for path in gone)

    status, output, errors = run("clean", "--dry-run")
    assert (status, errors) == (0, "") and set(checkout.cache.iterdir()) == before
    lines = [f"Would remove: {old.stem}, {freed:,} bytes", f"{freed:,} bytes would be freed in {checkout.cache}"]
    assert output.splitlines() == lines

    assert run("clean")[1].splitlines() == [
        f"Removed: {old.stem}, {freed:,} bytes",
        f"{freed:,} bytes freed in {checkout.cache}",
    ]
    assert set(checkout.cache.iterdir()) == before - gone
    assert checkout.run() == ("43\n", "")

    assert run("clean", "--all")[0] == 0
    assert [path.name for path in checkout.cache.iterdir()] == ["notes.txt"]


def test_clean_removes_what_is_remembered_of_headers(checkout, run):
    extension = checkout.build_in_place()
    stamp = extension.with_suffix(".json")
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "identity": "another"}))
    checkout.run()
    (known,) = checkout.cache.iterdir()
    assert known.suffix == ".fits" and run("clean") == (0, f"4 bytes freed in {checkout.cache}\n", "")
    assert list(checkout.cache.iterdir()) == []


def test_clean_leaves_a_running_build_alone(checkout, run):
    checkout.block_compiler()
    process = checkout.start("import torch_ext; print(torch_ext._C.answer)")
    checkout.wait_until_compiling(process)
    (folder,) = checkout.cache.glob("*.build-*")
    name = folder.name.partition(".build-")[0]
    status, output, _ = run("clean", "--all")
    assert (status, output) == (0, f"Kept, since it is being compiled: {name}\n0 bytes freed in {checkout.cache}\n")
    checkout.unblock_compiler()
    assert process.communicate()[0] == "42\n"


def test_clean_removes_what_a_killed_build_has_left(checkout, run):
    checkout.block_compiler()
    process = checkout.start("import torch_ext")
    checkout.wait_until_compiling(process)
    process.kill()
    process.communicate()
    checkout.unblock_compiler()
    assert list(checkout.cache.glob("*.build-*"))
    assert run("clean")[0] == 0 and list(checkout.cache.iterdir()) == []


def test_clean_where_there_is_nothing(checkout, run):
    assert run("clean") == (0, f"0 bytes freed in {checkout.cache}\n", "")
    assert not checkout.cache.exists()


def test_clean_imports_no_torch(checkout, run):
    checkout.write("torch.py", "raise RuntimeError('imported')")
    assert run("clean")[0] == 0


def test_what_cannot_be_removed(checkout, run):
    checkout.cache.mkdir()
    (checkout.cache / "torch2-abi-sources-01234567.so").mkdir()
    (checkout.cache / "torch2-abi-sources-01234567.lock").mkdir()
    status, output, errors = run("clean")
    assert (status, output) == (1, "") and errors.startswith("torch-ext clean: ") and errors.count("\n") == 1


# The lock


def test_a_lock_that_was_removed_while_it_was_waited_for(tmp_path, monkeypatch):
    """Whoever waited locks the next file of that name, as everybody else does."""
    extension = tmp_path / "_C.so"
    lock, calls = fcntl.flock, []

    def flock(file, operation):
        lock(file, operation)
        if not calls:
            cache.lock_of(extension).unlink()
        calls.append(operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with cache.locked(extension) as ours:
        assert ours and len(calls) == 2 and cache.lock_of(extension).exists()
        with cache.locked(extension, wait=False) as second:
            assert not second
    with cache.locked(extension, wait=False) as ours:
        assert ours
