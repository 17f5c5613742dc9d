# SPDX-License-Identifier: BSD-3-Clause
"""The cache on a home folder that machines share, and many processes that need it at once.

Another machine is a process with another boot identity, whose locks are not seen here, or are refused, as a file system
without locks refuses them.
"""

import errno
import fcntl
import json
import os
import time

import pytest

from torch_ext._build import cache, on_import, stamp

IMPORT = "import torch_ext; print(torch_ext._C.answer)"

OTHER_MACHINE = """
import pathlib
read = pathlib.Path.read_text
pathlib.Path.read_text = lambda path, *args, **kw: "other" if path.name == "boot_id" else read(path, *args, **kw)
"""
UNSEEN_LOCKS = "import fcntl; fcntl.flock = lambda file, operation: None\n"
REFUSED_LOCKS = """
import fcntl, os
lock = fcntl.flock
def flock(file, operation):
    if os.environ["TORCH_EXT_CACHE"] in os.readlink(f"/proc/self/fd/{file}"):
        raise OSError(NUMBER, os.strerror(NUMBER))
    lock(file, operation)
fcntl.flock = flock
"""
RANKS = """
import os, sys
import torch
read, write = os.pipe()
for rank in range(8):
    if os.fork() == 0:
        import torch_ext
        os.write(write, f"{torch_ext._C.answer}\\n".encode())
        os._exit(0)
statuses = {os.wait()[1] for _ in range(8)}
print(statuses, os.read(read, 1000).decode().split())
"""


def test_many_ranks_at_once_compile_once(checkout):
    output, errors = checkout.run(RANKS)
    assert output == f"{ {0} } {['42'] * 8}\n"
    assert checkout.compilations() == 1 and errors.count("building for torch") == 1


def test_two_machines_at_once_each_compile_and_one_extension_stays(checkout):
    checkout.block_compiler()
    first = checkout.start(IMPORT)
    checkout.wait_until_compiling(first)
    second = checkout.start(OTHER_MACHINE + UNSEEN_LOCKS + IMPORT)
    while checkout.compilations() < 2:
        assert second.poll() is None, second.stderr.read()
        time.sleep(0.02)
    assert len(list(checkout.cache.glob("*.build-*"))) == 2  # neither has removed the other's
    checkout.unblock_compiler()
    assert first.communicate()[0] == second.communicate()[0] == "42\n"
    assert {path.suffix for path in checkout.cache.iterdir()} == {".so", ".json", ".headers", ".log", ".lock"}
    assert checkout.run() == ("42\n", "") and checkout.run(OTHER_MACHINE + IMPORT) == ("42\n", "")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_without_locks_there_a_machine_still_compiles_once(checkout, tmp_path, number):
    code = REFUSED_LOCKS.replace("NUMBER", str(number)) + IMPORT
    checkout.block_compiler()
    first = checkout.start(code, TMPDIR=str(tmp_path))
    checkout.wait_until_compiling(first)
    second = checkout.start(code, TMPDIR=str(tmp_path))
    assert second.stderr.readline() == "torch_ext: another process is building it; waiting\n"
    checkout.unblock_compiler()
    assert first.communicate()[0] == second.communicate()[0] == "42\n"
    assert checkout.compilations() == 1


def test_a_build_with_a_newer_c_library_is_left_to_the_others(checkout):
    checkout.run()
    (built,) = checkout.cache.glob("*.so")
    for path in checkout.cache.glob(f"{built.stem}.*"):
        path.rename(path.with_name(f"{built.stem[:-8]}00000000{path.suffix}"))
    theirs = built.with_name(f"{built.stem[:-8]}00000000.so")
    said = json.loads(stamp.stamp_path(theirs).read_text())
    before = theirs.stat().st_ino
    for libc, errors in ("glibc 2.2", ""), ("glibc 99.1", "building for torch"):
        stamp.stamp_path(theirs).write_text(json.dumps({**said, "libc": libc}))
        output, said_of_it = checkout.run()
        assert output == "42\n" and errors in said_of_it and bool(errors) == bool(said_of_it)
    assert theirs.stat().st_ino == before and built.exists()


# The steps of it, in this process


@pytest.fixture
def extension(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    (tmp_path / "cache").mkdir(mode=0o700)
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "cache" / "torch2-abi-sources-01234567.so"


def test_a_lock_that_a_machine_has_left_behind_is_waited_for_with_patience(extension, monkeypatch):
    monkeypatch.setattr(cache, "PATIENCE_S", 0.2)
    left = os.open(cache.lock_of(extension), os.O_RDWR | os.O_CREAT)
    fcntl.flock(left, fcntl.LOCK_EX)
    with cache.locked(extension, wait=False) as ours:
        assert not ours
    with cache.locked(extension) as ours:
        assert ours
        # The next process of this machine that has lost its patience waits for this one.
        local = os.open(cache._local_lock_of(extension), os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(local, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(local, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(local)
    os.close(left)


def test_other_errors_of_a_lock_are_raised(extension, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"), cache.locked(extension):
        pass


@pytest.mark.parametrize("days,left", [(0, False), (0.9, False), (1.1, True), (-3, False)])
def test_another_machines_build_is_over_after_a_day_of_the_file_systems_clock(extension, monkeypatch, days, left):
    theirs = extension.with_name(f"{extension.stem}.build-76543210_abcdefgh")
    theirs.mkdir()
    then = time.time() - days * 24 * 3600
    os.utime(theirs, (then, then))
    monkeypatch.setattr(time, "time", lambda: 0.0)  # this machine's clock is wrong
    assert cache.is_left_over(theirs) == left
    (entry,) = cache.entries(extension.parent)
    assert cache.remove(entry) == left and theirs.exists() == (not left)


def test_this_machines_builds_are_over_if_the_lock_is_free(extension):
    folder = cache.build_folder(extension)
    assert cache.is_left_over(folder)
    (entry,) = cache.entries(extension.parent)
    assert entry.name == extension.stem and cache.remove(entry)


def test_what_another_machine_has_put_there_stays(extension):
    made = extension.with_suffix(".made")
    made.write_text("ours")
    extension.write_text("theirs")
    on_import._put(made, extension, None)
    assert extension.read_text() == "theirs"
    on_import._put(made, extension, on_import._file_of(extension))  # this very one is to be replaced
    assert extension.read_text() == "ours"


def test_a_file_system_without_hard_links(extension, monkeypatch):
    def link(*names):
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", link)
    made = extension.with_suffix(".made")
    made.write_text("ours")
    on_import._put(made, extension, None)
    assert extension.read_text() == "ours" and not made.exists()


@pytest.mark.parametrize("skew_s", [-3600, 3600])
def test_building_again_whatever_the_clock_of_the_server_says(extension, monkeypatch, skew_s):
    """The extension is there, and stamped by a clock that is ahead or behind."""
    calls = []
    monkeypatch.setenv("TORCH_EXT_CACHE", str(extension.parent))
    monkeypatch.setattr(on_import, "name_of", lambda *args: extension.stem)
    monkeypatch.setattr(on_import, "_compile", lambda *args: calls.append(args))
    monkeypatch.setattr(stamp, "misfit", lambda *args: None)
    extension.touch(mode=0o600)
    os.utime(extension, (time.time() + skew_s,) * 2)
    for again in False, True:
        on_import.compile_now(extension, None, None, verbose=False, again=again)
        assert len(calls) == again
