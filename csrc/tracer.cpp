// One translation unit: parsing torch's headers takes longer than compiling these.
#include <tracer/bindings.cpp>
#include <tracer/create_graph.cpp>
#include <tracer/infer.cpp>
#include <tracer/inline_subgraph.cpp>
#include <tracer/python_op.cpp>
#include <tracer/record.cpp>
#include <tracer/source_range.cpp>
#include <tracer/trace_arguments.cpp>
