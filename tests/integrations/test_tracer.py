# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.tracer, next to what torch._C has for it."""

import gc
import re
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch
from harness import scenario, torch_is_since
from harness.small_functions import make_doubler, make_product, make_square
from traced_graphs import graph_text, record_calls

import torch_ext
from torch_ext import tracer

TORCH = SimpleNamespace(
    create_graph_by_tracing=torch._C._create_graph_by_tracing,
    get_tracing_state=torch._C._get_tracing_state,
    set_tracing_state=torch._C._set_tracing_state,
    get_value_trace=torch._C._get_value_trace,
    set_value_trace=torch._C._set_value_trace,
)


def unnamed(tensor):
    return ""


def tracer_of(s):
    """torch's functions on stock; torch_ext.tracer otherwise."""
    return tracer if s.Function is torch_ext.Function or torch_ext.is_installed() else TORCH


def record_graph(s, label, func, inputs, lookup=unnamed, strict=True, force_outplace=False, **options):
    """Record the graph and the outputs of tracing by hand, or the error."""
    create = tracer_of(s).create_graph_by_tracing
    try:
        graph, outputs = create(func, inputs, lookup, strict, force_outplace, **options)
    except Exception as error:
        s.record(f"{label}: raised", f"{type(error).__name__}: {graph_text(error)}")
    else:
        s.record(f"{label}: graph", graph_text(graph))
        record_calls(s, label, graph)
        s.record(f"{label}: outputs", outputs)
    s.record(f"{label}: tracing afterwards", torch._C._get_tracing_state() is not None)


@scenario
def graphs_made_by_hand(s):
    square, product = make_square(s.Function), make_product(s.Function)
    x, y = s.randn(3, requires_grad=True), s.randn(3)
    record_graph(s, "one", square.apply, [x])
    record_graph(s, "two", lambda a, b: product.apply(a, b) + 1, (x, y), argument_names=["left", "right"])
    record_graph(s, "the same tensor twice", product.apply, [x, x])
    record_graph(s, "a tuple", lambda pair: product.apply(*pair), [(x, y)])
    record_graph(s, "a list", lambda tensors: product.apply(*tensors), [[x, y]])
    record_graph(s, "a dict", lambda tensors: product.apply(tensors["x"], tensors["y"]), [{"x": x, "y": y}])
    record_graph(s, "nothing", lambda: torch.ones(2), [])
    record_graph(s, "nested result", lambda a: (square.apply(a), (a + 1, [a, a])), [x], strict=False)


@scenario
def names_of_variables(s):
    square = make_square(s.Function)
    asked = []

    def lookup(tensor):
        asked.append(tuple(tensor.shape))
        return f"variable_{len(asked)}"

    record_graph(s, "named", lambda a: square.apply(a) + a, [s.randn(2)], lookup)
    s.record("asked", asked)

    def fails(tensor):
        raise KeyError("lookup")

    record_graph(s, "lookup raises", lambda a: a + 1, [s.randn(2)], fails)
    record_graph(s, "lookup gives no text", lambda a: a + 1, [s.randn(2)], lambda tensor: None)


@scenario
def strict_and_force_outplace(s):
    Doubles = make_doubler(s.Function)

    def body(x):
        return Doubles.apply(x * 1).add_(1)

    for strict in (True, False):
        record_graph(s, f"strict {strict}", lambda x: [x, x + 1], [s.randn(2)], strict=strict)
    for force_outplace in (True, False):
        record_graph(s, f"outplace {force_outplace}", body, [s.randn(2)], force_outplace=force_outplace)


@scenario
def results_that_cannot_be_traced(s):
    class Thing:
        def __str__(self):
            return "a thing"

    for name, result in (("none", None), ("number", 3), ("object", Thing()), ("text", "text"), ("empty list", [])):
        record_graph(s, name, lambda x: result, [s.randn(2)])
    record_graph(s, "number in", lambda x: x, [3])

    def fails(x):
        raise ValueError("in the traced function")

    record_graph(s, "raises", fails, [s.randn(2)])


@scenario
def parameters_of_a_script_module(s):
    module = torch.jit.script(torch.nn.Linear(2, 2, bias=False))
    square = make_square(s.Function)
    record_graph(s, "module", lambda x: square.apply(x @ module.weight), [s.randn(2)], self=module._c)


@scenario
def state_of_the_trace(s):
    t = tracer_of(s)
    square = make_square(s.Function)

    def body(x):
        state = t.get_tracing_state()
        s.record("state", type(state), state is torch._C._get_tracing_state(), torch.jit.is_tracing())
        state.push_scope("outer")
        state.push_scope("inner")
        s.record("scope", state.current_scope())
        y = square.apply(x)
        state.pop_scope()
        s.record("scope", state.current_scope())
        y = y + 1
        state.pop_scope()
        s.record("graph so far", graph_text(state.graph()), graph_text(state))
        t.set_tracing_state(None)
        z = y.exp()
        s.record("none", t.get_tracing_state(), torch.jit.is_tracing())
        t.set_tracing_state(state)
        return y * z

    record_graph(s, "scopes", body, [s.randn(2)])
    s.record("outside", t.get_tracing_state())


