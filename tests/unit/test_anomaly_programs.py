# SPDX-License-Identifier: BSD-3-Clause
"""Random programs with NaN: a report may say little of where it was born, but nothing that is wrong."""

import collections
import random

import pytest
import torch

from torch_ext import anomaly
from torch_ext.anomaly.graph import frames_of, metadata_of, name_of, reachable

NAN = float("nan")

OPERATORS = {
    "abs": lambda a, b: a.abs(),
    "acos": lambda a, b: a.acos(),
    "add": lambda a, b: a + b,
    "add one": lambda a, b: a + 1,
    "add NaN": lambda a, b: a + NAN,
    "atan2": lambda a, b: torch.atan2(a, b),
    "cat": lambda a, b: torch.cat([a[:1], b[1:]]),
    "clamp": lambda a, b: a.clamp(min=1e-3),
    "cumprod": lambda a, b: a.cumprod(0),
    "detach": lambda a, b: a.detach() * b,
    "div": lambda a, b: a / b,
    "exp": lambda a, b: a.exp(),
    "gelu": lambda a, b: torch.nn.functional.gelu(a),
    "half": lambda a, b: a.half().float(),
    "huge": lambda a, b: a * 1e20,
    "index": lambda a, b: a[[0, 1]],
    "in place": lambda a, b: (a * 1).sqrt_(),
    "layer norm": lambda a, b: torch.nn.functional.layer_norm(a, [2]),
    "linear": lambda a, b: torch.nn.functional.linear(a, b, b[0]),
    "log": lambda a, b: a.log(),
    "log softmax": lambda a, b: a.log_softmax(-1),
    "logsumexp": lambda a, b: a.logsumexp(0, keepdim=True) + b,
    "matmul": lambda a, b: a @ b,
    "maximum": lambda a, b: torch.maximum(a, b),
    "mean": lambda a, b: a.mean() * b,
    "mul": lambda a, b: a * b,
    "mul by zero": lambda a, b: a * torch.tensor([0.0, 1.0]),
    "norm": lambda a, b: a / a.norm(),
    "pow": lambda a, b: a**1.5,
    "reciprocal": lambda a, b: a.reciprocal(),
    "relu": lambda a, b: a.relu(),
    "rsqrt": lambda a, b: a.rsqrt(),
    "select": lambda a, b: a[:1].expand(2, 2),
    "sigmoid": lambda a, b: a.sigmoid(),
    "sin": lambda a, b: a.sin(),
    "softmax": lambda a, b: a.softmax(-1),
    "sqrt": lambda a, b: a.sqrt(),
    "square": lambda a, b: a.square(),
    "std": lambda a, b: a - a.std(),
    "sub": lambda a, b: a - b,
    "sum": lambda a, b: a.sum(0, keepdim=True) * b,
    "tanh": lambda a, b: a.tanh(),
    "transpose": lambda a, b: a.t(),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "where zero": lambda a, b: torch.where(a > 0, a, 0.0),
}


class Truth(torch.overrides.TorchFunctionMode):
    """Whether what each node returned in forward was finite, by the id of its metadata and the output's number."""

    def __init__(self):
        super().__init__()
        self.finite = {}
        self.nodes = []  # an id is theirs for as long as they live

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.__name__ == "__get__":
            return result
        with torch._C.DisableTorchFunction():
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor) and tensor.grad_fn is not None:
                    key = id(tensor.grad_fn.metadata), tensor.output_nr
                    self.nodes.append(tensor.grad_fn)
                    self.finite[key] = bool(tensor.detach().isfinite().all())
        return result

    def of_result(self, node, output=0):
        if hasattr(type(node), "variable"):
            return bool(node.variable.detach().isfinite().all())
        return self.finite.get((id(node.metadata), output))

    def of_inputs(self, node):
        return [self.of_result(source, output) for source, output in node.next_functions if source is not None]


def make_loss(choose):
    torch.manual_seed(choose.randrange(1000))
    values = []
    for _ in range(2):
        value = torch.randn(2, 2) * choose.choice([1.0, 1.0, 3.0, 0.0, 1e19])
        if choose.random() < 0.05:
            value[0, 0] = NAN
        values.append(value.requires_grad_())
    for _ in range(choose.randint(1, 7)):
        operator = OPERATORS[choose.choice(list(OPERATORS))]
        values.append(operator(choose.choice(values), choose.choice(values)))
    loss = values[-1] if choose.random() < 0.7 else values[-1] * values[-2]
    return loss.sum()


def nodes_named(root, origin_name, frames):
    return [
        node for node in reachable((root,)) if name_of(node) == origin_name and frames_of(metadata_of(node)) == frames
    ]


def check(report, truth, loss):
    """Asserts that the report is right; returns what it says."""
    born = report.born
    if born is None:
        if report.forward == "finite":
            nodes = nodes_named(loss, report.node_name, report.frames)
            assert any(truth.of_result(node) is not False and False not in truth.of_inputs(node) for node in nodes)
        return report.forward
    nodes = nodes_named(loss, born.name, born.frames)
    if not born.exact:
        assert any(truth.of_result(node) is not True for node in nodes)
        return "at or before"
    if born.produced:
        assert any(truth.of_result(node) is not True and False not in truth.of_inputs(node) for node in nodes)
        return "produced"
    assert any(
        (
            truth.of_result(node) is False
            and (hasattr(type(node), "variable") or any(source is None for source, _ in node.next_functions))
            and False not in truth.of_inputs(node)
        )
        or (born.tensor.endswith(f"of {born.name}") and truth.of_result(node) is not True)
        for node in nodes
    )
    return "given"


@pytest.fixture(autouse=True)
def quiet(recwarn):
    """Failing backwards warn; the parity scenarios look at that."""


@pytest.mark.parametrize("seed", range(4))
def test_programs(seed):
    said = collections.Counter()
    for number in range(120):
        choose = random.Random(1000 * seed + number)
        with anomaly.set_detect_anomaly(True):
            with Truth() as truth:
                loss = make_loss(choose)
            if loss.grad_fn is None:
                continue
            try:
                loss.backward(retain_graph=choose.random() < 0.3)
            except RuntimeError as error:
                if "nan values" not in str(error):
                    raise
                said[check(anomaly.last_report(), truth, loss)] += 1
    # The programs are worth it: most reports are certain, and each kind occurs.
    assert said["produced"] > 10
    assert said["given"] > 3
    assert said["produced"] + said["given"] > 0.8 * sum(said.values())
