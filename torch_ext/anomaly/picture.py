# SPDX-License-Identifier: BSD-3-Clause
"""The graph around a failing node as a picture, drawn by Graphviz."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .facts import Edge, Neighbour
from .places import wrapped

# Distinct to the colour-blind too; the labels say the same in words.
_FAILING = 'fillcolor="#D55E00" fontcolor="white"'
_BORN = 'color="#0072B2" penwidth=3'
_EDGE_WORDS = {"nan": "NaN", "infinite": "infinite", "loss": "", "exception": "invalid", "no_grad": ""}
_NODE_WORDS = {
    "nan": "gave NaN",
    "infinite": "gave infinite values",
    "loss": "was not finite",
    "forward": "returned values that are not finite",
    "saved": "has saved what has changed",
    "exception": "failed",
    "no_grad": "",
}
_BAD_EDGE = 'color="#D55E00" fontcolor="#D55E00" penwidth=2'


def draw(dot: str, path: str | os.PathLike[str]) -> None:
    """Writes the picture of a graph in Graphviz's language to ``path``: see :meth:`Report.draw`."""
    path = Path(path)
    source = dot.encode()
    if path.suffix in (".dot", ".gv"):
        path.write_bytes(source)
        return
    if not path.suffix:
        raise ValueError(f"the suffix of {str(path)!r} has to name a format: .svg, .png, .pdf ...")
    program = shutil.which("dot")
    if program is None:
        raise RuntimeError(
            "drawing needs Graphviz, whose program dot was not found: install it (apt install graphviz, "
            "brew install graphviz, conda install graphviz), or draw to a file named *.dot, which needs nothing"
        )
    # Written only when all of it is there.
    done = subprocess.run([program, f"-T{path.suffix[1:]}"], input=source, capture_output=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"Graphviz could not draw {str(path)!r}: {done.stderr.decode(errors='replace').strip()}")
    path.write_bytes(done.stdout)


def to_dot(
    error: str,
    found: str,
    output_index: int | None,
    neighbours: tuple[Neighbour, ...],
    edges: tuple[Edge, ...],
    remarks: Sequence[str] = (),
) -> str:
    """The graph in Graphviz's language; edges point as gradients flow.

    The arguments are a report's, and lines to be written into the failing node.
    """
    lines = [
        "digraph {",
        f"  label={quote(wrapped(error.partition(chr(10))[0]))} labelloc=t fontname=Helvetica",
        '  node [shape=box style="rounded,filled" fillcolor=white fontname=Helvetica]',
        "  edge [fontname=Helvetica fontsize=10]",
    ]
    for index, node in enumerate(neighbours):
        style = " ".join([_FAILING] * node.failing + [_BORN] * node.born)
        lines.append(f"  {index} [label={quote(_label(node, found, remarks))} {style}]")
    word = _EDGE_WORDS.get(found)  # None if nothing is wrong with a gradient
    for edge in edges:
        bad = word is not None and neighbours[edge.start].failing and edge.output == output_index
        lines.append(f"  {edge.start} -> {edge.end}" + (f" [label={word} {_BAD_EDGE}]" if bad else ""))
    return "\n".join([*lines, "}", ""])


def _label(node: Neighbour, found: str, remarks: Sequence[str]) -> str:
    lines = [node.name]
    if node.failing:
        lines.append(_NODE_WORDS[found])
    if node.born:
        lines.append("first values not finite")
    if node.place is not None:
        lines += [f"{os.path.basename(node.place.file)}:{node.place.line} {node.place.function}", node.place.source]
    if node.failing:
        lines += remarks
    return "\n".join(filter(None, lines))


def quote(text: str) -> str:
    """``text`` as a string of Graphviz's language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
