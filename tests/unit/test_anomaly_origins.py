# SPDX-License-Identifier: BSD-3-Clause
"""The usual origins of NaN, and what the report says of each.

A row is a function that returns what backward is called on. The line that must be named has the comment "born". What
the report must say of it:

- ``PRODUCED``: values were first not finite in what that line returned.
- ``GIVEN``: they were given to that line from outside the graph.
- ``AT_OR_BEFORE``: that line or one before it.
- ``FINITE``: no line; values were finite in forward.
- ``UNKNOWN``: no line, since nothing is known.
"""

import linecache

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import torch_ext
from torch_ext import anomaly

PRODUCED, GIVEN, AT_OR_BEFORE, FINITE, UNKNOWN = "produced", "given", "at or before", "finite", "unknown"

NAN, INF = float("nan"), float("inf")
ORIGINS = []


def origin(verdict):
    """Makes a function a row of the table."""

    def add(row):
        ORIGINS.append(pytest.param(row, verdict, id=row.__name__))
        return row

    return add


def leaf(*values, **options):
    return torch.tensor(values, requires_grad=True, **options)


# --- Operators outside their domain -----------------------------------------------------------------


@origin(PRODUCED)
def the_issues_example():
    x = leaf(-1.0, 4.0)
    h = x * 2
    y = h.sqrt()  # born
    return (y * 3).sum()


@origin(PRODUCED)
def zero_by_zero():
    x = leaf(0.0, 1.0)
    y = x / x  # born
    return y.sum()


@origin(PRODUCED)
def division_by_zero():
    x, y = leaf(1.0, 2.0), leaf(0.0, 1.0)
    z = x / y  # born
    return (z * leaf(0.0, 1.0)).sum()


@origin(PRODUCED)
def reciprocal_of_zero():
    x = leaf(0.0, 1.0)
    y = x.reciprocal()  # born
    return (y * 0).sum()


@origin(PRODUCED)
def square_root():
    x = leaf(-1.0, 2.0)
    y = x.sqrt()  # born
    return y.mean()


@origin(PRODUCED)
def reciprocal_square_root():
    x = leaf(-1.0, 2.0)
    y = x.rsqrt()  # born
    return y.mean()


@origin(PRODUCED)
def log_of_a_negative():
    x = leaf(-1.0, 2.0)
    y = x.log()  # born
    return (y * leaf(1.0, 1.0)).sum()


@origin(PRODUCED)
def log_of_zero():
    x = leaf(0.0, 2.0)
    y = x.log()  # born
    return (y * 0).sum()


@origin(PRODUCED)
def log_seen_two_steps_later():
    x = leaf(-1.0, 2.0)
    h = x.log()  # born
    k = h + 1
    return k.sqrt().sum()


@origin(PRODUCED)
def log1p():
    x = leaf(-2.0, 2.0)
    y = torch.log1p(x)  # born
    return y.exp().sum()


@origin(PRODUCED)
def log2():
    x = leaf(-2.0, 2.0)
    y = torch.log2(x)  # born
    return y.exp().sum()


@origin(PRODUCED)
def arc_cosine():
    x = leaf(1.5, 0.5)
    y = x.acos()  # born
    return y.sum()


@origin(PRODUCED)
def arc_sine():
    x = leaf(-1.5, 0.5)
    y = torch.asin(x)  # born
    return y.sum()


@origin(PRODUCED)
def inverse_hyperbolic_tangent():
    x = leaf(2.0, 0.5)
    y = torch.atanh(x)  # born
    return y.cos().sum()


@origin(PRODUCED)
def power_with_a_fraction():
    x = leaf(-2.0, 2.0)
    y = x**1.5  # born
    return y.sum()


@origin(PRODUCED)
def power_with_a_learned_exponent():
    x = leaf(-2.0, 2.0)
    y = torch.pow(x, leaf(1.5, 1.5))  # born
    return y.sum()


@origin(PRODUCED)
def exponential():
    x = leaf(1000.0, 1.0)
    y = x.exp()  # born
    return (y * 0).sum()


@origin(PRODUCED)
def softmax_by_hand():
    x = leaf(1000.0, 1.0)
    e = x.exp()  # born
    return (e / e.sum())[0]


