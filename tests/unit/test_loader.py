# SPDX-License-Identifier: BSD-3-Clause
"""Finds, compiles and loads the extension, each time in processes of its own."""

import json
import os
import platform
import shutil
import stat
import sysconfig
from pathlib import Path

import pytest
import torch

IMPORT = "import torch_ext; print(torch_ext._C.answer)"
ABI = sysconfig.get_config_var("SOABI")


def test_first_import_compiles_and_says_so_in_one_line(checkout):
    output, errors = checkout.run()
    assert output == "42\n"
    begun = f"torch_ext: building for torch {torch.__version__}, Python {platform.python_version()} ... done after "
    assert errors.startswith(begun) and errors.endswith(" s\n") and errors.count("\n") == 1
    assert stat.S_IMODE(checkout.cache.stat().st_mode) == 0o700
    assert {path.suffix for path in checkout.cache.iterdir()} == {".so", ".json", ".headers", ".log", ".lock"}


def test_second_import_only_loads(checkout):
    code = f"{IMPORT}; import sys; print('torch.utils.cpp_extension' in sys.modules)"
    assert checkout.run(code)[0] == "42\nFalse\n"
    output, errors = checkout.run(code)
    assert (output, errors) == ("42\nFalse\n", "")
    assert checkout.compilations() == 1


def test_module_is_registered(shared_checkout):
    code = """
import sys, torch_ext
assert sys.modules["torch_ext._C"] is torch_ext._C is torch_ext.load()
import torch_ext._C as again
assert again is torch_ext._C and again.__name__ == again.__spec__.name == "torch_ext._C"
"""
    shared_checkout.run(code)


@pytest.mark.parametrize("change", ["header", "new file", "flag", "flag of the environment", "compiler"])
def test_what_the_build_depends_on_leads_to_another(checkout, change):
    checkout.run()
    environment = {}
    if change == "header":
        checkout.set_answer(43)
    elif change == "new file":
        checkout.write("csrc/folder/other.cpp", "")
    elif change == "flag":
        config = (checkout.root / "torch_ext/_build/config.py").read_text()
        checkout.write("torch_ext/_build/config.py", config.replace('"-O2"', '"-O1"'))
    elif change == "flag of the environment":
        environment["TORCH_EXT_CFLAGS"] = "-O1 -DOTHER=1"
    else:
        copy = checkout.compiler.with_name("g++-other")
        copy.write_text(checkout.compiler.read_text())
        copy.chmod(0o755)
        environment["CXX"] = str(copy)
    output, errors = checkout.run(**environment)
    assert output == ("43\n" if change == "header" else "42\n")
    assert "building" in errors
    assert len(list(checkout.cache.glob("*.so"))) == 2


def test_two_processes_compile_once(checkout):
    checkout.block_compiler()
    first = checkout.start(IMPORT)
    checkout.wait_until_compiling(first)
    second = checkout.start(IMPORT)
    assert second.stderr.readline() == "torch_ext: another process is building it; waiting\n"
    checkout.unblock_compiler()
    assert first.communicate()[0] == second.communicate()[0] == "42\n"
    assert first.returncode == second.returncode == 0
    assert checkout.compilations() == 1


def test_threads_compile_once(checkout):
    code = """
from concurrent.futures import ThreadPoolExecutor
import importlib
with ThreadPoolExecutor(8) as threads:
    modules = set(threads.map(lambda _: importlib.import_module("torch_ext").load(), range(8)))
print(len(modules))
"""
    assert checkout.run(code)[0] == "1\n"
    assert checkout.compilations() == 1


@pytest.mark.parametrize("when", ["always", "TORCH_EXT=1"])
def test_what_python_runs_as_it_starts_may_import_it(checkout, when):
    """So does TORCH_EXT=1, in the process that compiles too."""
    lines = ["import os", f"if {when == 'always'} or os.environ.get('TORCH_EXT') == '1':", "    import torch_ext"]
    checkout.write("sitecustomize.py", "\n".join(lines))
    output, errors = checkout.run(TORCH_EXT="1")
    assert output == "42\n" and errors.count("\n") == 1
    assert checkout.compilations() == 1
    (log,) = checkout.cache.glob("*.log")
    assert ("torch_ext is imported by the process that compiles it" in log.read_text()) == (when == "always")


