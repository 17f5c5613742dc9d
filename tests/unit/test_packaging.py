# SPDX-License-Identifier: BSD-3-Clause
"""Installing with pip: wheel, editable, sdist, and their errors."""

import email
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import torch_ext
from torch_ext._build import config

ABI = sysconfig.get_config_var("SOABI")
REPORT = "import torch_ext; print(torch_ext._C.answer, torch_ext._C.__file__)"


OF_THE_LINKER = {"__bss_start", "_edata", "_end", "_fini", "_init"}

# The mangled name of a function or a variable in these namespaces. A type's information begins in another way, and so
# does a static variable of an inline function.
IN_A_NAMESPACE_OF_OURS = re.compile(r"_ZNK?(5torch|9torch_ext)")

# torch_ext's own, and what torch declares, has for itself, and torch_ext defines a second time.
DEFINED_HERE = re.compile(
    r"torch_ext|torch::autograd::(Py[A-Z]|_print_stack)|torch::jit::ConcretePythonOp|torch::jit::tracer::[a-z]"
)


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def environment(folder):
    """A new environment that finds this one's packages, but not what is installed here in editable mode."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    purelib = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    Path(purelib, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(python)


def pip(python, *arguments, cwd):
    command = [python, "-m", "pip", *arguments, "--no-build-isolation", "--no-deps", "--disable-pip-version-check"]
    result = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True)
    assert result.returncode == 0, result.stdout


def build_in_place(checkout, **environment):
    """The finished run of setup.py, its output in one."""
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=checkout.root,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )


@pytest.fixture(scope="module")
def wheel(shared_checkout):
    pip(sys.executable, "wheel", "--wheel-dir", "dist", ".", cwd=shared_checkout.root)
    (path,) = (shared_checkout.root / "dist").glob("torch_ext-1.2.3-*.whl")
    return path


def test_wheel_has_the_extension_and_what_it_was_built_for(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    build = [f"_build/{path.name}" for path in Path(config.__file__).parent.glob("*.py")]
    sources = ["_csrc/compat.h", "_csrc/module.cpp"]
    built = [f"_C.{ABI}{suffix}" for suffix in (".so", ".json", ".headers")]
    files = ["__init__.py", *build, "py.typed", *sources, *built]
    assert names == {f"torch_ext/{name}" for name in files}


def test_wheel_requires_a_supported_torch_and_ninja(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    requirements = [text.replace(" ", "") for text in metadata.get_all("Requires-Dist") if "extra" not in text]
    low, high = config.torch_requirement().removeprefix("torch").split(",")
    assert requirements == [f"torch{high},{low}", "ninja"]
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "BSD-3-Clause"


def test_wheel_names_the_releases_of_python_and_its_license(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())
    stated = [name.rpartition(" ")[2] for name in metadata.get_all("Classifier") if "Python :: 3." in name]
    (major, oldest), (_, newest) = config.MINIMUM_PYTHON, config.NEWEST_PYTHON
    assert stated == [f"{major}.{minor}" for minor in range(oldest, newest + 1)]
    assert metadata["Version"] == "1.2.3" and metadata["Description-Content-Type"] == "text/markdown"


def test_installed_wheel_needs_neither_sources_nor_compiler(wheel, shared_checkout, tmp_path):
    python = environment(tmp_path / "environment")
    pip(python, "install", "--ignore-installed", str(wheel), cwd=tmp_path)
    output, errors = shared_checkout.run(REPORT, python=python, PYTHONPATH="", CXX="no-such-compiler")
    assert output.startswith(f"42 {tmp_path / 'environment'}") and errors == ""
    assert not shared_checkout.cache.exists()


@pytest.mark.parametrize("mode", ["lenient", "strict"])
def test_editable_install(checkout, tmp_path, mode):
    python = environment(tmp_path / "environment")
    pip(python, "install", "--config-settings", f"editable_mode={mode}", "--editable", ".", cwd=checkout.root)
    output, errors = checkout.run(REPORT, python=python, PYTHONPATH="")
    assert output.startswith(f"42 {checkout.root}") and errors == ""
    assert not checkout.cache.exists()

    # make build goes on from here without pip.
    (object_file,) = (checkout.root / "build" / ABI).rglob("module.o")
    first = object_file.stat().st_mtime_ns
    checkout.build_in_place(python)
    assert object_file.stat().st_mtime_ns == first

    checkout.set_answer(46)
    output, errors = checkout.run(REPORT, python=python, PYTHONPATH="")
    assert output.startswith(f"46 {checkout.cache}") and "building" in errors


def test_sdist_has_the_sources_and_nothing_made_of_them(checkout):
    checkout.write("csrc/folder/more.cpp", "")
    checkout.build_in_place()
    subprocess.run([sys.executable, "setup.py", "--quiet", "sdist"], cwd=checkout.root, check=True, capture_output=True)
    with tarfile.open(checkout.root / "dist" / "torch_ext-1.2.3.tar.gz") as archive:
        names = set(archive.getnames())
    for name in ("setup.py", "pyproject.toml", "csrc/module.cpp", "csrc/compat.h", "torch_ext/_build/config.py"):
        assert f"torch_ext-1.2.3/{name}" in names
    assert [name for name in names if name.endswith("folder.cpp")] == []


def test_warning_is_an_error_to_make(checkout):
    checkout.write("csrc/warning.cpp", "static int unused;\n")
    result = build_in_place(checkout, TORCH_EXT_WERROR="1")
    assert result.returncode != 0 and "[-Werror=unused-variable]" in result.stdout
    assert "Traceback" not in result.stdout
    assert not list((checkout.root / "torch_ext").glob("_C.*"))


@pytest.mark.parametrize("value", ["", "0"])
def test_warning_is_no_error_to_others(checkout, value):
    checkout.write("csrc/warning.cpp", "static int unused;\n")
    result = build_in_place(checkout, TORCH_EXT_WERROR=value)
    assert result.returncode == 0 and list((checkout.root / "torch_ext").glob("_C.*.so"))


def test_compiler_with_arguments(checkout):
    checkout.write("csrc/compat.h", "#pragma once\n")
    for answer in 43, 44:  # the second of which compiles again
        assert build_in_place(checkout, CXX=f"{checkout.compiler} -DANSWER={answer}").returncode == 0
        assert checkout.run() == (f"{answer}\n", "")


def test_compiler_that_links_a_cpp_library_of_its_own(checkout):
    result = build_in_place(checkout, LDFLAGS="-static-libstdc++")
    assert result.returncode != 0 and "has to use the C++ library of torch" in result.stdout
    assert not list((checkout.root / "torch_ext").glob("_C.*"))


def test_another_torch_compiles_again(checkout):
    object_file = checkout.root / "build" / ABI / "csrc" / "module.o"
    checkout.build_in_place()
    first = object_file.stat().st_mtime_ns
    checkout.build_in_place()
    assert object_file.stat().st_mtime_ns == first

    setup = (checkout.root / "setup.py").read_text()
    checkout.write("setup.py", f"import torch\ntorch.__version__ += '.other'\n{setup}")
    checkout.build_in_place()
    assert object_file.stat().st_mtime_ns > first


def test_a_file_that_is_added_is_compiled_with_its_folder(checkout):
    checkout.write("csrc/folder/first.cpp", "")
    checkout.build_in_place()
    checkout.write("csrc/folder/deeper/answer.cpp", "int answer() { return 47; }\n")
    checkout.write("csrc/compat.h", "#pragma once\nint answer();\n#define ANSWER answer()\n")
    checkout.build_in_place()
    assert checkout.run() == ("47\n", "")


def test_an_unchanged_folder_is_not_compiled_again(checkout):
    checkout.write("csrc/folder/first.cpp", "")
    checkout.build_in_place()
    (object_file,) = (checkout.root / "build" / ABI).rglob("folder.o")
    first = object_file.stat().st_mtime_ns
    checkout.set_answer(48)
    checkout.build_in_place()
    assert object_file.stat().st_mtime_ns == first
    assert checkout.run() == ("48\n", "")


def without_torch(checkout, *arguments, trouble="sys.modules['torch'] = None"):
    """The finished run of setup.py where importing torch is in ``trouble``."""
    code = f"import runpy, sys; {trouble}; sys.argv = ['setup.py', *{arguments!r}]; runpy.run_path('setup.py')"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=checkout.root, capture_output=True, check=False, text=True)


@pytest.mark.parametrize(
    "trouble, says",
    [
        ("sys.modules['torch'] = None", "needs PyTorch, and none is installed"),
        ("import torch; torch.__version__ = '1.13.1'", "and torch 1.13.1 is installed"),
    ],
)
def test_setup_says_what_is_missing(checkout, trouble, says):
    result = without_torch(checkout, "--quiet", "build_ext", "--inplace", trouble=trouble)
    assert result.returncode == 1
    assert says in result.stderr and "Traceback" not in result.stderr


def test_built_without_torch_it_compiles_where_it_is_imported(checkout, tmp_path):
    """As pip does with build isolation; and its wheel is for any Python."""
    result = without_torch(checkout, "--quiet", "bdist_wheel")
    assert result.returncode == 0, result.stderr
    (wheel,) = (checkout.root / "dist").glob("*.whl")
    assert wheel.name == "torch_ext-1.2.3-py3-none-any.whl"
    python = environment(tmp_path / "environment")
    pip(python, "install", "--ignore-installed", str(wheel), cwd=tmp_path)
    output, errors = checkout.run(REPORT, python=python, PYTHONPATH="")
    assert output.startswith(f"42 {checkout.cache}") and "torch_ext: building for torch" in errors
    message = checkout.import_error(python=python, PYTHONPATH="", CXX="no-such", TORCH_EXT_CACHE=str(tmp_path / "no"))
    assert "no C++ compiler was found" in message


def test_extension_exports_its_entry_point_only():
    """What a compiler emits wherever it is used is exported besides: weakly, and nothing that torch_ext defines."""
    symbols = output_of("nm", "-D", "--defined-only", torch_ext._C.__file__)
    kinds = dict(reversed(line.split()[-2:]) for line in symbols.splitlines())
    strong = {name for name, kind in kinds.items() if kind not in "VWu"}
    assert strong - OF_THE_LINKER == {"PyInit__C"}
    assert not [name for name in kinds if IN_A_NAMESPACE_OF_OURS.match(name)]
    assert not [name for name in output_of("c++filt", *kinds).splitlines() if DEFINED_HERE.search(name)]


def test_every_source_states_its_license():
    root = Path(__file__).parents[2]
    places = [root / name for name in ("csrc", "torch_ext", "torch_ext_cli", "tools", "tests", "examples")]
    files = [root / "setup.py", root / "Makefile", root / ".ci" / "run"]
    files += [path for place in places for path in place.rglob("*") if path.suffix in (".cpp", ".h", ".py", ".pyi")]
    pattern = re.compile(r"(#!.*\n)?(#|//) SPDX-License-Identifier: BSD-3-Clause\n")
    assert [str(path) for path in files if not pattern.match(path.read_text())] == []


def test_the_torch_in_use_is_within_the_declared_range():
    config.check_torch(torch.__version__)
