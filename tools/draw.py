# SPDX-License-Identifier: BSD-3-Clause
"""Draws the pictures of the documentation: ``python -m tools.draw`` makes docs/NAME.svg of each docs/NAME.dot.

Needs Graphviz. docs/find_nan.svg is not one of them: examples/find_nan.py writes it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def main():
    if shutil.which("dot") is None:
        sys.exit("Graphviz is needed and its program dot was not found: apt-get install graphviz")
    for source in sorted(DOCS.glob("*.dot")):
        picture = source.with_suffix(".svg")
        subprocess.run(["dot", "-Tsvg", source, "-o", picture], check=True)
        print(picture.relative_to(DOCS.parent))


if __name__ == "__main__":
    main()
