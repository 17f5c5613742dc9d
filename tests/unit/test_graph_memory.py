# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.graph.saved_memory: sums that agree to the byte, whose they are, the table, the data and the page."""

import gc
import json
import re
import runpy
import threading
from html.parser import HTMLParser
from pathlib import Path

import expecttest
import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import torch_ext
from torch_ext.anomaly.facts import Frame
from torch_ext.graph import saved_memory, treemap
from torch_ext.graph.facts import Packed, Saver, Storage
from torch_ext.graph.memory import SavedMemory
from torch_ext.graph.treemap import Box


@pytest.fixture(autouse=True)
def noted(recwarn):
    """Nodes note their lines."""
    with torch_ext.detect_anomaly(check_nan=False):
        yield


def leaf(*shape, dtype=torch.float32):
    return torch.ones(*shape, dtype=dtype, requires_grad=True)


def function_saving(base):
    class Saving(base):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(x, y, None)
            ctx.kept = x.detach() + 1
            ctx.listed = [x.detach() + 2, {"deep": (x.detach() + 3,)}]
            ctx.number = 3
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[1]

    return Saving


# --- What is counted, and as what -----------------------------------------------------------------------------------

F4 = 4  # bytes of a float32


def several_users(x):
    h = x * 2
    return h.exp() + h.sin() + h.cos()


def in_place(x):
    h = x * 2
    y = h.sin()  # saves h, whose version changes next
    h.add_(1)
    return y


def half_freed(x):
    h = (x * 2).exp()
    h.sin().sum().backward(retain_graph=True)
    torch.autograd.grad(h.sum(), x)  # frees what exp has saved
    return h.sin()


def freed(x):
    y = (x * 2).exp().sum()
    y.backward()
    return y


def double_backward(x):
    (grad,) = torch.autograd.grad((x * 2).exp().sum(), x, create_graph=True)
    return grad


def sparse(x):
    indices = torch.tensor([[0, 1], [1, 0]])
    matrix = torch.sparse_coo_tensor(indices, torch.ones(2), (8, 8)).coalesce()
    return torch.sparse.mm(matrix, x.view(8, 1) * 2)


def packed_to_a_tensor(x):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.double(), lambda t: t.float()):
        return (x * 2).exp()


def packed_on_cpu(x):
    with torch.autograd.graph.save_on_cpu():
        return (x * 2).exp()


def packed_to_a_number(x):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: 3, lambda number: 1 / 0):
        return (x * 2).exp()


def subclass(x):
    a = (x * 2).detach()
    return (TwoTensor(a, a + 1).requires_grad_() * 2).exp()


class InASlot(torch.Tensor):
    """Wraps a tensor, as DTensor does, which has it in a slot."""

    __slots__ = ("inner",)

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, requires_grad=True)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        result = operator(*(each.inner if type(each) is cls else each for each in args))
        return cls(result)


def part_in_a_slot(x):
    # What is wrapped is a part of a storage of 80.
    return InASlot(torch.ones(80)[:8]).exp()


def nested(x):
    return torch.nested.as_nested_tensor([x[:3].exp(), x[3:].exp()], layout=torch.jagged).exp()


def compiled(x):
    torch._dynamo.reset()
    return torch.compile(lambda x: (x * 2).exp(), backend="eager")(x)


def deep(x):
    for _ in range(3000):
        x = x.sin()
    return x


SCALAR = 8  # bytes of the 2 in x * 2, which the product saves