def test_killed_build_blocks_nothing(checkout):
    checkout.block_compiler()
    process = checkout.start(IMPORT)
    checkout.wait_until_compiling(process)
    process.kill()
    process.communicate()
    (left,) = checkout.cache.glob("*.build-*")
    assert (left / "lock").exists()  # torch's own, which would stay
    assert not list(checkout.cache.glob("*.so"))

    checkout.unblock_compiler()
    assert checkout.run()[0] == "42\n"
    assert {path.suffix for path in checkout.cache.iterdir()} == {".so", ".json", ".headers", ".log", ".lock"}


def test_compile_error_is_reported_and_can_be_mended(checkout):
    checkout.set_answer("no_such_name")
    code = f"""
try:
    import torch_ext
except ImportError as error:
    print(error)
open({str(checkout.root / "csrc/compat.h")!r}, "w").write("#define ANSWER 44")
import torch_ext
print(torch_ext._C.answer)
"""
    output, errors = checkout.run(code)
    assert f"torch_ext could not be compiled for torch {torch.__version__} with {checkout.compiler} (" in output
    assert "compat.h:2:16: error: " in output and "no_such_name" in output
    log = Path(output.split("The whole output is in ")[1].splitlines()[0].rstrip("."))
    assert "-Wall -Wextra" in log.read_text() and "-Werror" not in log.read_text()
    assert " ... failed after " in errors
    assert output.endswith("\n44\n")
    assert not list(checkout.cache.glob("*.build-*"))


def test_compiler_with_arguments(checkout):
    checkout.write("csrc/compat.h", "#pragma once\n")
    assert checkout.run(CXX=f"{checkout.compiler} -DANSWER=43")[0] == "43\n"


def test_compiler_in_a_folder_with_a_space(checkout):
    checkout.tools.joinpath("a folder").mkdir()
    compiler = checkout.compiler.rename(checkout.tools / "a folder" / "g++")
    assert checkout.run(CXX=f"'{compiler}'")[0] == "42\n"


def test_warning_is_no_error(checkout):
    checkout.write("csrc/warning.cpp", "static int unused;\n")
    assert checkout.run(TORCH_EXT_WERROR="1")[0] == "42\n"


def test_undefined_symbol_is_found_before_the_build_is_kept(checkout):
    checkout.write("csrc/undefined.cpp", "int missing();\nint caller() { return missing(); }\n")
    assert "undefined symbol: _Z7missingv" in checkout.import_error()
    assert not list(checkout.cache.glob("*.so"))


def linking_statically(checkout):
    compiler = checkout.tools / "g++-static"
    compiler.write_text(f'#!/bin/sh\nexec "{checkout.compiler}" -static-libstdc++ "$@"\n')
    compiler.chmod(0o755)
    return str(compiler)


def test_compiler_that_links_a_cpp_library_of_its_own(checkout):
    message = checkout.import_error(CXX=linking_statically(checkout))
    assert "has to use the C++ library of torch" in message and "CXX=/usr/bin/g++" in message
    assert not list(checkout.cache.glob("*.so"))
    assert checkout.run()[0] == "42\n"


def test_no_compiler(checkout):
    message = checkout.import_error(CXX="no-such-compiler")
    assert "no C++ compiler was found: CXX=no-such-compiler is not on PATH" in message
    assert "g++ or clang++" in message and "apt-get install g++" in message


def test_no_compiler_is_needed_where_one_has_compiled(checkout):
    checkout.run()
    assert checkout.run(CXX="no-such-compiler") == ("42\n", "")


def test_compiler_that_does_not_run(checkout):
    message = checkout.import_error(CXX="false")
    assert "the C++ compiler does not run" in message and "false" in message


def test_no_ninja(checkout, path_without_ninja):
    message = checkout.import_error("import sys; sys.modules['ninja'] = None", PATH=path_without_ninja)
    assert "ninja was not found. Install it: pip install ninja" in message


def test_ninja_of_an_environment_that_was_not_activated(checkout, path_without_ninja):
    assert checkout.run(PATH=path_without_ninja)[0] == "42\n"


def test_cache_that_cannot_be_written(checkout):
    checkout.cache.write_text("a file where the folder should be")
    message = checkout.import_error()
    assert f"torch_ext cannot build in {checkout.cache}: " in message and "TORCH_EXT_CACHE" in message