@origin(PRODUCED)
def float16():
    x = leaf(300.0, 1.0, dtype=torch.float16)
    y = x * x  # born
    return (y * 0).exp().sum()


@origin(PRODUCED)
def conversion_to_float16():
    x = leaf(1e6, 1.0)
    y = x.half()  # born
    return (y.float().square() * leaf(0.0, 0.0)).sum()


@origin(PRODUCED)
def bfloat16():
    x = leaf(3e38, 1.0, dtype=torch.bfloat16)
    y = x * x  # born
    return (y * 0).sum() + y.sin().sum()


@origin(PRODUCED)
def cumulative_product():
    x = leaf(1e30, 1e30, 0.0)
    y = x.cumprod(0)  # born
    return (y - y).exp().sum()


@origin(PRODUCED)
def complex_division():
    x = leaf(0.0, 1.0).to(torch.complex64)
    y = x / x  # born
    return y.abs().sum()


@origin(AT_OR_BEFORE)
def determinant_of_a_singular_matrix():
    x = torch.zeros(2, 2, requires_grad=True)
    return torch.logdet(x)  # born


@origin(PRODUCED)
def spread_of_one_value():
    x = leaf(1.0)
    y = x.std()  # born
    return y * 2


@origin(PRODUCED)
def mean_of_nothing():
    x = torch.zeros(3, requires_grad=True)
    y = x[:0].mean()  # born
    return (y * x).sum()


@origin(PRODUCED)
def softmax_of_a_masked_row():
    x = torch.ones(2, 2, requires_grad=True)
    mask = torch.tensor([[-INF, -INF], [0.0, 0.0]])
    scores = torch.maximum(torch.minimum(x, mask), mask)
    y = scores.softmax(-1)  # born
    return (y * leaf(1.0, 2.0)).sum()


@origin(AT_OR_BEFORE)
def softmax_of_a_filled_row():
    x = torch.ones(2, 2, requires_grad=True)
    scores = x.masked_fill(torch.tensor([[True, True], [False, False]]), -INF)
    y = scores.softmax(-1)  # born
    return (y * leaf(1.0, 2.0)).sum()


@origin(AT_OR_BEFORE)
def attention_with_a_masked_row():
    q = torch.ones(1, 2, 4, requires_grad=True)
    scores = q @ q.transpose(-1, -2) + torch.tensor([[-INF, -INF], [0.0, 0.0]])
    y = scores.softmax(-1)  # born
    return (y @ q).sum()


@origin(PRODUCED)
def cross_entropy_of_a_row_of_infinities():
    x = torch.full((2, 3), 1e30, requires_grad=True)
    y = x * 1e30  # born
    return functional.cross_entropy(y, torch.tensor([0, 1]))


@origin(PRODUCED)
def variance_of_large_values():
    x = leaf(3e38, -3e38, 1.0)
    y = functional.layer_norm(x, [3])  # born
    return (y * leaf(1.0, 2.0, 3.0)).sum()


@origin(PRODUCED)
def group_norm_of_equal_values():
    x = torch.ones(2, 4, requires_grad=True)
    y = functional.group_norm(x * 3, 2, eps=0.0)  # born
    return y.square().sum()


@origin(PRODUCED)
def batch_norm_with_a_negative_variance():
    x = torch.ones(4, 2, requires_grad=True)
    y = functional.batch_norm(x, torch.zeros(2), torch.full((2,), -1.0))  # born
    return y.square().sum()


@origin(PRODUCED)
def entropy_of_a_certain_event():
    p = leaf(0.0, 1.0)
    log = p.log()  # born
    return -(p * log).sum()


@origin(PRODUCED)
def logsumexp_of_a_masked_row():
    x = torch.ones(2, 2, requires_grad=True)
    scores = x.masked_fill(torch.tensor([[True, True], [False, False]]), -INF)
    y = scores.logsumexp(-1)  # born
    return (y * 0).exp().sum()


@origin(PRODUCED)
def product_of_huge_matrices():
    x = torch.full((2, 2), 1e30, requires_grad=True)
    y = x @ x  # born
    return (y * 0).exp().sum()


