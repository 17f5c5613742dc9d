# SPDX-License-Identifier: BSD-3-Clause
"""torch.jit's tracer: what is being recorded, and recording by hand.

The graphs, values, tracing states and source ranges are torch's own types. A call of a custom Function that
is traced becomes a node ``prim::PythonOp`` of the graph, as with torch, whether ``torch.jit.trace``, the ONNX
exporter or this module traces.
"""

# All of it is C++: no frame of this module gets into the source that a node notes, the caller's.
from ._C import (
    create_graph_by_tracing,
    create_graph_by_tracing_with_dict,
    get_tracing_state,
    get_value_trace,
    set_tracing_state,
    set_value_trace,
    source_range,
)

__all__ = [
    "create_graph_by_tracing",
    "create_graph_by_tracing_with_dict",
    "get_tracing_state",
    "get_value_trace",
    "set_tracing_state",
    "set_value_trace",
    "source_range",
]