def test_cache_on_a_read_only_file_system(checkout):
    message = checkout.import_error(TORCH_EXT_CACHE="/sys/torch_ext")
    assert "torch_ext cannot build in /sys/torch_ext: " in message and "TORCH_EXT_CACHE" in message


def test_cache_that_is_only_read_is_not_written_to(checkout):
    checkout.run()
    checkout.cache.chmod(0o500)
    before = {path: path.stat().st_mtime_ns for path in (checkout.cache, *checkout.cache.iterdir())}
    assert checkout.run() == ("42\n", "")
    assert {path: path.stat().st_mtime_ns for path in (checkout.cache, *checkout.cache.iterdir())} == before
    checkout.cache.chmod(0o700)


def test_full_disk_under_the_log(checkout):
    checkout.run()
    (log,) = checkout.cache.glob("*.log")
    (extension,) = checkout.cache.glob("*.so")
    extension.unlink()
    log.unlink()
    log.symlink_to("/dev/full")
    message = checkout.import_error()
    assert f"torch_ext cannot build in {checkout.cache}: " in message and "No space left on device" in message
    assert "TORCH_EXT_CACHE" in message
    assert not list(checkout.cache.glob("*.so")) and not list(checkout.cache.glob("*.build-*"))


def test_full_disk_under_the_compiler(checkout):
    compiling = checkout.compiler.read_text()
    full = "head -c 1 /dev/zero > /dev/full || exit 1; echo compiled"
    checkout.compiler.write_text(compiling.replace("echo compiled", full))
    message = checkout.import_error()
    assert "could not be compiled" in message and "No space left on device" in message
    assert not list(checkout.cache.glob("*.so")) and not list(checkout.cache.glob("*.build-*"))


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_what_is_made_is_the_users_alone(checkout, umask):
    assert checkout.run(f"import os; os.umask({umask}); {IMPORT}")[0] == "42\n"
    paths = [checkout.cache, *checkout.cache.iterdir()]
    assert len(paths) == 6
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_what_is_being_made_is_the_users_alone(checkout):
    checkout.write("csrc/folder/more.cpp", "")
    checkout.block_compiler()
    process = checkout.start(f"import os; os.umask(0); {IMPORT}")
    checkout.wait_until_compiling(process)
    found = list(checkout.cache.rglob("*"))
    assert {"build.ninja", "folder.cpp"} <= {path.name for path in found}
    assert all(path.stat().st_mode & 0o077 == 0 for path in found)
    checkout.unblock_compiler()
    assert process.communicate()[0] == "42\n"


@pytest.mark.parametrize("what", ["folder", "file"])
@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_what_others_can_write_is_refused(checkout, what, bits):
    checkout.run()
    (path,) = [checkout.cache] if what == "folder" else checkout.cache.glob("*.so")
    path.chmod(path.stat().st_mode | bits)
    for environment in {}, {"CXX": "no-such-compiler"}:
        message = checkout.import_error(**environment)
        assert f"loads only what nobody else can change, and {path} can be written by others" in message
        assert f"mode {stat.S_IMODE(path.stat().st_mode):04o}" in message and "TORCH_EXT_CACHE" in message
    path.chmod(path.stat().st_mode & ~bits)
    assert checkout.run()[0] == "42\n"


def test_what_another_user_owns_is_refused(checkout):
    checkout.run()
    message = checkout.import_error("import os; mine = os.geteuid(); os.geteuid = lambda: mine + 1")
    assert f"{checkout.cache} belongs to user {os.geteuid()}, and this is user {os.geteuid() + 1}" in message


def test_nothing_is_built_in_what_others_can_write(checkout):
    checkout.cache.mkdir()
    checkout.cache.chmod(0o777)
    assert f"{checkout.cache} can be written by others (mode 0777" in checkout.import_error()
    assert not list(checkout.cache.iterdir()) and checkout.compilations() == 0


def test_a_link_to_what_others_can_write_is_refused(checkout, tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "others").chmod(0o777)
    checkout.cache.symlink_to(tmp_path / "others")
    assert f"{tmp_path / 'others'} can be written by others" in checkout.import_error()