@origin(PRODUCED)
def power_of_zero():
    x = leaf(0.0, 1.0)
    y = x**-1.0  # born
    return (y * 0).exp().sum()


@origin(PRODUCED)
def inverse_square_of_a_distance():
    x = leaf(1.0, 2.0)
    d = (x - x.detach()).square()
    y = d.reciprocal()  # born
    return (y * d).sum()


# --- What comes from outside ------------------------------------------------------------------------


@origin(GIVEN)
def data():
    rows = torch.tensor([[1.0, NAN]])
    weight = torch.ones(3, 2, requires_grad=True)
    return functional.linear(rows, weight).tanh().sum()  # born


@origin(GIVEN)
def weight():
    layer = nn.Linear(2, 2)
    layer.weight.data[0, 0] = NAN
    return layer(torch.ones(1, 2)).square().sum()  # born


@origin(GIVEN)
def constant_factor():
    x = leaf(1.0, 2.0)
    y = x * torch.tensor([NAN, 1.0])  # born
    return y.sin().sum()


@origin(GIVEN)
def constant_term():
    x = leaf(1.0, 2.0)
    y = x + torch.tensor([NAN, 1.0])  # born
    return y.sin().sum()


@origin(GIVEN)
def other_branch_of_where():
    x = leaf(1.0, 2.0)
    y = torch.where(torch.tensor([True, False]), x, NAN)  # born
    return y.sin().sum()


@origin(GIVEN)
def embedding():
    table = nn.Embedding(3, 2)
    table.weight.data[1] = NAN
    return table(torch.tensor([0, 1])).sin().sum()  # born


@origin(GIVEN)
def embedding_bag():
    table = nn.EmbeddingBag(3, 2)
    table.weight.data[1] = NAN
    return table(torch.tensor([[0, 1]])).sin().sum()  # born


@origin(GIVEN)
def gradient():
    x = leaf(1.0, 2.0)
    y = x.square()  # born
    return y, torch.tensor([NAN, 1.0])


@origin(GIVEN)
def targets():
    x = torch.ones(2, 3, requires_grad=True)
    y = torch.tensor([[NAN, 0.0, 1.0], [0.0, 1.0, 0.0]])
    return functional.mse_loss(x.tanh(), y)  # born


@origin(GIVEN)
def sparse_matrix():
    matrix = torch.tensor([[NAN, 0.0], [0.0, 1.0]]).to_sparse()
    x = torch.ones(2, 2, requires_grad=True)
    y = torch.sparse.mm(matrix, x)  # born
    return y.sin().sum()


@origin(GIVEN)
def running_statistics():
    layer = nn.BatchNorm1d(2).eval()
    layer.running_mean.fill_(NAN)
    x = torch.ones(2, 2, requires_grad=True)
    y = layer(x)  # born
    return y.sin().sum()


# --- In the middle of other things ------------------------------------------------------------------


@origin(PRODUCED)
def in_place():
    x = leaf(-1.0, 2.0) * 1
    x.sqrt_()  # born
    return (x * 3).sum()


@origin(PRODUCED)
def a_view():
    x = torch.full((2, 2), -1.0, requires_grad=True)
    y = x.t().reshape(4)[1:3].log()  # born
    return (y.view(2, 1) * leaf(1.0)).sum()


@origin(PRODUCED)
def gathered():
    x = leaf(-1.0, 2.0, 3.0)
    y = x[[0, 2]].sqrt()  # born
    return y.gather(0, torch.tensor([0, 1])).sum()


@origin(PRODUCED)
def concatenated():
    x = leaf(-1.0, 2.0)
    y = x.log()  # born
    return torch.cat([y, x]).exp().sum()


@origin(PRODUCED)
def complex_numbers():
    x = leaf(0.0, 1.0)
    z = torch.complex(x, x)
    y = z.log()  # born
    return (y * 0).abs().sum() + y.abs().sum()


