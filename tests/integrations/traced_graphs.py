# SPDX-License-Identifier: BSD-3-Clause
"""Graphs of torch.jit as text, for scenarios to record."""

import re

import torch


def graph_text(graph):
    """A graph, or a message with graphs in it, without the numbers that torch gives to names used before."""
    return re.sub(r"___torch_mangle_\d+\.?", "", str(graph))


def own_lines(text):
    """The lines of a text with a whole Python stack in it, without the places that belong to the runner."""
    return [
        line
        for line in str(text).splitlines()
        if not re.search(r"\S+\(\d+\): ", line) or "/integrations/" in line or "/autograd/function.py" in line
    ]


def record_calls(s, label, graph):
    """Record everything about the nodes that call Python, and the graphs inside them."""
    for node in graph.findAllNodes("prim::PythonOp"):
        names = node.attributeNames()
        s.record(
            f"{label}: call of {node.pyname()}",
            {
                "cconv": node.cconv(),
                "scalars": node.scalar_args(),
                "names": names,
                "inplace": node.i("inplace") if "inplace" in names else None,
                "module": node.s("module") if "module" in names else None,
                "scope": node.scopeName(),
                "types": [value.type().annotation_str for value in node.outputs()],
                "callable": callable(node.pyobj()) and node.pyobj().__name__,
                "class": node.pyobj().__self__.__qualname__,
                "is a Function": issubclass(node.pyobj().__self__, torch.autograd.Function),
                "source": _source(node),
            },
        )
        if "Subgraph" in names:
            subgraph = node.g("Subgraph")
            s.record(f"{label}: graph in {node.pyname()}", graph_text(subgraph))
            record_calls(s, f"{label}, {node.pyname()}", subgraph)


def _source(node):
    """The stack of a call: its first line, and those of the scenario itself."""
    first, *others = node.sourceRange().splitlines()
    return [first, *own_lines("\n".join(others))]