def test_nothing_outside_the_cache_is_touched(checkout, tmp_path):
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    before = {path: path.stat().st_mtime_ns for path in checkout.root.rglob("*")}
    environment = {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    assert checkout.run(**environment)[0] == "42\n"
    assert {path: path.stat().st_mtime_ns for path in checkout.root.rglob("*")} == before
    assert {path.name for path in home.iterdir()} <= {".nv"}  # a GPU's driver makes it
    assert not list(temporary.iterdir())


def test_a_process_that_waits_takes_over_from_one_that_is_killed(checkout):
    checkout.block_compiler()
    first = checkout.start(IMPORT)
    checkout.wait_until_compiling(first)
    second = checkout.start(IMPORT)
    assert second.stderr.readline() == "torch_ext: another process is building it; waiting\n"
    first.kill()
    first.communicate()
    checkout.unblock_compiler()
    output, errors = second.communicate()
    assert (second.returncode, output) == (0, "42\n"), errors
    assert {path.suffix for path in checkout.cache.iterdir()} == {".so", ".json", ".headers", ".log", ".lock"}


def test_stray_modules_in_the_current_folder_do_not_reach_the_compiler(checkout):
    (checkout.tools / "json.py").write_text("raise RuntimeError('not the standard library')\n")
    assert checkout.run(f"import sys; sys.path.remove(''); {IMPORT}")[0] == "42\n"


def test_load_by_hand_shows_the_compilers_output(checkout):
    command = f"{checkout.compiler} -MMD"
    assert command in checkout.run(TORCH_EXT_VERBOSE="1")[1]
    errors = checkout.run("import torch_ext; torch_ext.load(verbose=True)")[1]
    assert command in errors and "torch_ext: loaded from " in errors
    assert checkout.compilations() == 1


def test_extension_built_ahead_is_taken(checkout):
    extension = checkout.build_in_place()
    assert checkout.run("import torch_ext; print(torch_ext._C.__file__)") == (f"{extension}\n", "")
    assert not checkout.cache.exists()


def test_extension_older_than_the_sources_is_not_taken(checkout):
    checkout.build_in_place()
    checkout.set_answer(45)
    output, errors = checkout.run()
    assert output == "45\n" and "building" in errors


def restamp(extension, **changes):
    """Changes what ``extension`` says it was built for; ``identity`` always, as if torch had been installed anew."""
    stamp = extension.with_suffix(".json")
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "identity": "another", **changes}))


def test_extension_built_for_another_torch_is_not_opened(checkout):
    extension = checkout.build_in_place()
    extension.write_text("opening this would fail in another way")
    restamp(extension, torch="2.12.0+cpu", headers="others")
    message = checkout.import_error(CXX="no-such-compiler")
    assert "is damaged" in message and "no-such-compiler is not on PATH" in message

    checkout.build_in_place()
    restamp(extension, torch="2.12.0+cpu", headers="others")
    message = checkout.import_error(CXX="no-such-compiler")
    assert f"built for torch 2.12.0+cpu, and torch {torch.__version__} is installed" in message
    assert "no C++ compiler was found" in message

    extension.with_suffix(".json").unlink()
    assert "built for torch of an unknown version" in checkout.import_error(CXX="no-such-compiler")

    (checkout.root / "csrc").rename(checkout.root / "elsewhere")
    message = checkout.import_error()
    assert "built for torch of an unknown version" in message
    assert "pip install --no-build-isolation --no-deps --force-reinstall ." in message


def test_an_upgrade_of_torch_is_compiled_for_at_import(checkout):
    extension = checkout.build_in_place()
    restamp(extension, torch="2.12.0+cpu", headers="others")
    output, errors = checkout.run("import torch_ext; print(torch_ext._C.__file__)")
    assert output.startswith(f"{checkout.cache}/torch{torch.__version__}-") and "building for torch" in errors
    assert checkout.run() == ("42\n", "")


def test_a_torch_with_the_same_headers_is_the_same(checkout):
    extension = checkout.build_in_place()
    restamp(extension, torch="2.13.9+cu999")
    assert checkout.run("import torch_ext; print(torch_ext._C.__file__)") == (f"{extension}\n", "")


def test_an_extension_of_the_cache_that_no_longer_fits_is_built_again(checkout):
    checkout.run()
    (extension,) = checkout.cache.glob("*.so")
    restamp(extension, headers="others")
    output, errors = checkout.run()
    assert output == "42\n" and "building" in errors
    assert checkout.run() == ("42\n", "")


