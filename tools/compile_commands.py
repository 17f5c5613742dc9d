# SPDX-License-Identifier: BSD-3-Clause
"""How each file of csrc is compiled alone: for editors, and for ``tools.syntax``.

``python -m tools.compile_commands`` writes compile_commands.json, which clangd reads.
"""

import importlib.util
import json
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def load_config():
    """torch_ext/_build/config.py by its path, since the package can't be imported before csrc compiles."""
    spec = importlib.util.spec_from_file_location("config", ROOT / "torch_ext" / "_build" / "config.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(csrc):
    """The compiler and its flags, as for a build by make."""
    config = load_config()
    return [os.environ.get("CXX", "c++"), config.STRICT, *config.compile_command(csrc)]


def compile_commands(csrc=ROOT / "csrc"):
    """An entry of compile_commands.json for each .cpp file in ``csrc``."""
    arguments = command(csrc)
    return [
        {"directory": str(ROOT), "file": str(path), "arguments": [*arguments, "-c", str(path)]}
        for path in sorted(csrc.rglob("*.cpp"))
    ]


def main():
    (ROOT / "compile_commands.json").write_text(json.dumps(compile_commands(), indent=1) + "\n")


if __name__ == "__main__":
    main()
