# SPDX-License-Identifier: BSD-3-Clause
"""check_nan="forward": the first node whose output is not finite is named when it is made.

A row is a program. The line that must be named, and that must raise, has the comment "first"; the node that must be
named stands beside it. What the report says of it is ``PRODUCED`` or ``GIVEN``, as in test_anomaly_origins.py.
"""

import json
import linecache
import threading
import traceback

import pytest
import test_anomaly_origins as origins
import torch
from test_anomaly_origins import GIVEN, INF, NAN, ORIGINS, PRODUCED, leaf
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import torch_ext
from torch_ext import anomaly

ROWS = []


def first(node, verdict=PRODUCED, **options):
    """Makes a function a row: the node and the verdict that its report must have, in a mode with these options."""

    def add(row):
        ROWS.append(pytest.param(row, node, verdict, options, id=row.__name__))
        return row

    return add


class Log(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2, x.log()

    @staticmethod
    def backward(ctx, doubled, grad):
        return doubled


class TorchsLog(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2, x.log()

    @staticmethod
    def backward(ctx, doubled, grad):
        return doubled


class WithForward(torch_ext.Function):
    """Its backward has a graph of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x - 2).sqrt()  # first


# --- Where the node is made ---------------------------------------------------------------------------


@first("SqrtBackward0")
def plain():
    h = leaf(-1.0, 4.0) * 2
    h.sqrt()  # first


@first("MmBackward0", GIVEN)
def inside_a_composite():
    functional.linear(leaf(1.0, 2.0), torch.tensor([[NAN, 1.0]]))  # first


@first("LogSoftmaxBackward0")
def inside_a_loss():
    functional.cross_entropy(leaf(INF, INF)[None], torch.tensor([1]))  # first


@first("LogBackward0")
def in_place():
    h = leaf(-1.0, 2.0) * 1
    h.log_()  # first


@first("torch::autograd::CopySlices")
def in_place_on_a_view():
    h = leaf(-1.0, 2.0) * 1
    h[:1].log_()  # first


@first("torch::autograd::CopySlices", GIVEN)
def in_place_with_bad_data():
    h = leaf(-1.0, 2.0) * 1
    h[:1].mul_(torch.tensor([NAN]))  # first


@first("ReciprocalBackward0", check_inf=True)
def in_place_by_foreach():
    h = leaf(0.0, 2.0) * 1
    torch._foreach_reciprocal_([h])  # first


@first("CatBackward0", GIVEN)
def result_that_was_data():
    torch.cat([torch.tensor([NAN]), leaf(1.0)])  # first


@first("UnbindBackward0", GIVEN)
def several_results():
    leaf(1.0, NAN).unbind()  # first


@first("LogBackward")
def second_result_of_a_function():
    Log.apply(leaf(-1.0, 2.0) * 1)  # first


@first("TorchsLogBackward")
def second_result_of_torchs_function():
    TorchsLog.apply(leaf(-1.0, 2.0) * 1)  # first


@first("SqrtBackward0")
def module():
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()  # first

    nn.Sequential(nn.Identity(), Root())(leaf(-1.0, 2.0))


@first("TBackward0", GIVEN)
def recurrent_module():
    lstm = nn.LSTM(2, 2)
    with torch.no_grad():
        lstm.weight_hh_l0[0, 0] = NAN
    with torch.backends.mkldnn.flags(enabled=False):  # whose whole layer is one node
        lstm(torch.zeros(1, 1, 2))  # first


@first("SqrtBackward0")
def autocast():
    with torch.autocast("cpu", torch.bfloat16):
        h = functional.linear(torch.ones(2, 2), torch.full((2, 2), -1.0, requires_grad=True))
        h.sqrt()  # first


@first("ToCopyBackward0", check_inf=True)
def made_by_autocast():
    with torch.autocast("cpu", torch.float16):
        functional.linear(torch.ones(2, 2), torch.full((2, 2), 1e6, requires_grad=True))  # first


@first("SqrtBackward0")
def checkpoint_with_hooks():
    def block(x):
        return (x * 2).sqrt() * 3  # first

    checkpoint(block, leaf(-1.0, 2.0), use_reentrant=False)


@first("CheckpointFunctionBackward")
def reentrant_checkpoint():
    checkpoint(lambda x: (x * 2).sqrt(), leaf(-1.0, 2.0), use_reentrant=True)  # first


@first("SqrtBackward0")
def under_no_grad_with_grad():
    with torch.no_grad(), torch.enable_grad():
        leaf(-1.0).sqrt()  # first


@first("SqrtBackward0")
def plain_subclass():
    class Plain(torch.Tensor):
        pass

    leaf(-1.0).as_subclass(Plain).sqrt()  # first


@first("SqrtBackward0")
def thread():
    def work():
        h = leaf(-1.0) * 1
        try:
            h.sqrt()  # first
        except RuntimeError as error:
            errors.append(error)

    errors = []
    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    raise errors[0]


def test_first_node_of_a_thread():
    """What it runs when it is first noticed is looked at with its next operator."""

    def work():
        x = leaf(-1.0)
        h = x.sqrt()
        try:
            h * 2
        except RuntimeError as error:
            errors.append(str(error))

    errors = []
    with anomaly.set_detect_anomaly(True, "forward"):
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
    assert errors == ["The forward call of 'SqrtBackward0' returned nan values in its 0th output."]


# --- In backward --------------------------------------------------------------------------------------


@first("PowBackward0", check_inf=True)
def double_backward():
    x = leaf(0.0, 2.0)
    torch.autograd.grad((x**0.5).sum(), x, create_graph=True)  # first


@first("SqrtBackward0")
def backward_with_a_graph():
    y = WithForward.apply(leaf(1.0, 3.0))
    y.sum().backward(create_graph=True)


@first("SqrtBackward0")
def computed_again_in_backward():
    signs = [1.0, -1.0]

    def block(x):
        return (x * signs.pop(0)).sqrt()  # first

    checkpoint(block, leaf(1.0, 2.0), use_reentrant=True).sum().backward()


# --- Kinds of numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128])
@pytest.mark.parametrize("layout", ["dense", "strided", "scalar"])
@pytest.mark.parametrize("bad, check_inf", [(NAN, False), (-NAN, False), (NAN, True), (INF, True), (-INF, True)])
def test_kinds_of_numbers(dtype, layout, bad, check_inf):
    x = torch.ones(4, 4, dtype=dtype, requires_grad=True)
    factor = torch.ones(4, 4, dtype=dtype)
    factor[2, 2] = bad
    x, factor = {"dense": (x, factor), "strided": (x[::2], factor[::2]), "scalar": (x[0, 0], factor[2, 2])}[layout]
    with anomaly.set_detect_anomaly(True, "forward", check_inf=check_inf), pytest.raises(RuntimeError):
        x * factor
    assert anomaly.last_report().node_name == "MulBackward0"


def test_sparse():
    x = torch.eye(2).to_sparse().requires_grad_()
    with anomaly.set_detect_anomaly(True, "forward"), pytest.raises(RuntimeError, match="returned nan values"):
        x * NAN


# --- The table ----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quiet(recwarn):
    """Failing backwards warn."""


def run(row, **options):
    """Runs a row in the mode. Returns the error and its report."""
    torch.manual_seed(0)
    with anomaly.set_detect_anomaly(True, "forward", **options), pytest.raises(RuntimeError) as raised:
        row()
    # A checkpoint that has raised leaves its hooks in place, on torch 2.11, for as long as its frame lives.
    traceback.clear_frames(raised.tb)
    return raised.value, anomaly.last_report()


def line_of(frames):
    """The source line of the row that is the innermost one."""
    line = [frame.line for frame in frames if frame.file == __file__][-1]
    return linecache.getline(__file__, line)


@pytest.mark.parametrize("row, node, verdict, options", ROWS)
def test_row(row, node, verdict, options):
    error, report = run(row, **options)
    assert report.found == "forward"
    assert (report.node_name, report.born.name) == (node, node)
    assert origins.verdict_of(report) == verdict
    assert line_of(report.frames).endswith("# first\n")
    assert any(line.endswith("# first\n") for line in lines_of(error.__traceback__))
    assert report.error == f"RuntimeError: {error}"
    if row in (double_backward, backward_with_a_graph):
        assert report.parents or report.enclosing


def lines_of(entry):
    """The lines of this file that an error went through."""
    while entry is not None:
        if entry.tb_frame.f_code.co_filename == __file__:
            yield linecache.getline(__file__, entry.tb_lineno)
        entry = entry.tb_next


FINITE_IN_FORWARD = [row for row in ORIGINS if row.values[1] == origins.FINITE]
# The mask itself is infinite on purpose, but not for check_inf; a checkpoint runs without nodes; the gradient is given.
LATER_OR_EARLIER = """softmax_of_a_masked_row softmax_of_a_filled_row attention_with_a_masked_row
logsumexp_of_a_masked_row reentrant_checkpoint checkpoint_with_hooks gradient saved_tensors_with_hooks""".split()


@pytest.mark.parametrize(
    "row, verdict", [row for row in ORIGINS if row not in FINITE_IN_FORWARD and row.id not in LATER_OR_EARLIER]
)
def test_names_what_backward_would_name(row, verdict):
    """The rows of test_anomaly_origins.py: the line is the same, found when it runs."""
    _, report = run(lambda: origins.backward(row), check_inf=True)
    assert report.found == "forward"
    line = [frame.line for frame in report.born.frames if frame.file == origins.__file__][-1]
    assert linecache.getline(origins.__file__, line).endswith("# born\n")
    if verdict in (PRODUCED, GIVEN) and row is not origins.detached:  # whose square root is not: it has a node
        assert origins.verdict_of(report) == verdict


@pytest.mark.parametrize("row, verdict", FINITE_IN_FORWARD)
def test_backward_is_checked_too(row, verdict):
    _, report = run(lambda: origins.backward(row))
    assert (report.found, report.forward) == ("nan", "finite")


# --- What is not minded, or can't be known ------------------------------------------------------------


def masks():
    mask = torch.tensor([[0.0, -INF], [0.0, 0.0]])
    scores = leaf(1.0, 2.0) * torch.ones(2, 2) + mask
    scores.masked_fill(mask < 0, -INF).softmax(-1).sum().backward()


def data():
    x = torch.tensor([NAN, 1.0])
    (x * 2).sqrt()
    torch.where(x.isnan(), leaf(1.0, 2.0), x).sum().backward()


def without_grad():
    with torch.no_grad():
        leaf(-1.0).sqrt()
    with torch.inference_mode():
        leaf(-1.0).sqrt()
    leaf(-1.0).detach().sqrt()


def integers_and_empty():
    torch.empty(0, requires_grad=True).sqrt()
    leaf(1.0, 2.0).argmax()


class Wrapper(torch.Tensor):
    """A tensor whose numbers are another's."""

    @staticmethod
    def __new__(cls, inner):
        self = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, requires_grad=True)
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        CALLS.append(func)
        return cls(func(*(arg.inner if isinstance(arg, cls) else arg for arg in args)))


CALLS = []


def wrapper_subclass():
    CALLS.clear()
    Wrapper(torch.tensor([-1.0])).sqrt()
    assert [torch.ops.aten.sqrt.default, torch.ops.aten.detach.default] == CALLS  # torch saves the result


def functional_transforms():
    torch.func.grad(lambda x: x.sqrt())(torch.tensor(-1.0))
    torch.func.vmap(lambda x: x.sqrt())(leaf(-1.0))


def meta():
    torch.empty(2, device="meta", requires_grad=True).sqrt()


@pytest.mark.parametrize("program", [masks, data, without_grad, integers_and_empty, wrapper_subclass, meta])
def test_not_minded(program):
    with anomaly.set_detect_anomaly(True, "forward"):
        program()


def test_transforms_are_not_looked_into():
    before = anomaly.last_report()
    with anomaly.set_detect_anomaly(True, "forward"):
        torch.func.vmap(lambda x: x.sqrt())(torch.tensor([-1.0]))
    assert anomaly.last_report() is before


def test_compiled():
    """With backend "eager" each operator is seen; a fused region would be one Function."""
    compiled = torch.compile(lambda x: (x * 2).sqrt(), backend="eager")
    with anomaly.set_detect_anomaly(True, "forward"):
        compiled(leaf(1.0))
        with pytest.raises(RuntimeError, match="SqrtBackward0"):
            compiled(leaf(-1.0))


# --- That nothing else changes ------------------------------------------------------------------------


def is_torchs():
    """Whether nothing of the mode is left behind."""
    base = torch._C._FunctionBase
    seen = torch._C._dispatch_tls_is_dispatch_key_included("TESTING_ONLY_GenericMode")
    return vars(base)["apply"] is TORCHS_APPLY and not seen and not torch.is_anomaly_enabled()


TORCHS_APPLY = vars(torch._C._FunctionBase)["apply"]


def test_nothing_is_left_behind():
    with anomaly.set_detect_anomaly(True, "forward"):
        assert torch.is_anomaly_check_nan_enabled() is True
        assert not is_torchs()
    assert is_torchs()
    with pytest.raises(RuntimeError), anomaly.set_detect_anomaly(True, "forward"):
        plain()
    assert is_torchs()
    with pytest.raises(RuntimeError), anomaly.detect_anomaly("forward"):
        plain()
    assert is_torchs()


def test_contexts_in_each_other():
    with anomaly.set_detect_anomaly(True, "forward"):
        with anomaly.set_detect_anomaly(True):
            plain()
        with anomaly.set_detect_anomaly(False):
            plain()
        with pytest.raises(RuntimeError):
            plain()
    with anomaly.set_detect_anomaly(False, "forward"):
        plain()
    assert is_torchs()


def test_other_threads_stop_with_the_mode():
    def work():
        with anomaly.set_detect_anomaly(True, "forward"):
            entered.set()
            left.wait()

    entered, left = threading.Event(), threading.Event()
    worker = threading.Thread(target=work)
    worker.start()
    entered.wait()
    leaf(1.0) * 2
    with pytest.raises(RuntimeError):
        plain()
    left.set()
    worker.join()
    plain()
    assert is_torchs()


@pytest.mark.parametrize("context", [anomaly.set_detect_anomaly, anomaly.detect_anomaly])
def test_wrong_ways(context):
    options = {"mode": True} if context is anomaly.set_detect_anomaly else {}
    with (
        pytest.raises(TypeError, match=r"argument 'check_nan' .* must be bool, not str"),
        context(**options, check_nan="backward"),
    ):
        pass
    assert is_torchs()


def test_results_and_hooks_are_the_same():
    def step():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 1))
        order = []
        x = Log.apply(torch.rand(2, 4, requires_grad=True) + 1)[1]
        y = TorchsLog.apply(x + 1)[0]
        y[0].mul_(2)
        y.register_hook(lambda grad: order.append("y"))
        loss = model(y).square().sum()
        loss.grad_fn.register_hook(lambda *grads: order.append("loss"))
        loss.backward()
        return order, [loss.detach(), *(each.grad for each in model.parameters())]

    order, values = step()
    with anomaly.set_detect_anomaly(True, "forward", check_inf=True):
        order_in_mode, values_in_mode = step()
    assert order == order_in_mode
    assert all(map(torch.equal, values, values_in_mode))


