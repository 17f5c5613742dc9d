# SPDX-License-Identifier: BSD-3-Clause
"""torch-ext enable and disable, and what a Python that starts with TORCH_EXT set makes of it."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Environment:
    """A virtual environment that finds this one's packages, and torch_ext as a path in a .pth file."""

    def __init__(self, folder):
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        paths = {"base": str(folder), "platbase": str(folder)}
        self.packages = Path(sysconfig.get_path("purelib", vars=paths))
        self.pth = self.packages / "torch_ext.pth"
        self.torch_ext = self.packages / "a_torch_ext.pth"
        self.torch_ext.write_text(f"{ROOT}\n")
        (self.packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        self.folder = folder

    def run(self, *command, torch_ext=None, path="", cwd=None):
        """The finished process: its status, stdout and stderr."""
        own = {name: text for name, text in os.environ.items() if not name.startswith(("TORCH_EXT", "PYTHON"))}
        asked = {} if torch_ext is None else {"TORCH_EXT": torch_ext}
        done = subprocess.run(
            [self.python, *command],
            cwd=cwd or self.folder,
            env={**own, **asked, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("enable") / "environment")


@pytest.fixture
def enabled(environment):
    status, _, errors = environment.run("-m", "torch_ext", "enable")
    assert status == 0, errors
    yield environment
    environment.pth.unlink(missing_ok=True)


@pytest.fixture
def fake(tmp_path):
    """Writes a package that hides the real one from programs with PYTHONPATH=path."""

    def write(name, text):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text(text)
        return tmp_path

    return write


# --- The commands -----------------------------------------------------------------------------------


def test_enable_and_disable_can_be_repeated(environment):
    there = f"{environment.pth}\n"
    about = "Programs of this environment run on torch_ext if TORCH_EXT=1 is set.\n"
    before = sorted(environment.packages.iterdir())
    assert environment.run("-m", "torch_ext", "disable") == (0, f"Not there: {there}", "")
    assert environment.run("-m", "torch_ext", "enable") == (0, f"Written: {there}{about}", "")
    assert environment.run("-m", "torch_ext", "enable") == (0, f"There already: {there}{about}", "")
    assert sorted({*environment.packages.iterdir()} - {*before}) == [environment.pth]
    assert environment.run("-m", "torch_ext", "disable") == (0, f"Removed: {there}", "")
    assert sorted(environment.packages.iterdir()) == before


@pytest.mark.parametrize("command", ["enable", "disable"])
def test_user_packages_that_are_not_looked_at_are_refused(environment, command):
    status, printed, errors = environment.run("-m", "torch_ext", command, "--user")
    assert (status, printed) == (2, "")
    assert errors == f"torch-ext {command}: this Python does not look at packages of your own: leave out --user\n"


@pytest.mark.parametrize("command", ["enable", "disable"])
def test_a_folder_that_cannot_be_changed_is_one_line(environment, command):
    environment.pth.mkdir()  # the tests may run as root, whom no file mode stops
    try:
        status, printed, errors = environment.run("-m", "torch_ext", command)
    finally:
        environment.pth.rmdir()
    verb = {"enable": "written", "disable": "removed"}[command]
    assert (status, printed) == (1, "")
    assert errors == f"torch-ext {command}: {environment.pth} can't be {verb}: Is a directory\n"


def test_what_would_be_of_no_use_is_not_left_there(environment):
    path = environment.torch_ext
    path.rename(path.with_suffix(".aside"))
    try:
        # Found in the current folder, which the environment's programs have not.
        code = f"import sys; sys.path.append({str(ROOT)!r}); sys.argv[1:] = ['enable']; import torch_ext_cli as it"
        status, printed, errors = environment.run("-c", f"{code}; it.main()")
    finally:
        path.with_suffix(".aside").rename(path)
    assert (status, printed, errors.count("\n")) == (1, "", 1)
    assert "install it first" in errors
    assert not environment.pth.exists()


# --- What a Python makes of it ----------------------------------------------------------------------

SHOW = "import sys, torch, torch_ext; print(torch_ext.is_installed())"


@pytest.mark.parametrize("value", [None, "", "0"])
def test_nothing_is_loaded_if_nobody_asks(enabled, value):
    code = "import sys; print(*sorted(sys.modules), *map(str, sys.meta_path))"
    assert enabled.run("-c", code, torch_ext=value) == enabled.run("-S", "-c", f"import site; site.main(); {code}")
    assert "torch" not in enabled.run("-c", code, torch_ext=value)[1]


def test_a_program_without_torch_stays_without(enabled):
    code = "import sys, json; print([each for each in sys.modules if each.startswith('torch')])"
    printed = "['torch_ext_cli', 'torch_ext_cli.startup', 'torch_ext_cli.startup.import_hook']\n"
    assert enabled.run("-c", code, torch_ext="1") == (0, printed, "")


PROGRAMS = {
    "torch": SHOW,
    "torch_ext first": "import torch_ext, torch; print(torch_ext.is_installed())",
    "a module of torch": f"import torch.nn.functional\n{SHOW}",
    "threads": (
        "import sys, threading\n"
        "def look():\n import torch\n import torch_ext\n seen.append(torch_ext.is_installed())\n"
        "seen = []\nthreads = [threading.Thread(target=look) for _ in range(8)]\n"
        "[each.start() for each in threads]\n[each.join() for each in threads]\n"
        "print(len(seen) == 8 and all(seen))"
    ),
}
LAZILY = (
    "import importlib.util, sys\nspec = importlib.util.find_spec('torch')\n"
    "spec.loader = importlib.util.LazyLoader(spec.loader)\n"
    "sys.modules['torch'] = torch = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(torch)\n"
    f"torch.Tensor\n{SHOW}"
)
if sys.version_info >= (3, 15):
    PROGRAMS["lazily"] = f"lazy import torch\ntorch.Tensor\n{SHOW}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run_on_torch_ext(enabled, program):
    assert enabled.run("-c", PROGRAMS[program], torch_ext="1") == (0, "True\n", "")


def test_a_lazy_loader_loads_torch_as_without(enabled):
    status, printed, errors = enabled.run("-c", LAZILY)
    with_torch_ext = enabled.run("-c", LAZILY, torch_ext="1")
    if status:  # that of some releases recurses without end in torch, which deletes names of its own
        assert errors.splitlines()[-1].startswith("RecursionError")
        assert with_torch_ext[2].splitlines()[-1].startswith("RecursionError")
    else:
        assert (printed, with_torch_ext) == ("False\n", (0, "True\n", ""))


def test_a_torch_that_fails_fails_as_without_and_the_next_one_counts(enabled, fake):
    path = fake("torch", "raise ImportError('no libtorch')\n")
    code = "import traceback, sys\ntry:\n import torch\nexcept ImportError:\n traceback.print_exc(file=sys.stdout)\n"
    again = f"sys.path.remove({str(path)!r})\nsys.path_importer_cache.clear()\n{SHOW}"
    failed = enabled.run("-c", code, path=path)
    assert "no libtorch" in failed[1]
    assert enabled.run("-c", f"{code}{again}", torch_ext="1", path=path) == (0, f"{failed[1]}True\n", "")


def test_another_value_is_said_to_be_none(enabled):
    line = "torch_ext: TORCH_EXT is 1 or strict, got 'yes': the program runs on stock torch\n"
    assert enabled.run("-c", SHOW, torch_ext="yes") == (0, "False\n", line)


BROKEN = "raise ImportError('built for\\nanother torch')\n"
PROBLEM = "torch_ext can't be used: ImportError: built for another torch"


def test_a_broken_torch_ext_is_said_and_the_program_goes_on(enabled, fake):
    path = fake("torch_ext", BROKEN)
    line = f"torch_ext: the program goes on, on stock torch: {PROBLEM}\n"
    assert enabled.run("-c", "import torch; print(1)", torch_ext="1", path=path) == (0, "1\n", line)


def test_a_broken_torch_ext_is_an_error_if_that_is_asked_for(enabled, fake):
    path = fake("torch_ext", BROKEN)
    status, printed, errors = enabled.run("-c", "import torch; print(1)", torch_ext="strict", path=path)
    assert (status, printed) == (1, "")
    assert errors.endswith(f"ImportError: TORCH_EXT=strict, and {PROBLEM}\n")


def test_a_broken_torch_ext_ends_what_run_runs(environment, fake):
    path = fake("torch_ext", BROKEN)
    program = "try:\n import torch\nexcept ImportError:\n print('caught')"
    code = "import sys, torch_ext_cli; sys.argv[1:] = ['run', *sys.argv[1:]]; torch_ext_cli.main()"
    done = environment.run("-c", code, "-c", program, path=path)
    assert done == (1, "", f"torch-ext run: {PROBLEM}\n")


def test_a_line_that_is_left_behind_harms_nobody(enabled):
    path = enabled.torch_ext
    path.rename(path.with_suffix(".aside"))
    try:
        assert enabled.run("-c", "print(1)") == (0, "1\n", "")
        line = "torch_ext: TORCH_EXT is set, and torch_ext isn't installed: No module named 'torch_ext_cli'\n"
        assert enabled.run("-c", "print(1)", torch_ext="1") == (0, "1\n", line)
    finally:
        path.with_suffix(".aside").rename(path)


def test_an_isolated_python_needs_it_for_run(environment):
    code = "import torch, torch_ext, sys; print(torch_ext.is_installed(), sys.flags.isolated)"
    status, printed, errors = environment.run("-I", "-m", "torch_ext", "run", "-c", code)
    assert (status, printed, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("torch-ext run: Python's options -I, -E and -S keep it from")
    assert environment.run("-m", "torch_ext", "enable")[0] == 0
    try:
        assert environment.run("-I", "-m", "torch_ext", "run", "-c", code) == (0, "True 1\n", "")
    finally:
        environment.pth.unlink()


def test_run_from_a_checkout_takes_the_checkout_along(environment, tmp_path):
    path = environment.torch_ext
    path.rename(path.with_suffix(".aside"))
    (tmp_path / "program.py").write_text("import torch, torch_ext; print(torch_ext.is_installed(), torch_ext.__file__)")
    try:
        # The command finds torch_ext in the current folder, and the program looks in its own.
        done = environment.run("-m", "torch_ext", "run", tmp_path / "program.py", cwd=ROOT)
    finally:
        path.with_suffix(".aside").rename(path)
    assert done == (0, f"True {ROOT / 'torch_ext' / '__init__.py'}\n", "")


def test_the_loader_of_torch_is_its_own(enabled):
    code = "import torch; print(type(torch.__spec__.loader).__name__, sorted(vars(torch.__loader__)))"
    assert enabled.run("-c", code, torch_ext="1") == (0, "SourceFileLoader ['name', 'path']\n", "")


def test_the_line_imports_nothing():
    from torch_ext_cli.startup import pth

    code = f"import sys; exec({pth.LINE!r}); print([each for each in sys.modules if 'torch' in each])"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env={})
    assert done.stdout == "[]\n"
