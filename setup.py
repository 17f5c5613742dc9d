# SPDX-License-Identifier: BSD-3-Clause
"""Builds torch_ext._C ahead of time, for the torch of this environment; pyproject.toml has the rest."""

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent


def load_config():
    """torch_ext/_build/config.py by its path, since the package can't be imported before it is built."""
    spec = importlib.util.spec_from_file_location("config", ROOT / "torch_ext" / "_build" / "config.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


config = load_config()
try:
    config.check_environment()
except ImportError as error:
    sys.exit(
        f"{error}\ntorch_ext is compiled for the torch that it will run with: "
        "install that first, then run pip with --no-build-isolation."
    )

from torch.utils.cpp_extension import BuildExtension, CppExtension  # noqa: E402

CSRC = ROOT / "csrc"


class build_ext(BuildExtension):  # setuptools finds its options by this name
    """Compiles all of csrc, and writes beside the extension what it was built for, which the loader checks."""

    def run(self):
        os.environ["PATH"] = config.path_with_ninja() or os.environ["PATH"]
        sources = config.unity_sources(CSRC, ROOT / "build" / "unity")
        for extension in self.extensions:
            extension.sources = [os.path.relpath(path, ROOT) for path in sources]
        try:
            super().run()
        except RuntimeError as error:  # torch's; the compiler's output says more than a traceback
            sys.exit(f"error: {error}")
        for extension in self.extensions:
            path = Path(self.get_ext_fullpath(extension.name))
            try:
                config.check_cpp_library(path)
            except ImportError as error:
                path.unlink()
                sys.exit(f"error: {error}")
            config.write_stamp(path, CSRC)

    def get_source_files(self):
        """The sources in an sdist: MANIFEST.in has csrc, and the files that build_ext writes don't belong there."""
        return []

    def get_output_mapping(self):
        """The files that a strict editable install links."""
        mapping = super().get_output_mapping()
        stamps = {str(config.stamp_path(Path(to))): str(config.stamp_path(Path(at))) for to, at in mapping.items()}
        return {**mapping, **stamps}


extension = CppExtension(
    "torch_ext._C",
    [],  # build_ext has them
    include_dirs=[str(CSRC)],
    extra_compile_args=[
        *config.compile_flags(),
        *config.system_headers(),
        # ninja doesn't look into system headers, so another torch has to change the command.
        f"-DTORCH_EXT_BUILT_FOR_TORCH={config.torch_version()}",
    ],
)

setup(
    ext_modules=[extension],
    cmdclass={"build_ext": build_ext},
    # pip's own folder is removed after each build, and with it what ninja could use again.
    options={"build_ext": {"build_temp": f"build/{sysconfig.get_config_var('SOABI')}"}},
    install_requires=[config.torch_requirement(), "ninja"],
)