PROGRAMS = {
    # name: (what is built of a leaf of 8 floats, bytes of results that are kept, bytes that no node has produced)
    "nothing saved": (lambda x: x + 1, 0, 0),
    "a result": (lambda x: x.exp(), 8 * F4, 0),
    "a leaf": (lambda x: x.sin(), 0, 0),
    "an input": (lambda x: (x * 2).sin(), 8 * F4, SCALAR),
    "one tensor, three nodes": (several_users, 2 * 8 * F4, SCALAR),
    "views of one storage": (lambda x: (x * 2).view(2, 4)[:, 1].sin(), 8 * F4, SCALAR),
    "expanded": (lambda x: (x[:1] * 2).expand(100).sin(), F4, SCALAR),
    "a constant": (lambda x: x * torch.ones(8), 0, 8 * F4),
    "a part of a constant": (lambda x: x * torch.ones(80)[:8], 0, 80 * F4),
    "indices": (lambda x: x.exp()[torch.tensor([1, 2])], 8 * F4, 2 * 8),
    "a mask": (lambda x: nn.functional.dropout(x, 0.5), 0, 8 * F4),
    "another dtype": (lambda x: x.exp().double().exp(), 8 * (F4 + 8), 0),
    "no elements": (lambda x: x[:0].exp(), 0, 0),
    "torch's Function": (lambda x: function_saving(torch.autograd.Function).apply(x), 8 * F4, 3 * 8 * F4),
    "torch_ext's Function": (lambda x: function_saving(torch_ext.Function).apply(x), 8 * F4, 3 * 8 * F4),
    "changed in place since": (in_place, 8 * F4, SCALAR),
    "half freed": (half_freed, 8 * F4, 0),
    "freed": (freed, 0, 0),
    "double backward": (double_backward, 8 * F4, SCALAR + F4),
    "sparse": (sparse, 0, SCALAR + 2 * 2 * 8 + 2 * F4),
    "packed to a tensor": (packed_to_a_tensor, 8 * 8, SCALAR),
    "packed with a tensor in a tuple": (packed_on_cpu, 8 * F4, SCALAR),
    "packed to a number": (packed_to_a_number, 0, SCALAR),
    "a checkpoint": (lambda x: checkpoint(lambda x: x.exp().exp(), x, use_reentrant=False), 0, 0),
    "a reentrant checkpoint": (lambda x: checkpoint(torch.exp, x, use_reentrant=True), 0, len(torch.get_rng_state())),
    "a subclass": (subclass, 2 * 8 * F4, SCALAR),
    "a subclass with a slot": (part_in_a_slot, 8 * F4, 0),
    "nested": (nested, 2 * 8 * F4 + 3 * 8, 0),  # with three offsets
    "compiled": (compiled, 8 * F4, SCALAR),
    "deep": (deep, 2999 * 8 * F4, 0),
    "a list of losses": (lambda x: [x.exp(), None, {"more": x.exp()}], 2 * 8 * F4, 0),
    "a node": (lambda x: x.exp().grad_fn, 8 * F4, 0),
    "an edge": (lambda x: torch.autograd.graph.get_gradient_edge(x.exp()), 8 * F4, 0),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_bytes(name):
    build, results, outside = PROGRAMS[name]
    x = leaf(8)
    output = build(x)
    memory = saved_memory(output)
    assert (memory.apart("result"), memory.apart("outside")) == (results, outside)
    assert memory.total == results + outside
    # The leaf of the one subclass holds two tensors of 8, that of the other a part of 80.
    assert memory.apart("leaf") == 8 * F4 * {"a subclass": 2, "a subclass with a slot": 10}.get(name, 1)
    for rows in (memory.by_line, memory.by_kind, memory.by_module):
        assert sum(row.bytes for row in rows) == memory.total
        assert sum(row.storages for row in rows) == len(memory.kept)


class Storages(TorchDispatchMode):
    """Remembers, weakly, the storages of all that operators take and return meanwhile."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        for each in tree_leaves((args, kwargs, result)):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                self.seen.setdefault(storage._cdata, (storage.nbytes(), storage._weak_ref()))
        return result

    def alive(self, apart=()):
        leaves = {each.untyped_storage()._cdata for each in apart}
        storages = {key: each for key, each in self.seen.items() if key not in leaves}
        return sum(size for size, weak in storages.values() if not torch.UntypedStorage._expired(weak))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.second = nn.Linear(16, 4)
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x):
        h = self.norm(self.first(x).relu())
        return self.second(h) * self.scale


def test_bytes_are_those_that_die_with_the_graph():
    """Measured independently: by which storages of a training step's operators are alive."""
    net = Net()
    with Storages() as storages:
        node = net(torch.ones(32, 8)).logsumexp(1).mean().grad_fn
    gc.collect()
    leaves = [*net.parameters(), *net.buffers()]
    memory = saved_memory(node, net)
    assert memory.total == storages.alive(leaves) > 32 * 16 * F4
    assert memory.apart("parameter") == sum(each.nbytes for each in net.parameters())
    del node
    gc.collect()
    assert storages.alive(leaves) == 0, "saved_memory() keeps something alive"


# --- It only looks --------------------------------------------------------------------------------------------------


def test_looking_runs_nobodys_code_and_adds_nothing():
    class Loud(torch.Tensor):
        loud = False

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if cls.loud:
                raise AssertionError("somebody called " + str(function))
            return super().__torch_function__(function, types, args, kwargs or {})

    x = leaf(8)
    z = x.exp().as_subclass(Loud).sin().sin()
    before = x.exp().grad_fn._sequence_nr()
    Loud.loud = True
    memory = saved_memory(z)
    Loud.loud = False
    assert memory.total == 2 * 8 * F4  # the sine keeps what exp has returned
    assert x.exp().grad_fn._sequence_nr() == before + 1


def test_a_hook_of_the_users_never_runs():
    with torch.autograd.graph.saved_tensors_hooks(lambda t: 3, lambda number: 1 / 0):
        y = leaf(8).exp().exp()
    memory = saved_memory(y)
    assert memory.packed == (Packed("test_a_hook_of_the_users_never_runs.<locals>.<lambda>", 2),)


def test_a_node_that_runs_is_not_waited_for():
    looks = []

    def unpack_and_look(tensor):
        looks.append(saved_memory(y))  # the node that unpacks has a lock
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack_and_look):
        y = leaf(8).exp()
    y.exp().sum().backward()
    assert [each.packed for each in looks] == [(Packed("a backward that runs now", 1),)]
    assert looks[0].total == 0


