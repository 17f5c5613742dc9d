# SPDX-License-Identifier: BSD-3-Clause
"""A small checkout of torch_ext, whose extension compiles in a second, for the tests of building and loading."""

import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

MODULE_CPP = """
#include <Python.h>
#include <compat.h>
#include <torch/headeronly/version.h>  // a header of torch, to be built for it

#include <stdexcept>

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "torch_ext._C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__C() {
  PyObject* module = PyModule_Create(&definition);
  if (module == nullptr) {
    throw std::runtime_error("no module");  // of the C++ library, which is linked only if something is used
  }
  PyModule_AddIntConstant(module, "answer", ANSWER);
  return module;
}
"""

# Notes each compilation, and waits while there is a file named "block".
COMPILER = """#!/bin/sh
case " $* " in
  *" -c "*)
    echo compiled >> "{folder}/compilations"
    while [ -e "{folder}/block" ]; do sleep 0.05; done ;;
esac
exec c++ "$@"
"""


class Checkout:
    """A checkout with the project's own build files and a C++ module of a few lines.

    Attributes:
        root: the checkout.
        cache: where it keeps what it compiles on import.
    """

    def __init__(self, folder):
        self.root = folder / "checkout"
        self.cache = folder / "cache"
        self.tools = folder / "tools"
        for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE"):
            self.write(name, (REPOSITORY / name).read_text())
        for path in (REPOSITORY / "torch_ext" / "_build").glob("*.py"):
            self.write(f"torch_ext/_build/{path.name}", path.read_text())
        self.write("torch_ext/py.typed", "")
        self.write("torch_ext/__init__.py", '__version__ = "1.2.3"\nfrom ._build.loader import load\n_C = load()\n')
        self.write("README.md", "")
        self.write("csrc/module.cpp", MODULE_CPP)
        self.set_answer(42)
        self.tools.mkdir()
        self.compiler = self.tools / "g++-noting"
        self.compiler.write_text(COMPILER.format(folder=self.tools))
        self.compiler.chmod(0o755)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def set_answer(self, number):
        """Changes the header, and with it ``answer`` in the compiled module."""
        self.write("csrc/compat.h", f"#pragma once\n#define ANSWER {number}\n")

    def start(self, code, python=sys.executable, **environment):
        """Starts ``python -c code`` outside the checkout, with the checkout on its path."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TORCH_EXT")}
        return subprocess.Popen(
            [python, "-c", code],
            cwd=self.tools,
            env={
                **inherited,
                "PYTHONPATH": str(self.root),
                "TORCH_EXT_CACHE": str(self.cache),
                "CXX": str(self.compiler),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code="import torch_ext; print(torch_ext._C.answer)", **environment):
        """Runs ``code`` to its end and returns (stdout, stderr). Fails if it fails."""
        process = self.start(code, **environment)
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        return output, errors

    def import_error(self, before="", **environment):
        """The message of the ImportError that importing torch_ext raises, after the code ``before``."""
        code = f"{before}\ntry:\n    import torch_ext\nexcept ImportError as error:\n    print(error)\nelse:\n    1 / 0"
        return self.run(code, **environment)[0]

    def build_in_place(self, python=sys.executable):
        """Builds ahead of time, beside the package."""
        subprocess.run(
            [python, "setup.py", "--quiet", "build_ext", "--inplace"],
            cwd=self.root,
            check=True,
            capture_output=True,
        )
        (extension,) = (self.root / "torch_ext").glob("_C.*.so")
        return extension

    def compilations(self):
        """How many source files were compiled with ``compiler``."""
        notes = self.tools / "compilations"
        return len(notes.read_text().splitlines()) if notes.exists() else 0

    def block_compiler(self):
        (self.tools / "block").touch()

    def unblock_compiler(self):
        (self.tools / "block").unlink()

    def wait_until_compiling(self, process):
        while self.compilations() == 0:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
