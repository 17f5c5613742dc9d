# SPDX-License-Identifier: BSD-3-Clause
"""What the exception of a failed backward and last_report() say."""

import copy
import gc
import json
import logging
import pickle
import subprocess
import sys
import threading
import weakref

import cloudpickle
import dill
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import torch_ext
from torch_ext import anomaly
from torch_ext.anomaly import facts, failures
from torch_ext.anomaly import report as report_module


@pytest.fixture(autouse=True)
def quiet(recwarn):
    """Failing backwards warn; the parity scenarios look at that."""
    # In another test C++ code may have called a backward that failed, so nobody has seen its end.
    failures._unfinished.clear()
    yield
    assert not failures._unfinished
    assert not torch.is_anomaly_enabled()


def fail(backward, **options):
    """The exception that backward() raises in anomaly mode, and the report on it."""
    with (
        torch_ext.anomaly.set_detect_anomaly(True, **options),
        pytest.raises(Exception) as raised,  # noqa: PT011 (it is returned)
    ):
        backward()
    return raised.value, anomaly.last_report()


def make_function(backward_of):
    class Custom(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return backward_of(ctx, grad)

    return Custom.apply


def raise_key_error(ctx, grad):
    raise KeyError("from backward")


def zeros(*shape):
    return torch.zeros(*shape, requires_grad=True)


def root_of(x):
    return x.sqrt()  # has no finite derivative at 0


def nan_at_zero():
    return (root_of(zeros(2)) * 0).sum()


def test_names_what_failed():
    error, report = fail(lambda: nan_at_zero().backward())
    assert report.node_name == "SqrtBackward0"
    assert (report.found, report.output_index) == ("nan", 0)
    assert report.error == f"RuntimeError: {error}"
    assert report.path == ("SumBackward0", "MulBackward0", "SqrtBackward0")
    assert (report.parents, report.enclosing) == ((), ())


def test_frames_end_where_forward_called_the_operator():
    _, report = fail(lambda: nan_at_zero().backward())
    *_, caller, last = report.frames
    assert (last.file, last.function) == (__file__, "root_of")
    assert last.source == "return x.sqrt()  # has no finite derivative at 0"
    assert last.line == root_of.__code__.co_firstlineno + 1
    assert (caller.function, caller.source) == ("nan_at_zero", "return (root_of(zeros(2)) * 0).sum()")


def test_notes_hold_the_forward_traceback_once():
    error, _ = fail(lambda: nan_at_zero().backward())
    note, birth = error.__notes__
    assert birth == (
        "All values that SqrtBackward0 was given and returned in forward were finite: the NaN arose in backward."
    )
    head, _, rest = note.partition("\n")
    assert head == "Forward call that made SqrtBackward0, whose backward failed (most recent call last):"
    assert rest.startswith("  File ")
    assert note.endswith("in root_of\n    return x.sqrt()  # has no finite derivative at 0")


def test_logging_shows_the_notes():
    error, _ = fail(lambda: make_function(raise_key_error)(zeros(2)).sum().backward())
    text = logging.Formatter().formatException((type(error), error, error.__traceback__))
    assert text.endswith(error.__notes__[-1])


def test_second_output():
    one, inf = (torch.tensor([value], requires_grad=True) for value in (1.0, float("inf")))
    for inputs, output in ((one, inf), 0), ((inf, one), 1):
        _, report = fail(lambda: (torch.mul(*inputs) * 0).sum().backward())
        assert (report.node_name, report.found, report.output_index) == ("MulBackward0", "nan", output)


def test_exception_of_a_function():
    error, report = fail(lambda: make_function(raise_key_error)(zeros(2)).sum().backward(), check_nan=False)
    assert type(error) is KeyError
    assert (report.node_name, report.found, report.output_index) == ("CustomBackward", "exception", None)
    assert report.error == "KeyError: 'from backward'"
    assert report.path == ("SumBackward0", "CustomBackward")
    assert report.born is None
    assert len(error.__notes__) == 1


def test_gradient_of_the_wrong_shape():
    wrong = make_function(lambda ctx, grad: grad.new_ones(7))
    _, report = fail(lambda: wrong(zeros(2)).sum().backward())
    assert (report.node_name, report.found, report.output_index) == ("CustomBackward", "exception", 0)


def test_error_raised_in_cpp():
    def backward():
        middle = zeros(2) * 2
        y = middle.exp()
        y.add_(1)
        y.sum().backward()

    error, report = fail(backward)
    assert (report.node_name, report.found) == ("ExpBackward0", "exception")
    assert "modified by an inplace operation" in report.error
    assert report.modified.saved == "result"
    assert len(error.__notes__) == 2


def test_exception_that_forbids_attributes():
    class Frozen(Exception):
        def __setattr__(self, name, value):
            raise AttributeError(name)

    def raise_frozen(ctx, grad):
        raise Frozen

    error, report = fail(lambda: make_function(raise_frozen)(zeros(2)).sum().backward())
    assert "made CustomBackward" in error.__notes__[0]
    assert report.node_name == "CustomBackward"


def test_ctx_attributes_named_as_those_of_nodes():
    class Shadows(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.name = ctx.variable = ctx.frames = "the user's"
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("nan")

    _, report = fail(lambda: (Shadows.apply(zeros(2)) * 2).sum().backward())
    assert report.path == ("SumBackward0", "MulBackward0", "ShadowsBackward")


def test_keeps_the_users_notes():
    def raise_with_note(ctx, grad):
        error = KeyError("from backward")
        error.__notes__ = ["the user's"]
        raise error

    error, _ = fail(lambda: make_function(raise_with_note)(zeros(2)).sum().backward())
    assert error.__notes__[0] == "the user's"
    assert len(error.__notes__) == 2


def test_made_outside_anomaly_mode():
    y = nan_at_zero()
    error, report = fail(y.backward)
    assert report.frames == ()
    assert error.__notes__[0] == (
        "The forward call that made SqrtBackward0, whose backward failed, is not known: it ran outside anomaly mode."
    )


def test_parents_in_double_backward():
    x = torch.full((1,), 2.0, requires_grad=True)

    def backward():
        (first,) = torch.autograd.grad((x**4).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
        second.register_hook(lambda grad: grad * float("nan"))
        second.sum().backward()

    error, report = fail(backward)
    assert len(report.parents) == 2
    assert report.parents[-1].name == "PowBackward0"
    sources = [frame.source for frame in report.parents[-1].frames if frame.file == __file__]
    assert sources[-1] == "(first,) = torch.autograd.grad((x**4).sum(), x, create_graph=True)"
    child, parent, grandparent = error.__notes__[:3]
    middle = report.parents[0].name
    assert parent.startswith(f"Forward call that made {middle}, whose backward made {report.node_name} ")
    assert grandparent.startswith(f"Forward call that made PowBackward0, whose backward made {middle} ")


def test_inner_backward_is_the_one_that_failed():
    def backward():
        checkpoint(lambda x: root_of(x) * 0, zeros(2) * 1, use_reentrant=True).sum().backward()

    error, report = fail(backward)
    assert report.node_name == "SqrtBackward0"
    assert [each.name for each in report.enclosing] == ["CheckpointFunctionBackward"]
    made = "Forward call that made "
    notes = [note.partition(" (most")[0].removeprefix(made) for note in error.__notes__ if note.startswith(made)]
    assert notes == [
        "SqrtBackward0, whose backward failed",
        "CheckpointFunctionBackward, whose backward made SqrtBackward0",
        "CheckpointFunctionBackward, whose backward failed",
    ]


def test_inner_failure_that_was_handled_is_not_the_outer_ones():
    def handle(ctx, grad):
        with torch.enable_grad(), pytest.raises(RuntimeError):
            nan_at_zero().backward()
        raise KeyError("another")

    error, report = fail(lambda: make_function(handle)(zeros(2)).sum().backward())
    assert (report.node_name, report.enclosing) == ("CustomBackward", ())
    assert len(error.__notes__) == 1


def test_root_that_no_node_stands_for():
    x, nan = torch.ones(2, requires_grad=True), torch.full((2,), float("nan"))
    error, report = fail(lambda: torch.autograd.backward([x * 2, x * 3], [nan, nan]))
    assert "GraphRoot" in report.node_name
    assert (report.found, report.path, report.neighbours) == ("nan", (), ())
    assert report.born.tensor == "the gradient that backward was called with"
    assert len(error.__notes__) == 2


def test_gradient_edges_as_roots():
    def backward():
        y = root_of(zeros(1)) * 0
        torch.autograd.backward(torch.autograd.graph.get_gradient_edge(y), torch.ones(1))

    _, report = fail(backward)
    assert report.path == ("MulBackward0", "SqrtBackward0")


def test_a_root_that_may_have_no_node_any_more(caplog):
    base = torch.ones(2, requires_grad=True).clone()
    with torch.no_grad():
        view = base[:1]
    base.mul_(2)
    with anomaly.detect_anomaly(), pytest.raises(RuntimeError, match="view was created in no_grad mode"):
        view.backward(torch.ones(1))
    assert "could not report" not in caplog.text


def test_a_report_makes_no_node():
    def sequence_numbers(detect_anomaly):
        leaf = torch.ones(2, requires_grad=True)
        before = (leaf * 1).grad_fn._sequence_nr()
        with detect_anomaly(), pytest.raises(RuntimeError):
            leaf.backward(torch.ones(2, device="meta"))
        return (leaf * 1).grad_fn._sequence_nr() - before

    assert sequence_numbers(anomaly.detect_anomaly) == sequence_numbers(torch.autograd.detect_anomaly) == 1


def test_backward_that_never_starts_is_not_reported():
    _, before = fail(lambda: nan_at_zero().backward())
    error, report = fail(lambda: zeros(2).backward())
    assert report is before
    assert not hasattr(error, "__notes__")


def test_preserved_node_meta_is_read_as_frames():
    graph = torch.fx.Graph()
    node = graph.placeholder("x")
    node.meta["stack_trace"] = '  File "model.py", line 7, in forward\n    return x.sqrt()\n'

    def backward():
        with torch.fx.traceback.preserve_node_meta(), torch.fx.traceback.set_current_meta(node):
            y = root_of(zeros(1))
        (y * 0).sum().backward()

    _, report = fail(backward)
    assert report.frames == (facts.Frame("model.py", 7, "forward", "return x.sqrt()"),)


def test_installed_reports_for_torchs_own_context():
    with torch_ext.installed(), torch.autograd.set_detect_anomaly(True), pytest.raises(RuntimeError) as raised:
        nan_at_zero().backward()
    assert "made SqrtBackward0" in raised.value.__notes__[0]
    assert anomaly.last_report().frames[-1].function == "root_of"


def test_threads_report_their_own_failures():
    start = threading.Barrier(4)
    seen = {}

    def run(number):
        names = {}
        exec(f"def forward_{number}(x):\n    return (x.sqrt() * 0).sum()\n", names)
        for _ in range(20):
            x = zeros(1)
            start.wait()
            try:
                names[f"forward_{number}"](x).backward()
            except RuntimeError as error:
                seen.setdefault(number, set()).add(error.__notes__[0].splitlines()[-1])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    with anomaly.set_detect_anomaly(True):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {number: [line.split()[-1] for line in lines] for number, lines in seen.items()} == {
        number: [f"forward_{number}"] for number in range(4)
    }


def test_to_json():
    _, report = fail(lambda: nan_at_zero().backward())
    data = json.loads(report.to_json())
    assert data["node_name"] == "SqrtBackward0"
    assert data["frames"][-1] == {
        "file": __file__,
        "line": root_of.__code__.co_firstlineno + 1,
        "function": "root_of",
        "source": "return x.sqrt()  # has no finite derivative at 0",
    }
    assert set(data) == set(vars(report))
    assert "\n" not in report.to_json(indent=None)


def test_report_is_plain_data():
    _, report = fail(lambda: nan_at_zero().backward())
    assert pickle.loads(pickle.dumps(report)) == report


@pytest.mark.parametrize("pickler", [pickle, cloudpickle, dill], ids=lambda module: module.__name__)
@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
def test_the_exception_is_read_where_torch_ext_is_missing(pickler, nested):
    def backward():
        if nested:
            checkpoint(lambda x: root_of(x) * 0, zeros(2) * 1, use_reentrant=True).sum().backward()
        else:
            nan_at_zero().backward()

    error, report = fail(backward)
    assert len(report.enclosing) == nested
    read = """if True:
        import pickle, sys
        sys.modules["torch_ext"] = None
        error = pickle.load(sys.stdin.buffer)
        print(type(error).__name__, error, *error.__notes__, sep="\\n", end="")
    """
    done = subprocess.run([sys.executable, "-c", read], input=pickler.dumps(error), capture_output=True, check=True)
    assert done.stdout.decode() == "\n".join(["RuntimeError", str(error), *error.__notes__])


def test_the_exception_carries_plain_data():
    error, _ = fail(lambda: nan_at_zero().backward())
    assert {type(value) for value in vars(error).values()} <= {str, list}
    assert {type(note) for note in error.__notes__} == {str}


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_a_copy_of_an_inner_exception_still_belongs_to_its_report(copied):
    def backward_of(ctx, grad):
        try:
            with torch.enable_grad():
                nan_at_zero().backward()
        except RuntimeError as error:
            raise copied(error) from None

    _, report = fail(lambda: make_function(backward_of)(zeros(2)).sum().backward())
    assert report.node_name == "SqrtBackward0"
    assert [each.name for each in report.enclosing] == ["CustomBackward"]


def test_reports_on_old_failures_are_forgotten():
    errors = [fail(lambda: nan_at_zero().backward())[0] for _ in range(report_module._MOST_RECENT + 2)]
    assert len(report_module._recent) == report_module._MOST_RECENT
    assert vars(errors[0])[report_module._KEY] not in report_module._recent
    assert vars(errors[-1])[report_module._KEY] in report_module._recent


def test_report_keeps_no_graph_alive():
    def ref_to_leaf():
        x = zeros(2)
        fail(lambda: (root_of(x) * 0).sum().backward())
        return weakref.ref(x)

    ref = ref_to_leaf()
    gc.collect()
    assert anomaly.last_report().node_name == "SqrtBackward0"
    assert ref() is None


def test_a_report_that_fails_hides_nothing(monkeypatch, caplog):
    def broken(roots):
        raise ZeroDivisionError

    monkeypatch.setattr(failures, "reachable", broken)
    with anomaly.set_detect_anomaly(True), pytest.raises(RuntimeError, match="returned nan values"):
        nan_at_zero().backward()
    assert "could not report" in caplog.text
    failures._unfinished.clear()


def test_neighbours_are_placed_in_code_outside_torch():
    _, report = fail(lambda: (root_of(torch.nn.functional.gelu(zeros(1))) ** 1.5 * 0).sum().backward())
    places = {each.name: each.place for each in report.neighbours}
    assert places["SqrtBackward0"].function == "root_of"
    assert places["PowBackward0"].file == __file__  # created by a Python wrapper inside torch
    assert places["PowBackward0"].function == "<lambda>"
    edges = {(report.neighbours[edge.start].name, report.neighbours[edge.end].name) for edge in report.edges}
    assert edges > {("PowBackward0", "SqrtBackward0"), ("SqrtBackward0", "GeluBackward0")}


def test_picture_of_a_wide_graph_stays_small():
    def backward():
        x = zeros(100)
        torch.stack([root_of(each) for each in x.unbind()]).mul(0).sum().backward()

    _, report = fail(backward)
    assert len(report.neighbours) == 24
    assert [each.name for each in report.neighbours if each.failing] == ["SqrtBackward0"]


def test_deep_graph():
    def backward():
        y = root_of(zeros(1))
        for _ in range(5000):
            y = y * 1
        (y * 0).sum().backward()

    _, report = fail(backward)
    assert len(report.path) == 5003


def test_failures_that_never_leave_backward_do_not_pile_up():
    kept = [{"traceback_": []} for _ in range(100)]
    for metadata in kept:
        failures.record(metadata, "MulBackward0", None, None)
    assert len(failures._unfinished) == failures._MOST_UNFINISHED
    assert list(failures._unfinished)[-1] == id(kept[-1])
    failures._unfinished.clear()


def test_a_failure_whose_end_nobody_saw_is_not_taken_for_a_later_one():
    failures.record({"traceback_": []}, "MulBackward0", None, None)  # as of a backward that C++ code called
    _, report = fail(lambda: torch.ones(3).sum().backward())
    assert report.found == "no_grad"
    assert not failures._unfinished
