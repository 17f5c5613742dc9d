# SPDX-License-Identifier: BSD-3-Clause
"""What torch_ext._build decides without compiling anything."""

import os
import shutil
import sysconfig
from pathlib import Path

import expecttest
import pytest

from torch_ext._build import cache, config, on_import


@pytest.mark.parametrize(
    "releases, requirement",
    [(("2.13",), "torch>=2.13,<2.14"), (("2.11", "2.12", "2.13"), "torch>=2.11,<2.14"), (("2.9",), "torch>=2.9,<2.10")],
)
def test_torch_requirement(monkeypatch, releases, requirement):
    monkeypatch.setattr(config, "SUPPORTED_TORCH", releases)
    assert config.torch_requirement() == requirement


@pytest.mark.parametrize("version", ["2.13.0", "2.13.1+cpu", "2.13.0a0+git1234567"])
def test_supported_torch(monkeypatch, version):
    monkeypatch.setattr(config, "SUPPORTED_TORCH", ("2.13",))
    config.check_torch(version)


@pytest.mark.parametrize("version", ["2.1.3", "2.130.0", "2.12.1", "2.14.0.dev20260101", "3.0.0", "unknown"])
def test_unsupported_torch(monkeypatch, version):
    monkeypatch.setattr(config, "SUPPORTED_TORCH", ("2.13",))
    with pytest.raises(ImportError, match=f"supports torch 2.13, and torch {version} is installed"):
        config.check_torch(version)


def test_digest_follows_names_contents_and_flags(tmp_path, monkeypatch):
    def digest(**files):
        for old in tmp_path.iterdir():
            old.unlink()
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text)
        return config.source_digest(tmp_path)

    base = digest(a_cpp="1", b_h="2")
    assert digest(a_cpp="1", b_h="2", note_txt="3") == base
    others = {digest(a_cpp="12", b_h=""), digest(a_cpp="2", b_h="1"), digest(a_cpp="1", c_h="2"), digest(a_cpp="1")}
    monkeypatch.setattr(config, "COMPILE_FLAGS", ["-O3"])
    others.add(digest(a_cpp="1", b_h="2"))
    assert len(others - {base}) == 5


@pytest.mark.parametrize(
    "environment, folder",
    [
        ({"TORCH_EXT_CACHE": "/a", "TORCH_EXTENSIONS_DIR": "/b", "XDG_CACHE_HOME": "/c"}, "/a"),
        ({"TORCH_EXTENSIONS_DIR": "/b", "XDG_CACHE_HOME": "/c"}, "/b/torch_ext"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/torch_ext"),
        ({}, "/home/user/.cache/torch_ext"),
    ],
)
def test_cache_folder(monkeypatch, environment, folder):
    for name in ("TORCH_EXT_CACHE", "TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/user", **environment}.items():
        monkeypatch.setenv(name, value)
    assert str(cache.cache_folder()) == folder


@pytest.mark.parametrize("home", ["/nonexistent", "/", "~"])
def test_cache_folder_of_a_user_without_a_home(monkeypatch, tmp_path, home):
    for name in ("TORCH_EXT_CACHE", "TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: home)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    assert cache.cache_folder() == tmp_path / f"torch_ext-{os.geteuid()}"


def test_first_errors_of_a_compilation():
    output = """[1/2] c++ -Werror -c a.cpp -o a.o
FAILED: a.o
a.cpp: In function 'int f()':
a.cpp:3:10: error: 'x' was not declared in this scope
    3 |   return x;
      |          ^
b.h:1:10: fatal error: missing.h: No such file or directory
ninja: build stopped: subcommand failed."""
    expecttest.assert_expected_inline(
        on_import.first_errors(output),
        """\
a.cpp:3:10: error: 'x' was not declared in this scope
b.h:1:10: fatal error: missing.h: No such file or directory""",
    )


def test_first_errors_are_few():
    output = "\n".join(f"a.cpp:{line}:1: error: no" for line in range(100))
    assert on_import.first_errors(output, limit=3).splitlines() == output.splitlines()[:3]


def test_end_of_the_output_where_nothing_is_called_an_error():
    assert on_import.first_errors("one\ntwo\nKilled", limit=2) == "two\nKilled"


def test_system_headers_are_those_that_torch_names():
    from torch.utils.cpp_extension import include_paths

    assert config.system_headers() == [f"-isystem{path}" for path in (*include_paths(), sysconfig.get_path("include"))]


# Unity files


def units_of(tmp_path, *names):
    """The files to compile if csrc has the files ``names``, and the texts of those that are written."""
    csrc, folder = tmp_path / "csrc", tmp_path / "unity"
    shutil.rmtree(csrc, ignore_errors=True)
    for name in names:
        path = csrc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    sources = config.unity_sources(csrc, folder)
    return (
        [str(Path(path).relative_to(tmp_path)) for path in sources],
        {path.name: path.read_text() for path in folder.iterdir()},
    )


def test_a_folder_is_compiled_as_one_file(tmp_path):
    sources, made = units_of(tmp_path, "module.cpp", "b/two.cpp", "b/one.cpp", "b/deep/er/three.cpp", "a/four.cpp")
    assert sources == ["csrc/module.cpp", "unity/a.cpp", "unity/b.cpp"]
    assert made == {
        "a.cpp": "#include <a/four.cpp>\n",
        "b.cpp": "#include <b/deep/er/three.cpp>\n#include <b/one.cpp>\n#include <b/two.cpp>\n",
    }


def test_a_folder_without_code_is_not_compiled(tmp_path):
    assert units_of(tmp_path, "a/only.h", "b/notes.md") == ([], {})


def test_what_is_gone_is_compiled_no_more(tmp_path):
    units_of(tmp_path, "a/one.cpp", "a/two.cpp", "b/three.cpp")
    assert units_of(tmp_path, "a/two.cpp") == (["unity/a.cpp"], {"a.cpp": "#include <a/two.cpp>\n"})


def test_only_what_changes_is_written(tmp_path):
    def times():
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "unity").iterdir()}

    units_of(tmp_path, "a/one.cpp", "b/two.cpp")
    for path in (tmp_path / "unity").iterdir():
        os.utime(path, (0, 0))
    units_of(tmp_path, "a/one.cpp", "b/two.cpp")
    assert times() == {"a.cpp": 0, "b.cpp": 0}
    units_of(tmp_path, "a/one.cpp", "b/two.cpp", "b/three.cpp")
    assert times()["a.cpp"] == 0 < times()["b.cpp"]
