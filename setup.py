# SPDX-License-Identifier: BSD-3-Clause
"""Builds torch_ext._C ahead of time, for the torch of this environment; pyproject.toml has the rest.

An environment without torch, such as the one that pip makes for a build, has nothing to build it for. Then the package
gets its sources only, and compiles them where it is first imported.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build_py import build_py as setuptools_build_py

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"


def load_build():
    """The package torch_ext/_build by its path, since torch_ext can't be imported before it is built."""
    folder = ROOT / "torch_ext" / "_build"
    spec = importlib.util.spec_from_file_location("_build", folder / "__init__.py")
    sys.modules["_build"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


load_build()
from _build import compiler, config, stamp  # noqa: E402


def no_source(folder, names):
    """Those of ``names`` in ``folder`` that are no C++ files."""
    return [name for name in names if Path(folder, name).is_file() and not name.endswith((".cpp", ".h"))]


class build_py(setuptools_build_py):  # setuptools finds its options by this name
    """Puts the sources into a wheel too: another torch may be installed under it some day."""

    def run(self):
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, "torch_ext", config.SHIPPED)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(CSRC, folder, ignore=no_source)


class no_torch(Command):
    """Stands for build_ext where there is no torch."""

    user_options: ClassVar = [("inplace", "i", "")]

    def initialize_options(self):
        self.inplace = None

    def finalize_options(self):
        pass

    def run(self):
        try:
            config.torch_version()
        except ImportError as error:
            sys.exit(f"error: {error}")


def extension_and_its_command():
    """What setup() has to know to compile the extension for the torch of this environment."""
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    class build_ext(BuildExtension):
        """Compiles all of csrc, and writes beside the extension what it was built for, which the loader checks."""

        def run(self):
            os.environ["PATH"] = config.path_with_ninja() or os.environ["PATH"]
            try:
                self.used = compiler.find_compiler()
                if self.used is None:
                    raise ImportError(compiler.no_compiler())
                sources = config.unity_sources(CSRC, ROOT / "build" / "unity")
                os.environ["CXX"] = compiler.as_one_word(self.used.command, ROOT / "build")
                for extension in self.extensions:
                    extension.sources = [os.path.relpath(path, ROOT) for path in sources]
                super().run()
                for extension in self.extensions:
                    self.check(Path(self.get_ext_fullpath(extension.name)))
            # torch's, and ours. The compiler's output says more than a traceback.
            except (RuntimeError, ImportError) as error:
                sys.exit(f"error: {error}")

        def check(self, path):
            torch = stamp.installed_torch()
            try:
                config.check_cpp_library(path)
                compiler.write_stamp(path, CSRC, torch, self.used)
                wrong = stamp.misfit(path, torch)
                if wrong is not None:
                    raise ImportError(wrong)
            except ImportError:
                path.unlink()
                raise

        def get_source_files(self):
            """The sources in an sdist: MANIFEST.in has csrc, and the files that build_ext writes don't belong there."""
            return []

        def get_output_mapping(self):
            """The files that a strict editable install links."""
            mapping = super().get_output_mapping()
            places = (Path, stamp.stamp_path, stamp.headers_path)
            return {str(place(Path(to))): str(place(Path(at))) for to, at in mapping.items() for place in places}

    extension = CppExtension(
        "torch_ext._C",
        [],  # build_ext has them
        include_dirs=[str(CSRC)],
        extra_compile_args=[
            *config.compile_flags(),
            *[config.STRICT] * config.is_strict(),
            *config.system_headers(),
            # ninja doesn't look into system headers, so another torch has to change the command.
            f"-DTORCH_EXT_BUILT_FOR_TORCH={stamp.installed_torch().identity()[:16]}",
        ],
    )
    return [extension], build_ext


if importlib.util.find_spec("torch") is None:
    extensions, build_ext = [], no_torch
else:
    try:
        config.check_environment()
    except ImportError as error:
        sys.exit(f"{error}\ntorch_ext is compiled for the torch that it will run with: install that first.")
    extensions, build_ext = extension_and_its_command()

setup(
    ext_modules=extensions,
    cmdclass={"build_py": build_py, "build_ext": build_ext},
    # pip's own folder is removed after each build, and with it what ninja could use again.
    options={"build_ext": {"build_temp": f"build/{sysconfig.get_config_var('SOABI')}"}} if extensions else {},
    install_requires=[config.torch_requirement(), "ninja"],
)