class SquareRoot(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.sqrt()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad / y / 2


class TorchsSquareRoot(torch.autograd.Function):
    forward, backward = SquareRoot.forward, SquareRoot.backward


class NanInBackward(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * NAN


class TorchsNanInBackward(torch.autograd.Function):
    forward, backward = NanInBackward.forward, NanInBackward.backward


@origin(PRODUCED)
def forward_of_a_function():
    x = leaf(-1.0, 2.0)
    y = SquareRoot.apply(x)  # born
    return y.sum()


@origin(PRODUCED)
def forward_of_torchs_function():
    x = leaf(-1.0, 2.0)
    y = TorchsSquareRoot.apply(x)  # born
    return y.sum()


@origin(FINITE)
def backward_of_a_function():
    x = leaf(-1.0, 2.0)
    return (NanInBackward.apply(x * 2) * 3).sum()


@origin(FINITE)
def backward_of_torchs_function():
    x = leaf(-1.0, 2.0)
    return (TorchsNanInBackward.apply(x * 2) * 3).sum()


@origin(PRODUCED)
def reentrant_checkpoint():
    def block(x):
        y = (x * 2).sqrt()  # born
        return y * 3

    return checkpoint(block, leaf(-1.0, 2.0) * 1, use_reentrant=True).sum()


@origin(PRODUCED)
def before_a_reentrant_checkpoint():
    x = leaf(-1.0, 2.0)
    h = x.log()  # born
    return checkpoint(lambda h: h.sin() * 2, h, use_reentrant=True).sum()


@origin(AT_OR_BEFORE)
def checkpoint_with_hooks():
    def block(x):
        return (x * 2).sqrt() * 3

    y = checkpoint(block, leaf(-1.0, 2.0) * 1, use_reentrant=False)
    return y.sum()  # born


@origin(PRODUCED)
def before_a_checkpoint_with_hooks():
    x = leaf(-1.0, 2.0)
    h = x.log()  # born
    return checkpoint(lambda h: h.sin() * 2, h, use_reentrant=False).sum()


@origin(PRODUCED)
def autocast():
    x = torch.ones(2, 2, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        h = functional.linear(x, torch.full((2, 2), -1.0, requires_grad=True))
        y = h.sqrt()  # born
    return y.float().sum()


@origin(PRODUCED)
def autocast_to_float16():
    x = torch.full((2, 2), 300.0, requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        y = x @ torch.full((2, 2), 300.0, requires_grad=True)  # born
        return (y.float() * 0).exp().sum()


@origin(GIVEN)
def without_grad():
    x = leaf(-1.0, 2.0)
    with torch.no_grad():
        scale = x.sqrt()
    y = x * scale  # born
    return (y * x).sum()


@origin(GIVEN)
def detached():
    x = leaf(-1.0, 2.0)
    y = x * x.sqrt().detach()  # born
    return (y * x).sum()


@origin(PRODUCED)
def double_backward():
    x = leaf(0.0, 2.0)
    y = x.square() * x.square()
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    z = slope / slope  # born
    return z.sum()


@origin(PRODUCED)
def recurrent_cell():
    cell = nn.GRUCell(2, 2)
    x = torch.full((1, 2), -1.0, requires_grad=True)
    h = x.log()  # born
    return cell(h, torch.zeros(1, 2)).sum()


@origin(PRODUCED)
def lstm():
    cell = nn.LSTM(2, 2)
    x = torch.full((1, 2), -1.0, requires_grad=True)
    h = x.sqrt()  # born
    return cell(h)[0].sum()


@origin(PRODUCED)
def behind_the_failing_node():
    x = leaf(0.0, 1.0)
    y = x.abs() * leaf(1.0, 1.0)
    z = torch.exp(y * 1000)  # born
    return z.sum() * 0


# --- Finite in forward --------------------------------------------------------------------------------


@origin(FINITE)
def square_root_behind_a_where():
    x = leaf(0.0, 4.0)
    return torch.where(x > 0, x.sqrt(), 0.0).sum()


@origin(FINITE)
def power_behind_a_where():
    x = leaf(0.0, 4.0)
    return torch.where(x > 0, x**0.5, 0.0).sum()


@origin(PRODUCED)
def log_behind_a_where():
    x = leaf(0.0, 4.0)
    y = x.log()  # born
    return torch.where(x > 0, y, 0.0).sum()


@origin(PRODUCED)
def division_behind_a_where():
    x = leaf(0.0, 4.0)
    y = 1 / x  # born
    return torch.where(x > 0, y, 0.0).sum()


@origin(PRODUCED)
def division_by_itself_behind_a_where():
    x = leaf(0.0, 4.0)
    y = x / x  # born
    return torch.where(x > 0, y, 1.0).sum()


@origin(FINITE)
def square_root_at_zero():
    x = leaf(0.0, 4.0)
    return (x.sqrt() * 0).sum()


@origin(FINITE)
def norm_at_zero():
    x = torch.zeros(3, requires_grad=True)
    return ((x * 2).square().sum().sqrt() * 0).sum()


@origin(PRODUCED)
def division_by_the_norm_at_zero():
    x = torch.zeros(3, requires_grad=True)
    y = x / x.norm()  # born
    return y.sum()


@origin(FINITE)
def root_of_a_variance():
    x = torch.ones(3, requires_grad=True)
    return (x.var().sqrt() * 2).sum()


@origin(FINITE)
def eigenvectors_of_equal_eigenvalues():
    x = torch.eye(2, requires_grad=True)
    _, vectors = torch.linalg.eigh(x)
    return (vectors * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum()


@origin(FINITE)
def singular_vectors_of_equal_singular_values():
    x = torch.eye(2, requires_grad=True)
    u, _, _ = torch.linalg.svd(x)
    return (u * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum()


@origin(FINITE)
def distance_of_equal_points():
    x = torch.ones(2, requires_grad=True)
    return torch.hypot(x - x, x * 0).sum() * 0


@origin(FINITE)
def hook_of_a_tensor():
    x = leaf(1.0, 2.0)
    y = x.sin()
    y.register_hook(lambda grad: grad * NAN)
    return (y * 2).sum()


@origin(FINITE)
def zero_times_infinity_in_backward():
    x = leaf(1.0, 2.0)
    return (x * torch.tensor([0.0, 1.0])).sqrt().sum()


# --- Little or nothing is known -----------------------------------------------------------------------


@origin(AT_OR_BEFORE)
def hidden_constant():
    x = leaf(1.0, 2.0)
    y = (x - 4).sqrt()  # born
    return y.sum()


@origin(UNKNOWN)
def saved_tensors_with_hooks():
    x = leaf(0.0, 2.0)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        return (x.sqrt() * 0).square().mul(0).exp().sum()


# --- What the table is for ----------------------------------------------------------------------------


def backward(row, **options):
    root = row()
    root, gradient = root if isinstance(root, tuple) else (root, None)
    root.backward(gradient, **options)


def verdict_of(report):
    born = report.born
    if born is None:
        return {"finite": FINITE, "unknown": UNKNOWN}[report.forward]
    assert report.forward == "not finite"
    if not born.exact:
        assert not born.produced
        return AT_OR_BEFORE
    return PRODUCED if born.produced else GIVEN


@pytest.fixture(autouse=True)
def quiet(recwarn):
    """Failing backwards warn; the parity scenarios look at that."""


@pytest.mark.parametrize("retain_graph", [False, True], ids=["", "retained"])
@pytest.mark.parametrize("row, verdict", ORIGINS)
def test_origin(row, verdict, retain_graph):
    torch.manual_seed(0)
    with anomaly.set_detect_anomaly(True), pytest.raises(RuntimeError, match="returned nan values") as raised:
        backward(row, retain_graph=retain_graph)
    report = anomaly.last_report()
    assert verdict_of(report) == verdict
    assert any("finite" in note for note in raised.value.__notes__)
    if report.born is not None:
        line = [frame.line for frame in report.born.frames if frame.file == __file__][-1]
        assert linecache.getline(__file__, line).endswith("# born\n")


def test_forward_outside_the_mode():
    root = the_issues_example()
    with anomaly.set_detect_anomaly(True), pytest.raises(RuntimeError, match="returned nan values") as raised:
        root.backward()
    born = anomaly.last_report().born
    assert (born.name, born.exact, born.produced, born.frames) == ("SqrtBackward0", True, True, ())
    assert raised.value.__notes__[-1].endswith("the forward call of SqrtBackward0, whose place is not known.")