# --- What is said -------------------------------------------------------------------------------------


def scaled(x, scale):
    return x * scale


def test_report(tmp_path):
    x = leaf(1.0, 2.0)
    with anomaly.set_detect_anomaly(True, "forward"), pytest.raises(RuntimeError) as raised:
        scaled(x.exp(), torch.tensor([NAN, INF]))
    assert str(raised.value) == (
        "The forward call of 'MulBackward0' (aten::mul) returned nan values in its 0th output."
    )
    line = scaled.__code__.co_firstlineno + 1
    given, born = raised.value.__notes__
    assert given.splitlines() == [
        "The forward call of MulBackward0 was given",
        (
            f"  self of shape (2,), made by ExpBackward0 at {__file__.rpartition('/')[2]}:"
            f"{test_report.__code__.co_firstlineno + 3}: finite"
        ),
        "  other of shape (2,): 1 NaN, 1 infinite",
    ]
    assert born.startswith(
        "The first values known not to be finite (1 NaN, 1 infinite: output 0 of MulBackward0) came from outside the "
        "graph, and were given to MulBackward0, which was made here (most recent call last):\n"
    )
    assert born.endswith(f"line {line}, in scaled\n    return x * scale")
    report = anomaly.last_report()
    assert (report.found, report.node_name, report.output_index, report.path) == (
        "forward",
        "MulBackward0",
        0,
        ("MulBackward0",),
    )
    assert [(each.name, each.shape, each.nans, each.infs) for each in report.arguments] == [
        ("self", (2,), 0, 0),
        ("other", (2,), 1, 1),
    ]
    assert report.arguments[0].maker.name == "ExpBackward0"
    assert json.loads(report.to_json())["arguments"][1]["nans"] == 1
    report.draw(tmp_path / "graph.dot")
    assert "MulBackward0" in (tmp_path / "graph.dot").read_text()


def test_text_of_what_the_call_changed():
    error, report = run(in_place)
    assert error.__notes__[0].splitlines()[1] == "  self of shape (2,): changed by the call, or not known"
    assert report.arguments[0].nans is None
