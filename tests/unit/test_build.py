"""What torch_ext._build decides without compiling anything."""

import re
from pathlib import Path

import expecttest
import pytest

from torch_ext._build import config, on_import

REPOSITORY = Path(__file__).resolve().parents[2]


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
    assert str(on_import.cache_folder()) == folder


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


def test_every_file_of_a_folder_is_compiled_with_it():
    csrc = REPOSITORY / "csrc"
    for folder in filter(Path.is_dir, csrc.iterdir()):
        included = re.findall(r"#include <(.+\.cpp)>", (csrc / f"{folder.name}.cpp").read_text())
        assert included == sorted(path.relative_to(csrc).as_posix() for path in folder.rglob("*.cpp"))