def test_of_several_extensions_the_one_that_fits_is_taken(checkout):
    """As a wheel for several releases of torch has them."""
    built = checkout.build_in_place()
    for digest in ("0000", "1111", "2222"):
        for suffix in (".so", ".json", ".headers"):
            name = built.name.replace("_C.", f"_C.{digest}.").replace(".so", suffix)
            shutil.copy(built.with_suffix(suffix), built.with_name(name))
        if digest != "1111":
            restamp(built.with_name(built.name.replace("_C.", f"_C.{digest}.")), headers=digest)
    for suffix in (".so", ".json", ".headers"):
        built.with_suffix(suffix).unlink()
    code = "import torch_ext, torch_ext._C as c; print(c.__name__, c.answer, c.__file__)"
    fitting = built.with_name(built.name.replace("_C.", "_C.1111."))
    assert checkout.run(code) == (f"torch_ext._C 42 {fitting}\n", "")


def test_an_extension_that_the_system_cannot_load_is_compiled_here(checkout):
    """As one that was compiled with a newer C++ library than there is."""
    extension = checkout.build_in_place()
    content = extension.read_bytes()
    assert content.count(b"libstdc++.so.6") == 1
    extension.write_bytes(content.replace(b"libstdc++.so.6", b"libstdc--.so.6"))
    message = checkout.import_error(CXX="no-such-compiler")
    assert f"{extension} cannot be loaded: libstdc--.so.6: cannot open" in message and "no-such-compiler" in message
    output, errors = checkout.run()
    assert output == "42\n" and "building" in errors


def test_sources_that_a_wheel_has_brought(checkout):
    """They lie in the package, which can't be written to, and nothing else of the checkout is there."""
    (checkout.root / "csrc").rename(checkout.root / "torch_ext" / "_csrc")
    (checkout.root / "pyproject.toml").unlink()
    before = {path: path.stat().st_mtime_ns for path in checkout.root.rglob("*")}
    output, errors = checkout.run(PYTHONDONTWRITEBYTECODE="1")
    assert output == "42\n" and "building" in errors
    assert {path: path.stat().st_mtime_ns for path in checkout.root.rglob("*")} == before


@pytest.mark.parametrize("project", [None, '[project]\nname = "other"\n'])
def test_sources_of_another_project_are_not_taken(checkout, project):
    (checkout.root / "pyproject.toml").unlink()
    if project is not None:
        checkout.write("pyproject.toml", project)
    assert "and no sources to build one from" in checkout.import_error()


def test_without_a_home(checkout, tmp_path):
    environment = {"HOME": "/dev/null", "TMPDIR": str(tmp_path), "TORCH_EXT_CACHE": "", "XDG_CACHE_HOME": ""}
    assert checkout.run(**environment)[0] == "42\n"
    assert stat.S_IMODE((tmp_path / f"torch_ext-{os.geteuid()}").stat().st_mode) == 0o700
    assert checkout.run(**environment) == ("42\n", "")


def test_extension_built_for_another_python(checkout):
    extension = checkout.build_in_place()
    (checkout.root / "csrc").rename(checkout.root / "elsewhere")
    other = extension.with_name("_C.cpython-39-somewhere.so")
    extension.rename(other)
    message = checkout.import_error()
    assert f"no extension for this Python ({ABI})" in message and other.name in message
    assert "pip install --no-build-isolation" in message

    other.unlink()
    assert "none at all" in checkout.import_error()


def test_unsupported_torch(checkout):
    message = checkout.import_error("import torch; torch.__version__ = '1.13.1'")
    assert message.startswith("torch_ext supports torch ") and "torch 1.13.1 is installed" in message
    assert "pip install 'torch>=" in message


def test_no_torch(checkout):
    message = checkout.import_error("import sys; sys.modules['torch'] = None")
    assert "none is installed" in message and "pip install 'torch>=" in message


@pytest.mark.parametrize("release", [(3, 9, 18), (3, 16, 0), (4, 0, 0)])
def test_unsupported_python(checkout, release):
    message = checkout.import_error(f"import sys; sys.version_info = {release}")
    assert f"torch_ext supports Python 3.10 to 3.15, and this is {platform.python_version()}" in message
    assert "python3.15 -m venv .venv" in message


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_unsupported_system(checkout, system):
    message = checkout.import_error(f"import torch, sys; sys.platform = {system!r}")
    assert message.startswith("torch_ext runs on Linux only")
