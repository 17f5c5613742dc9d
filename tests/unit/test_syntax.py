# SPDX-License-Identifier: BSD-3-Clause
"""Each file of csrc compiles alone: the commands for editors, and the check."""

import json

import pytest

from tools import compile_commands, syntax
from torch_ext._build import config


@pytest.fixture
def csrc(tmp_path, monkeypatch):
    """A folder with one good file, which stands in for csrc."""
    folder = tmp_path / "csrc"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "good.h").write_text("inline int good() { return 1; }\n")
    (folder / "deep" / "good.cpp").write_text("#include <deep/good.h>\nint two() { return 2 * good(); }\n")
    monkeypatch.setattr(syntax, "compile_commands", lambda: compile_commands.compile_commands(folder))
    return folder


def test_every_file_is_compiled_with_the_flags_of_a_build():
    entries = compile_commands.compile_commands()
    folder = compile_commands.ROOT / "csrc"
    assert [entry["file"] for entry in entries] == sorted(map(str, folder.rglob("*.cpp")))
    for entry in entries:
        assert {*config.COMPILE_FLAGS, f"-I{folder}", "-c", entry["file"]} <= {*entry["arguments"]}


def test_compile_commands_are_written_for_editors(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_commands, "ROOT", tmp_path)
    monkeypatch.setattr(compile_commands, "compile_commands", lambda: [{"file": "a.cpp"}])
    compile_commands.main()
    assert json.loads((tmp_path / "compile_commands.json").read_text()) == [{"file": "a.cpp"}]


def test_files_that_compile_alone(csrc, capfd):
    assert syntax.main([]) == 0
    assert capfd.readouterr().out == "1 files compile alone\n"
    assert sorted(path.name for path in csrc.rglob("*")) == ["deep", "good.cpp", "good.h"]


@pytest.mark.parametrize(
    "text, error",
    [
        ("int two() { return 2 * good(); }", "was not declared"),
        ("void two() { int unused; }", "[-Werror=unused-variable]"),
    ],
)
def test_a_file_that_does_not(csrc, capfd, text, error):
    (csrc / "bad.cpp").write_text(text + "\n")
    assert syntax.main([]) == 1
    output = capfd.readouterr().out
    assert "bad.cpp:1:" in output and error in output


def test_files_can_be_chosen(csrc):
    (csrc / "bad.cpp").write_text("bad\n")
    assert syntax.main([str(csrc / "deep")]) == 0
    assert syntax.main([str(csrc / "bad.cpp")]) == 1
