# SPDX-License-Identifier: BSD-3-Clause
"""Wheels that need no compiler where they are installed. Extensions are those of this environment, or made up."""

import json
import platform
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import torch_ext
from tools.copies import StepFailed
from tools.wheels import __main__ as cli
from tools.wheels.build import copy_with_stamp, wheel_of_sources
from tools.wheels.merge import merge
from tools.wheels.repair import reason, repair

PYTHON = cli.HERE
USE = """
import torch, torch_ext

class Square(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad

x = torch.tensor([3.0], requires_grad=True)
Square.apply(x).backward()
print(x.grad.item(), torch_ext._C.__file__)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return wheel_of_sources(tmp_path_factory.mktemp("package"))


def of_another_torch(folder, headers, torch_version):
    """The extension of this environment, which says that it was built for something else."""
    folder.mkdir()
    extension = folder / "_C.so"
    copy_with_stamp(Path(torch_ext._C.__file__), extension)
    stamp = json.loads(extension.with_suffix(".json").read_text())
    changed = {**stamp, "headers": headers, "torch": torch_version, "identity": "another"}
    extension.with_suffix(".json").write_text(json.dumps(changed))
    return extension


def members(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def read(wheel, pattern):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if re.search(pattern, name)]
        return archive.read(name).decode()


def environment(folder, lent):
    """A new environment with nothing in it but what is in the folder ``lent``. Returns its Python and its purelib."""
    venv.create(folder, with_pip=False, symlinks=True)
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (purelib / "lent.pth").write_text(f"{lent}\n")
    return str(folder / "bin" / "python"), purelib


def test_the_package_has_all_sources_and_no_extension(package):
    names = members(package)
    sources = {path.relative_to(cli.ROOT).as_posix() for path in (cli.ROOT / "csrc").rglob("*.*") if path.is_file()}
    assert {f"csrc/{name.partition('/_csrc/')[2]}" for name in names if "/_csrc/" in name} == sources
    assert [name for name in names if name.endswith(".so")] == []
    assert {"torch_ext/__init__.py", "torch_ext/_C.pyi", "torch_ext_cli/app.py"} < set(names)


def test_installed_it_needs_no_compiler(package, tmp_path):
    """The extension of this environment in a wheel, in an environment that has torch, and no compiler and no ninja."""
    wheel = merge(package, [Path(torch_ext._C.__file__)], cli.tag_of(PYTHON), tmp_path)
    wheel = repair(wheel, tmp_path / "repaired")
    tag = cli.tag_of(PYTHON).partition("-linux_")[0]
    assert re.fullmatch(rf"torch_ext-.*-{tag}-manylinux_\d+_\d+_{platform.machine()}\.whl", wheel.name)
    # torch's libraries, and all others, stay outside.
    assert [name for name in members(wheel) if name.endswith((".so", ".so.1")) and "/_C." not in name] == []

    python, purelib = environment(tmp_path / "environment", Path(torch.__file__).parents[1])
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--ignore-installed"]
    subprocess.run([*command, str(wheel)], check=True)
    variables = {"PATH": "/nowhere", "HOME": str(tmp_path), "TORCH_EXT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([python, "-c", USE], cwd=tmp_path, env=variables, capture_output=True, check=False, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith(f"6.0 {purelib}/torch_ext/_C.")
    assert [path.suffix for path in (tmp_path / "cache").glob("*")] in ([], [".fits"])


def test_a_wheel_for_several_releases(package, tmp_path):
    """Of two with the same headers there is one; the others have names of their own."""
    extensions = [
        of_another_torch(tmp_path / "first", "1" * 64, "2.98.0+cpu"),
        of_another_torch(tmp_path / "second", "2" * 64, "2.99.0"),
        of_another_torch(tmp_path / "third", "1" * 64, "2.98.0+cu999"),
    ]
    wheel = merge(package, extensions, "cp311-cp311-linux_x86_64", tmp_path)
    assert wheel.name.endswith("-cp311-cp311-linux_x86_64.whl") and wheel.exists()
    abi = json.loads(extensions[0].with_suffix(".json").read_text())["python"]
    made = {name for name in members(wheel) if "/_C." in name and not name.endswith(".pyi")}
    suffixes = (".so", ".json", ".headers")
    assert made == {f"torch_ext/_C.{digit * 12}.{abi}{suffix}" for digit in "12" for suffix in suffixes}
    assert json.loads(read(wheel, r"/_C\.1.*\.json"))["torch"] == "2.98.0+cpu"
    fields = read(wheel, r"/WHEEL$").splitlines()
    assert "Root-Is-Purelib: false" in fields and "Tag: cp311-cp311-linux_x86_64" in fields
    assert len([line for line in fields if line.startswith("Tag:")]) == 1
    assert read(wheel, "/RECORD$").count("/_C.") == 7  # with the stub


def test_why_a_tag_is_no_older(package, tmp_path):
    wheel = merge(package, [Path(torch_ext._C.__file__)], cli.tag_of(PYTHON), tmp_path)
    needs = reason(wheel)
    assert {"GLIBC", "GLIBCXX"} <= needs.keys()
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in needs.values())


def test_what_auditwheel_says_is_shown(package, tmp_path):
    with pytest.raises(StepFailed, match="auditwheel repair failed:\n"):
        repair(package.with_name("none.whl"), tmp_path)


@pytest.mark.parametrize("python, tag", [("3.11", "cp311-cp311"), ("3.14.7", "cp314-cp314"), ("3.14t", "cp314-cp314t")])
def test_tag(python, tag):
    assert cli.tag_of(python) == f"{tag}-linux_{platform.machine()}"


def test_the_command(monkeypatch, capsys, tmp_path, package):
    """One wheel for each Python, of extensions for each torch."""
    asked = []

    def extension_for(folder, torch, python, keep):
        asked.append((torch, python, keep))
        place = Path(folder) / f"{torch}-{python}"
        return of_another_torch(place, torch.replace(".", "") * 20, torch)

    monkeypatch.setattr(cli, "extension_for", extension_for)
    monkeypatch.setattr(cli, "wheel_of_sources", lambda folder: package)
    options = [
        "--python",
        PYTHON,
        "--torch",
        "2.98.0",
        "2.99.1",
        "--folder",
        str(tmp_path),
        "--output",
        f"{tmp_path}/dist",
    ]
    assert cli.main(options) == 0
    assert asked == [("2.98.0", PYTHON, False), ("2.99.1", PYTHON, False)]
    (wheel,) = (tmp_path / "dist").iterdir()
    output = capsys.readouterr().out
    assert f"{wheel}\nIts tag is no older since it needs " in output and "2.99.1" in output


def test_a_step_that_fails(monkeypatch, capsys, tmp_path):
    def fail(*arguments):
        raise StepFailed("environment failed, see /a/log")

    monkeypatch.setattr(cli, "wheel_of_sources", fail)
    assert cli.main(["--torch", "2.98.0", "--folder", str(tmp_path)]) == 1
    assert "environment failed, see /a/log" in capsys.readouterr().out


@pytest.mark.long
def test_a_wheel_from_nothing(tmp_path):
    """All of it for the torch of this environment: takes minutes, and installs that torch once more."""
    version = torch.__version__.partition("+")[0]
    command = [sys.executable, "-m", "tools.wheels", "--torch", version, "--folder", str(tmp_path / "work")]
    subprocess.run([*command, "--output", str(tmp_path / "dist")], cwd=cli.ROOT, check=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    assert len([name for name in members(wheel) if name.endswith(".so")]) == 1
    assert not [path for path in (tmp_path / "work").iterdir() if path.name == f"torch{version}-python{PYTHON}"]