@scenario
def values_of_tensors(s):
    t = tracer_of(s)
    square = make_square(s.Function)

    def body(x):
        y = square.apply(x)
        value = t.get_value_trace(y)
        s.record("value", str(value), value.debugName(), value.type().annotation_str, value.requires_grad())
        s.record("the same object", value is torch._C._get_value_trace(y), type(value) is torch._C.Value)
        s.record("a constant", str(t.get_value_trace(s.tensor([1.0]))))
        s.outcome("one that requires grad", t.get_value_trace, s.tensor([1.0], requires_grad=True))
        other = x * 3
        t.set_value_trace(other, value)
        kept.append(value)
        return other + y

    kept = []
    record_graph(s, "values", body, [s.randn(2)])
    gc.collect()
    s.raises("value of a graph that is gone", kept[0].debugName)


@scenario
def value_of_a_dead_graph(s):
    t = tracer_of(s)
    values = []
    t.create_graph_by_tracing(lambda x: values.append(t.get_value_trace(x)) or x, [s.randn(1)], unnamed, True, False)
    gc.collect()
    record_graph(s, "set", lambda x: t.set_value_trace(x, values[0]), [s.randn(1)])


@scenario
def traces_on_two_threads(s):
    square = make_square(s.Function)
    barrier = threading.Barrier(2)
    graphs = {}

    def trace(name, factor):
        def body(x):
            barrier.wait()
            y = square.apply(x) * factor
            barrier.wait()
            return y

        graphs[name] = tracer_of(s).create_graph_by_tracing(body, [torch.ones(1)], unnamed, True, False)[0]

    threads = [threading.Thread(target=trace, args=(name, name)) for name in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in (2, 3):
        s.record(f"thread {name}", graph_text(graphs[name]))


@scenario
def what_a_trace_keeps_alive(s):
    class Lookup:
        def __call__(self, tensor):
            return ""

    states, lookup, result = [], Lookup(), s.randn(2)
    refs = weakref.ref(lookup), weakref.ref(result)

    def body(x, result=result):
        states.append(torch._C._get_tracing_state())
        return x + result

    tracer_of(s).create_graph_by_tracing(body, [s.randn(2)], lookup, True, False)
    s.record("graph of the state", graph_text(states[0].graph()))
    del lookup, result, body
    s.alive("lookup, by the state", refs[0])
    s.alive("tensor from outside", refs[1])
    states.clear()
    s.alive("lookup", refs[0])


@pytest.mark.parametrize("names", [["x", "y"], ["y", "x"], ["x"], ["missing", "y", "x"]])
def test_inputs_by_name(names):
    product = make_product(torch_ext.Function)
    inputs = {"y": torch.ones(3), "x": torch.zeros(3)}
    graph, (output,) = tracer.create_graph_by_tracing_with_dict(product.apply, inputs, argument_names=names)
    found = [name for name in names if name in inputs]
    assert [value.debugName() for value in graph.inputs()] == found
    assert torch.equal(output, torch.zeros(3))
    (call,) = graph.findAllNodes("prim::PythonOp")
    assert call.pyname() == "Product"


def test_inputs_by_name_are_those_of_torch():
    def function(y, x):
        return x - y

    inputs = {"x": torch.zeros(3), "y": torch.ones(3)}
    ours, _ = tracer.create_graph_by_tracing_with_dict(function, inputs, argument_names=["y", "x"])
    theirs = torch.jit.trace(function, example_kwarg_inputs=inputs, check_trace=False).graph
    assert str(ours) == str(theirs)


def test_source_range_is_where_the_caller_is():
    def here():
        return tracer.source_range()

    found = here()
    line = here.__code__.co_firstlineno + 1
    assert type(found) is torch._C._jit_tree_views.SourceRange
    first, second, *_ = found.highlight().splitlines()
    assert first == f"{__file__}({line}): here"
    assert second == f"{__file__}({line + 2}): test_source_range_is_where_the_caller_is"


def test_source_of_a_traced_call_names_the_users_line():
    square = make_square(torch_ext.Function)

    def body(x):
        return square.apply(x)

    graph, _ = tracer.create_graph_by_tracing(body, [torch.ones(1)])
    (call,) = graph.findAllNodes("prim::PythonOp")
    torchs, users = call.sourceRange().splitlines()[:2]
    if torch_is_since("2.14"):  # torch's apply is C++
        users = torchs
    else:
        assert re.fullmatch(r".*/torch/autograd/function\.py\(\d+\): apply", torchs)
    assert users == f"{__file__}({body.__code__.co_firstlineno + 1}): body"


NO_TRACE = "no trace is being recorded on this thread. Call it inside the function that is traced."


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: tracer.get_value_trace(torch.ones(1)), RuntimeError, f"get_value_trace: {NO_TRACE}"),
        (lambda: tracer.get_value_trace(3), TypeError, "get_value_trace: expected a Tensor, got int."),
        (lambda: tracer.set_value_trace(3, 4), TypeError, "set_value_trace: expected a Tensor, got int."),
        (
            lambda: tracer.set_tracing_state(3),
            TypeError,
            "set_tracing_state: expected a TracingState or None, got int.",
        ),
        (
            lambda: tracer.create_graph_by_tracing(3, []),
            TypeError,
            "create_graph_by_tracing: func must be callable, got int.",
        ),
        (
            lambda: tracer.create_graph_by_tracing(abs, torch.ones(2)),
            TypeError,
            "create_graph_by_tracing: inputs must be a sequence of values, got Tensor.",
        ),
        (
            lambda: tracer.create_graph_by_tracing(abs, [torch.ones(1)], 3),
            TypeError,
            "create_graph_by_tracing: var_name_lookup_fn must be callable, got int.",
        ),
        (
            lambda: tracer.create_graph_by_tracing(abs, [torch.ones(1)], self=torch.nn.Linear(1, 1)),
            TypeError,
            "create_graph_by_tracing: self must be a script module, got Linear.",
        ),
        (
            lambda: tracer.create_graph_by_tracing(abs, [torch.ones(1)], argument_names="x"),
            TypeError,
            "create_graph_by_tracing: argument_names must be a sequence of str, got str.",
        ),
        (
            lambda: tracer.create_graph_by_tracing_with_dict(abs, {3: torch.ones(1)}),
            TypeError,
            "create_graph_by_tracing_with_dict: inputs_dict must have names as its keys, got 3.",
        ),
    ],
)
def test_wrong_arguments(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == text
    assert tracer.get_tracing_state() is None


def test_value_of_the_wrong_type():
    def body(x):
        with pytest.raises(TypeError, match=r"^set_value_trace: expected a torch.Value, got int.$"):
            tracer.set_value_trace(x, 4)
        return x

    tracer.create_graph_by_tracing(body, [torch.ones(1)])


def test_module_that_is_no_text_is_left_out():
    """torch raises SystemError: it leaves the failed conversion's error set."""

    class Odd(make_square(torch_ext.Function)):
        pass

    Odd.__module__ = 7
    graph, _ = tracer.create_graph_by_tracing(Odd.apply, [torch.ones(1)])
    (call,) = graph.findAllNodes("prim::PythonOp")
    assert "module" not in call.attributeNames()


def test_trace_that_begins_or_ends_in_forward():
    """torch crashes if one begins there: it completes a node that it never created."""

    class Begins(torch_ext.Function):
        @staticmethod
        def forward(ctx, x, state):
            tracer.set_tracing_state(state)
            return x * 2

    class Ends(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            tracer.set_tracing_state(None)
            return x * 2

    def body(x):
        state = tracer.get_tracing_state()
        tracer.set_tracing_state(None)
        began = Begins.apply(x, state)
        ended = Ends.apply(x)
        assert tracer.get_tracing_state() is None
        tracer.set_tracing_state(state)
        return began + ended

    graph, _ = tracer.create_graph_by_tracing(body, [torch.ones(1)])
    assert [node.pyname() for node in graph.findAllNodes("prim::PythonOp")] == ["Ends"]


def test_defaults():
    graph, (output,) = tracer.create_graph_by_tracing(torch.neg, [torch.ones(2)])
    assert torch.equal(output, -torch.ones(2))
    assert [value.debugName() for value in graph.inputs()] == ["0"]
    with pytest.raises(RuntimeError, match="Encountering a dict at the output of the tracer"):
        tracer.create_graph_by_tracing(lambda x: {"x": x}, inputs=[torch.ones(2)])


def test_script_module_and_the_module_behind_it():
    module = torch.jit.script(torch.nn.Linear(2, 2, bias=False))
    graphs = [
        str(tracer.create_graph_by_tracing(lambda x: x @ module.weight, [torch.ones(2)], self=each)[0])
        for each in (module, module._c)
    ]
    assert graphs[0] == graphs[1]
    assert 'GetAttr[name="weight"]' in graphs[0]


def test_many_threads_run_one_traced_function():
    """torch copies graphs without the GIL when it prepares to run them; our nodes take it to count references."""
    square, scalar = make_square(torch_ext.Function), object()

    class Takes(torch_ext.Function):
        @staticmethod
        def forward(ctx, x, scalar):
            return square.apply(x)

    for _ in range(5):
        traced = torch.jit.trace(lambda x: Takes.apply(x, scalar) + 1, torch.ones(1), check_trace=False)
        results = []
        threads = [threading.Thread(target=lambda: results.append(traced(torch.full((1,), 2.0)))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [result.item() for result in results] == [5.0] * 8