def test_graphs_that_other_threads_run():
    running, ends = [], []

    def train():
        x = leaf(8)
        while not ends:
            y = x
            for _ in range(100):
                y = y.exp().sin()
            running[:] = [y.grad_fn]
            y.sum().backward()

    threads = [threading.Thread(target=train) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        looks = [saved_memory(running) for _ in range(40)]
    finally:
        ends.append(True)
        for thread in threads:
            thread.join()
    assert all(0 <= each.total <= 200 * 8 * F4 for each in looks)


@pytest.mark.parametrize("wrong", [3, [leaf(1), "x"], nn.Linear(1, 1)], ids=["a number", "text in a list", "a module"])
def test_what_has_no_graph_is_refused(wrong):
    with pytest.raises(TypeError, match=r"saved_memory\(\) takes tensors, nodes and gradient edges, got "):
        saved_memory(wrong)


# --- Whose it is ----------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.act = nn.Tanh()
        self.blocks = nn.ModuleList([nn.Sequential(nn.LayerNorm(4), nn.Sigmoid()) for _ in range(2)])

    def forward(self, x):
        x = self.two(self.act(self.one(x)).sin())
        for block in self.blocks:
            x = block(x)
        return x


def modules_of(memory):
    return {(saver.node, saver.module) for each in memory.storages for saver in each.savers}


def test_modules_are_known_by_class_without_the_module():
    assert modules_of(saved_memory(Twice()(torch.ones(2, 4)))) == {
        ("AddmmBackward0", "Linear"),
        ("TanhBackward0", "Tanh"),
        ("SinBackward0", "Twice"),
        ("MmBackward0", "Linear"),
        ("NativeLayerNormBackward0", "LayerNorm"),
        ("SigmoidBackward0", "Sigmoid"),
    }


def test_modules_have_names_with_it():
    net = Twice()
    assert modules_of(saved_memory(net(torch.ones(2, 4)), net)) == {
        ("AddmmBackward0", "one (Linear)"),
        ("TanhBackward0", "act (Tanh)"),
        ("SinBackward0", "Twice"),
        ("MmBackward0", "two (Linear)"),
        ("NativeLayerNormBackward0", "blocks.0.0 (LayerNorm)"),
        ("NativeLayerNormBackward0", "blocks.1.0 (LayerNorm)"),
        ("SigmoidBackward0", "Sigmoid"),  # one of two, without parameters
    }


def test_parameters_and_buffers_have_names():
    net = Net()
    memory = saved_memory(net(torch.ones(32, 8)), net)
    named = {(each.role, each.name) for each in memory.storages if each.name}
    assert {("parameter", "first.weight"), ("parameter", "norm.bias"), ("buffer", "scale")} <= named
    assert memory.apart("buffer") == sum(
        each.bytes for each in memory.storages if each.name in ("scale", "norm.running_mean", "norm.running_var")
    )


def test_nodes_that_were_made_elsewhere_have_no_line():
    torch.set_anomaly_enabled(False)
    y = leaf(8).exp()
    torch.set_anomaly_enabled(True)
    memory = saved_memory(y.exp())
    assert (memory.nodes, memory.noted) == (3, 1)
    assert {row.label for row in memory.by_line} > {"(line not noted)"}


def test_saved_in_two_dtypes():
    weight = nn.Parameter(torch.ones(4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        y = leaf(2, 4) @ weight.t()
    h = y.float().sin()
    copies = saved_memory(h.exp() + h.sin() + h.double().sin()).copies
    found = [(each.source_dtype, each.source_bytes, each.dtype, each.bytes) for each in copies]
    # The leaf and the weight were copied by autocast; y itself is not kept, nor is the sine of y only once.
    assert found == [
        ("float32", 32, "bfloat16", 16),
        ("float32", 64, "bfloat16", 32),
        ("float32", 32, "float64", 64),
    ]
    assert all(each.line.file == __file__ for each in copies)


# --- What it says ---------------------------------------------------------------------------------------------------


def report():
    torch.manual_seed(0)
    net = Net()
    x = torch.ones(32, 8)
    h = net(x)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: "gone", unpack):
        loss = h.exp().sum()
    return saved_memory(loss, net), loss


def unpack(packed):
    raise AssertionError("an unpack hook ran")


def without_lines(text):
    return re.sub(r"(test_graph_memory\.py):\d+", r"\1:N", text)


def test_text():
    memory, _ = report()
    assert max(map(len, str(memory).splitlines())) <= 100
    expecttest.assert_expected_inline(
        without_lines(str(memory)),
        """\
Kept for backward: 5.1 KiB in 5 storages (15 nodes, 15 with a noted line).
Of it 1.0 KiB are no results of the graph: data, masks, indices.
Counted apart: parameters 976 B, buffers 144 B.

    bytes  share  storages  line
  3.1 KiB    61%         4  test_graph_memory.py:N  h = self.norm(self.first(x).relu())
  2.0 KiB    39%         1  test_graph_memory.py:N  return self.second(h) * self.scale

    bytes  share  storages  node
  3.0 KiB    59%         2  AddmmBackward0
  2.0 KiB    39%         1  ReluBackward0
    128 B     2%         2  NativeBatchNormBackward0

    bytes  share  storages  module
  2.0 KiB    39%         1  Net
  2.0 KiB    39%         1  second (Linear)
  1.0 KiB    20%         1  first (Linear)
    128 B     2%         2  norm (BatchNorm1d)

Saved by several nodes, counted once:
  2.0 KiB  32x16 float32: result of ReluBackward0 (test_graph_memory.py:N), input of NativeBatc...

Packed by hooks, of unknown size: 1 by unpack""",
    )


def test_text_of_a_freed_graph():
    y = (leaf(8) * 2).exp().sum()
    y.backward()
    expecttest.assert_expected_inline(
        str(saved_memory(y)),
        """\
Kept for backward: 0 B in 0 storages (4 nodes, 4 with a noted line).
A backward has freed what 4 nodes kept.
Counted apart: other leaves 32 B.""",
    )


def test_text_without_a_graph():
    expecttest.assert_expected_inline(
        str(saved_memory(torch.ones(1))), """There is no graph: nothing is kept for backward."""
    )


def test_long_tables_are_cut():
    x = leaf(8)
    for name in ("sin", "cos", "tan", "exp", "tanh", "sigmoid", "sqrt", "rsqrt", "log", "atan", "asinh", "erf", "sinh"):
        x = getattr(x, name)()
    lines = str(saved_memory(x)).splitlines()
    assert [line for line in lines if " more)" in line]


def test_json_holds_the_sums_and_the_storages():
    memory, _ = report()
    data = json.loads(memory.to_json())
    assert data["total"] == memory.total == sum(row["bytes"] for row in data["by_module"])
    assert len(data["storages"]) == len(memory.storages)
    assert data["storages"][0]["savers"][0]["line"]["file"] == __file__


def test_example(tmp_path, capsys):
    path = Path(__file__).parents[2] / "examples" / "memory_by_line.py"
    runpy.run_path(str(path))["main"](["--output", str(tmp_path / "new" / "memory.html")])
    printed = capsys.readouterr().out
    assert "memory_by_line.py:32  return scores.softmax(-1) @ value" in printed
    (fused, whole) = re.search(r"attention: ([\d,]+) bytes instead of ([\d,]+)", printed).groups()
    assert int(fused.replace(",", "")) < 0.75 * int(whole.replace(",", ""))
    assert (tmp_path / "new" / "memory.html").exists()


# --- The page -------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Fails if tags don't match; collects them and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "input", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_page(tmp_path):
    memory, _ = report()
    memory.to_html(tmp_path / "memory.html")
    written = (tmp_path / "memory.html").read_text()
    page = Page(written)
    # Nothing is fetched, and nothing runs.
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe", "object")]
    assert "http" not in written and "url(" not in written
    assert len([tag for tag, attributes in page.tags if attributes.get("class") == "map"]) == 3
    words = "".join(page.words)
    for row in (*memory.by_line, *memory.by_kind, *memory.by_module):
        assert row.label in words and f"{row.bytes:,}" in words


def test_page_without_a_graph(tmp_path):
    saved_memory(torch.ones(1)).to_html(tmp_path / "memory.html")
    page = Page((tmp_path / "memory.html").read_text())
    assert "There is no graph: nothing is kept for backward." in page.words


def test_page_escapes(tmp_path):
    line = Frame("<b>&.py", 3, "f", "if x<y & '\"</svg><script>alert(1)</script>")
    storage = Storage(8, "cpu", (1,), "float64", "result", "", (Saver("<Node>", "self", line, "<i>"),))
    SavedMemory(1, 0, 1, (storage,), (), (Packed("<u>", 1),)).to_html(tmp_path / "memory.html")
    page = Page((tmp_path / "memory.html").read_text())
    assert not {"b", "i", "u", "script", "node"} & {tag for tag, _ in page.tags}


def test_page_draws_many_storages_as_one(tmp_path):
    x = leaf(8)
    for _ in range(200):
        x = x.sin()
    saved_memory(x).to_html(tmp_path / "memory.html")
    assert "139 smaller storages" in (tmp_path / "memory.html").read_text()


@pytest.mark.parametrize("sizes", [[1.0], [6, 6, 4, 3, 2, 2, 1], [1000, 1, 1, 1], [1] * 50, []], ids=str)
def test_squarify_fills_the_box_in_proportion(sizes):
    box = Box(10, 20, 600, 400)
    boxes = treemap.squarify([float(size) for size in sizes], box)
    for size, each in zip(sizes, boxes, strict=True):
        assert each.width * each.height == pytest.approx(size / sum(sizes) * 600 * 400)
        assert each.x >= 10 - 1e-6 and each.y >= 20 - 1e-6
        assert each.x + each.width <= 610 + 1e-6 and each.y + each.height <= 420 + 1e-6
    centres = [(each.x + each.width / 2, each.y + each.height / 2) for each in boxes]
    for x, y in centres:
        assert sum(e.x < x < e.x + e.width and e.y < y < e.y + e.height for e in boxes) == 1
    if len(sizes) == 50:
        assert max(max(e.width / e.height, e.height / e.width) for e in boxes) < 3
