# SPDX-License-Identifier: BSD-3-Clause
"""torch_ext.graph.draw and summary: what a picture has, what is left out of it, and the table."""

import gc
import importlib.util
import json
import random
import re
import stat
import sys
import weakref
from pathlib import Path
from xml.etree import ElementTree

import expecttest
import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

import torch_ext
from torch_ext.graph import draw, summary
from torch_ext.graph.draw import to_dot
from torch_ext.graph.kinds import COLOURS, kind_of
from torch_ext.graph.pruning import choose
from torch_ext.graph.walk import nodes_of, roots_of


@pytest.fixture(autouse=True)
def noted(recwarn):
    """Nodes note their lines."""
    with torch_ext.detect_anomaly(check_nan=False):
        yield


def leaf(*shape, dtype=torch.float32):
    return torch.ones(*shape, dtype=dtype, requires_grad=True)


def make_double(base):
    class Double(base):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Double


class Picture:
    """A graph in Graphviz's language, read again; fails if that is no picture."""

    LABEL = r'<<B>.*?(?:(?<=/FONT>)|(?<=/B>))>(?= )|"(?:[^"\\]|\\.)*"'

    def __init__(self, dot):
        lines = [line.strip() for line in dot.splitlines()]
        assert lines[0] == "digraph {" and lines[-1] == "}"
        self.boxes, self.styles, self.edges, self.frames, self.inside = {}, {}, [], [], {}
        frame = None
        for line in lines[1:-1]:
            assert re.sub(r"\\.", "", line).count('"') % 2 == 0, line
            edge = re.fullmatch(r"(\w+) -> (\w+)(?: \[label=\"(.*)\"\])?", line)
            box = re.fullmatch(rf"((?:n|leaf)\d+) \[label=({self.LABEL})(?: (.*))?\]", line)
            if edge:
                self.edges.append((edge[1], edge[2], edge[3] or ""))
            elif box:
                self.boxes[box[1]] = self.words(box[2])
                self.styles[box[1]] = box[3] or ""
                self.inside[box[1]] = frame
            elif line.startswith("subgraph cluster_"):
                frame = re.search(r'label="(.*)" labelloc', line)[1]
                self.frames.append(frame)
            elif line == "}":
                frame = None
            elif line.startswith("label="):
                self.legend = self.words(re.match(r'label=(<.*>|".*")', line)[1])
        for start, end, _ in self.edges:
            assert start in self.boxes and end in self.boxes

    @staticmethod
    def words(label):
        if label.startswith("<"):
            return " | ".join(ElementTree.fromstring(f"<r>{label[1:-1]}</r>").itertext())
        return label[1:-1].replace("\\n", " | ")

    def of(self, start):
        """The name of the only box whose words start so."""
        (name,) = [name for name, words in self.boxes.items() if words.startswith(start)]
        return name

    def named_edges(self):
        short = {name: words.split(" | ")[0] for name, words in self.boxes.items()}
        return [(short[start], short[end], label) for start, end, label in self.edges]


def picture(graph, **options):
    return Picture(to_dot(graph, **options))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.leave = nn.Linear(3, 2)

    def forward(self, x):
        x = self.norm(self.enter(x))
        return self.leave(x)


# --- What a picture has ---------------------------------------------------------------------------------------------


def test_nodes_edges_and_leaves():
    w = nn.Parameter(torch.ones(2, 3))
    loss = (w * leaf(3)).double().sum()
    drawn = picture(loss, parameters=[("weight", w)], group=None)
    assert drawn.named_edges() == [
        ("weight", "MulBackward0", ""),
        ("leaf", "MulBackward0", ""),
        ("MulBackward0", "ToCopyBackward0", "2x3"),
        ("ToCopyBackward0", "SumBackward0", "2x3 float64"),
    ]
    assert drawn.boxes[drawn.of("weight")] == "weight | 2x3"
    assert drawn.boxes[drawn.of("leaf")] == "leaf | 3"
    assert re.fullmatch(r"MulBackward0 \| test_graph_draw.py:\d+", drawn.boxes[drawn.of("Mul")])
    assert "penwidth" in drawn.styles[drawn.of("Sum")] and "penwidth" not in drawn.styles[drawn.of("Mul")]
    assert "loss = (w * leaf(3)).double().sum()" in drawn.styles[drawn.of("Mul")]  # where the pointer is on it
    assert "parameter" in drawn.legend and "float32 if nothing else is said" in drawn.legend


@pytest.mark.parametrize(
    "build, kind",
    [
        (lambda x: x @ x, "product or convolution"),
        (lambda x: nn.functional.conv1d(x[None], x[None]), "product or convolution"),
        (lambda x: nn.functional.scaled_dot_product_attention(*[x[None, None]] * 3), "product or convolution"),
        (lambda x: x.softmax(-1), "normalisation, loss or reduction"),
        (lambda x: x.mean(), "normalisation, loss or reduction"),
        (lambda x: nn.functional.mse_loss(x, x), "normalisation, loss or reduction"),
        (lambda x: x.t(), "shape or copy"),
        (lambda x: x.expand(4, 3, 3), "shape or copy"),
        (lambda x: x.clone(), "shape or copy"),
        (lambda x: x.double(), "shape or copy"),
        (lambda x: x[:, torch.tensor([0])], "shape or copy"),
        (lambda x: x.tanh(), "other operator"),
        (lambda x: x.maximum(x), "other operator"),
        (lambda x: torch.where(x > 0, x, x), "other operator"),
        (lambda x: make_double(torch.autograd.Function).apply(x), "custom Function"),
        (lambda x: make_double(torch_ext.Function).apply(x), "custom Function"),
    ],
)
def test_kinds_have_colours(build, kind):
    output = build(leaf(3, 3))
    assert kind_of(output.grad_fn) == kind
    drawn = picture(output)
    (root,) = [name for name, style in drawn.styles.items() if "penwidth=2.5" in style]
    assert COLOURS[kind] in drawn.styles[root] and kind in drawn.legend
    assert (
        ("peripheries" in drawn.styles[root]) == ("custom Function" in drawn.boxes[root]) == (kind == "custom Function")
    )


def test_saved_tensors_on_demand():
    x = leaf(8, 8)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: 3, lambda number: 1 / 0):
        packed = (x * 2).exp()
    loss = packed.sin().sum()
    assert "keeps" not in to_dot(loss)
    drawn = picture(loss, saved=True, group=None)
    assert drawn.boxes[drawn.of("Sin")].endswith(" | keeps self: 8x8, 256 B")
    assert drawn.boxes[drawn.of("Exp")].endswith(" | keeps result, packed by a hook")
    torch.autograd.grad(loss, packed)
    drawn = picture(loss, saved=True, group=None)
    assert drawn.boxes[drawn.of("Sin")].endswith(" | freed by a backward")


def test_frames_by_line():
    x = leaf(3)
    y = x.exp() * 2
    z = y.sin() + y.cos()
    drawn = picture(z)
    assert [re.sub(r":\d+", ":N", frame) for frame in drawn.frames] == [
        "test_graph_draw.py:N  y = x.exp() * 2",
        "test_graph_draw.py:N  z = y.sin() + y.cos()",
    ]
    assert drawn.inside[drawn.of("Sin")] == drawn.inside[drawn.of("Add")] != drawn.inside[drawn.of("Mul")]
    assert drawn.inside[drawn.of("leaf")] is None
    assert drawn.boxes[drawn.of("Sin")] == "SinBackward0"  # the frame has the line


def test_frames_of_one_line_are_apart_if_they_are_not_connected():
    def act(x):
        return x.exp().sin()

    drawn = picture(act(act(leaf(3)).tanh()))
    assert len([frame for frame in drawn.frames if "return x.exp().sin()" in frame]) == 2


def test_frames_by_module():
    net = Net()
    loss = net(torch.ones(5, 2, 4)).sum()
    drawn = picture(loss, parameters=net)
    assert set(drawn.frames) == {"enter (Linear)", "norm (LayerNorm)", "leave (Linear)"}
    assert drawn.inside[drawn.of("Sum")] is None
    assert picture(loss, parameters=net, group="line").frames != drawn.frames
    assert picture(loss, parameters=net, group=None).frames == []


def test_views_around_a_product_stand_in_its_modules_frame():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 4))

        def forward(self, x):
            return (x.view(-1, 4) @ self.weight).view(5, 2, 4)  # views have no parameter that tells whose they are

    net = nn.Sequential(Product(), Product())
    drawn = picture(net(leaf(5, 2, 4)), parameters=net)
    framed = sorted(
        (drawn.inside[name], words.split(" ")[0]) for name, words in drawn.boxes.items() if "leaf" not in name
    )
    assert framed == [
        (f"{number} (Product)", name) for number in (0, 1) for name in ("MmBackward0", "ViewBackward0", "ViewBackward0")
    ]


def test_text_of_a_picture():
    w = nn.Parameter(torch.ones(2))
    text = to_dot((w * 2).sum(), parameters=[("w", w)], group=None)
    text = re.sub(r"draw\.py:\d+", "draw.py:N", re.sub(r'tooltip="(?:[^"\\]|\\.)*"', "tooltip", text))
    # Fonts, colours and the legend are left out.
    boxes = re.sub(r'<FONT[^>]*>|</FONT>| color="[^"]*"| fillcolor="[^"]*"', "", text[text.index("  n0") :])
    expecttest.assert_expected_inline(
        boxes,
        """\
  n0 [label=<<B>MulBackward0</B><BR/>test_graph_draw.py:N> tooltip]
  n1 [label=<<B>SumBackward0</B><BR/>test_graph_draw.py:N> penwidth=2.5 tooltip]
  leaf0 [label=<<B>w</B><BR/>2> style=filled tooltip]
  leaf0 -> n0
  n0 -> n1 [label="2"]
}
""",
    )


# --- Odd graphs -----------------------------------------------------------------------------------------------------


def two_results(y):
    return [y, y.sin()]


def nested(x):
    (grad,) = torch.autograd.grad((x * x).exp().sum(), x, create_graph=True)
    return grad.sum()


def compiled(x):
    torch._dynamo.reset()
    return torch.compile(lambda x: (x * 2).exp(), backend="eager")(x)


def in_place(x):
    y = x * 2
    y[:2].mul_(3)
    return y


def retained_and_freed(x):
    y = (x * 2).exp()
    y.sum().backward()
    return y.sin()


ODD = {
    # name: (what is drawn, how many boxes)
    "a leaf": (lambda: leaf(3).expand_as(leaf(3)).grad_fn.next_functions[0][0], 1),
    "a node": (lambda: leaf(3).exp().grad_fn, 2),
    "an edge": (lambda: torch.autograd.graph.get_gradient_edge(leaf(3).exp()), 2),
    "several": (lambda: [leaf(3).exp(), {"b": leaf(3).sin()}, None], 4),
    "a result inside of another's graph": (lambda: two_results(leaf(3).exp()), 3),
    "double backward": (lambda: nested(leaf(3)), 8),
    "compiled": (lambda: compiled(leaf(3)), 3),
    "in place": (lambda: in_place(leaf(3)), 3),
    "freed in part": (lambda: retained_and_freed(leaf(3)), 4),
    "a checkpoint": (lambda: checkpoint(torch.exp, leaf(3), use_reentrant=False), 2),
    "a reentrant checkpoint": (lambda: checkpoint(torch.exp, leaf(3), use_reentrant=True), 2),
    "a subclass": (lambda: (TwoTensor(leaf(3).detach(), leaf(3).detach()).requires_grad_() * 2).sum(), 3),
    "sparse": (lambda: torch.sparse.mm(torch.eye(3).to_sparse(), leaf(3, 3)), 2),
    "complex": (lambda: leaf(3, dtype=torch.complex64).abs(), 2),
    "a scalar": (lambda: leaf(1)[0].exp(), 3),
    "no elements": (lambda: leaf(0, 3).sum(), 2),
    "several outputs": (lambda: sum(leaf(4, 4).unbind()), 6),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("options", [{}, {"saved": True, "group": None}, {"group": "module"}], ids=str)
def test_odd_graphs(name, options):
    build, boxes = ODD[name]
    assert len(picture(build(), **options).boxes) == boxes


def test_no_graph():
    assert picture(torch.ones(1)).legend == "There is no graph."


def test_nodes_without_notes():
    torch_ext.set_detect_anomaly(False)
    loss = leaf(3).exp().sum()
    for group in ("line", "module", None):
        drawn = picture(loss, group=group)
        assert drawn.frames == [] and "ExpBackward0" in drawn.boxes.values()


def test_names_and_lines_are_escaped():
    odd = '<b>"a" & \\n b</b>'
    w = nn.Parameter(torch.ones(2))
    loss = (w if "<i>\\" else '"&').exp()
    drawn = picture(loss, parameters=[(odd, w)])
    assert f"{odd} | 2" in drawn.boxes.values()
    assert 'loss = (w if \\"<i>\\\\\\\\\\" else' in drawn.frames[0]


# --- What is left out -----------------------------------------------------------------------------------------------


def chain(x, count):
    for _ in range(count):
        x = x.sin()
    return x


def test_depth():
    drawn = picture(chain(leaf(3), 10).exp(), depth=3)
    assert sorted(drawn.boxes.values()) == [
        "... 7 more nodes", "ExpBackward0", "SinBackward0", "SinBackward0", "SinBackward0",
    ]  # fmt: skip
    assert ("... 7 more nodes", "SinBackward0", "3") in drawn.named_edges()


def test_depth_counts_the_longest_way():
    x = leaf(3).exp()
    drawn = picture(x + x.sin().cos(), depth=2)
    # exp is one edge away, and three: an arrow from it to what isn't drawn and back would help nobody.
    assert sorted(words.split(" ")[0] for words in drawn.boxes.values()) == [
        "...",
        "AddBackward0",
        "CosBackward0",
        "SinBackward0",
    ]


def test_around():
    x = leaf(3)
    middle = chain(x, 10)
    loss = chain(middle.exp(), 10)
    for around in (middle, middle.grad_fn, torch.autograd.graph.get_gradient_edge(middle)):
        drawn = picture(loss, around=around, depth=1)
        assert sorted(drawn.boxes.values()) == [
            "... 10 more nodes", "... 8 more nodes", "ExpBackward0", "SinBackward0", "SinBackward0",
        ]  # fmt: skip
        marked = [drawn.boxes[name] for name, style in drawn.styles.items() if "#0072B2" in style]
        assert marked == ["SinBackward0"]
    assert len(picture(loss, around=middle).boxes) == 7 + 2
    drawn = picture(loss, around=x, depth=1)
    assert "#0072B2" in drawn.styles[drawn.of("leaf")] and drawn.of("... 20 more nodes")


@pytest.mark.parametrize("around", [leaf(1).exp(), torch.ones(1), []], ids=["another graph's", "no graph", "nothing"])
def test_around_what_is_not_there(around):
    with pytest.raises(ValueError, match="around is no node of the graph"):
        to_dot(leaf(3).exp(), around=around)


def test_limit():
    x = leaf(3)
    parts = [(x.exp()[0] * torch.ones(number)).sum() for number in range(2, 100)]
    drawn = picture(torch.stack(parts).sum(), limit=50)
    nodes = [words for words in drawn.boxes.values() if "Backward" in words]
    assert len(nodes) == 50
    assert drawn.of(f"... {4 * 98 + 2 - 50} more nodes")


def test_a_chain_is_folded():
    drawn = picture(chain(leaf(3), 60).exp())
    # The first is not like the others: its input is a leaf.
    assert sorted(drawn.boxes.values()) == ["ExpBackward0", "SinBackward0", "SinBackward0  x 59", "leaf | 3"]


def test_layers_are_folded():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            return x + self.two(self.one(x).relu())

    net = nn.Sequential(*[Layer() for _ in range(30)])
    drawn = picture(net(torch.ones(2, 8)).sum(), parameters=net)
    (again,) = [words for words in drawn.boxes.values() if words.startswith("the same")]
    # All layers but the first, whose input has no graph, and the second, which stands for the others.
    assert again == "the same 6 nodes 28 more times | (168 nodes)"
    assert len(drawn.boxes) < 30
    assert not any(words.startswith("12.") for words in drawn.boxes.values()), "a leaf of a folded layer"


def test_steps_of_a_recurrent_network_are_folded():
    cell = nn.RNNCell(4, 8)
    h = torch.zeros(2, 8)
    for _ in range(25):
        h = cell(torch.ones(2, 4), h)
    drawn = picture(h, parameters=cell)
    assert drawn.of("the same 6 nodes 23 more times")
    assert {"weight_ih", "weight_hh", "bias_ih", "bias_hh"} <= {words.split(" | ")[0] for words in drawn.boxes.values()}
    assert ("bias_hh", "the same 6 nodes 23 more times", "(23 times)") in drawn.named_edges()


@pytest.mark.parametrize(
    "cell", [nn.LSTMCell(4, 8), nn.GRUCell(4, 8), nn.RNNCell(4, 8)], ids=lambda cell: type(cell).__name__
)
def test_steps_are_folded_where_few_values_pass(cell):
    state = None
    for _ in range(25):
        state = cell(torch.ones(2, 4), state)
    drawn = picture(state[0] if isinstance(state, tuple) else state, parameters=cell)
    again = drawn.of("the same")
    after, before = reached(drawn, again), reached(drawn, again, backward=True)
    # Cut inside of a step, the box would have edges from what follows it.
    assert after & before == {again}
    # No more than the state passes on: two values, h and c, or h and what a gate has made of it.
    assert len([tail for tail, _, _ in drawn.edges if tail == again]) <= 2


def reached(drawn, start, backward=False):
    found, queue = {start}, [start]
    while queue:
        here = queue.pop()
        for edge in drawn.edges:
            tail, head = edge[1::-1] if backward else edge[:2]
            if tail == here and head not in found:
                found.add(head)
                queue.append(head)
    return found


def test_different_lines_and_shapes_are_not_folded():
    x = leaf(64)
    for number in range(60):
        x = x[: 64 - number].sin()
    drawn = picture(x)
    assert not any("same" in words or " x " in words for words in drawn.boxes.values())


def random_graph(seed):
    """A graph of random operators with repeated parts, and its end."""
    chance = random.Random(seed)
    values = [leaf(4) for _ in range(3)]

    def part():
        return [
            (chance.choice(["sin", "exp", "add", "mul"]), chance.randint(1, 6), chance.randint(1, 6))
            for _ in range(chance.randint(1, 7))
        ]

    for _ in range(chance.randint(1, 5)):
        steps = part()
        for _ in range(chance.choice([1, 1, 4, 12])):
            for kind, first, second in steps:
                a, b = values[-min(first, len(values))], values[-min(second, len(values))]
                values.append({"sin": a.sin, "exp": a.exp, "add": lambda: a + b, "mul": lambda: a * b}[kind]())
    return values[-1] * values[-2] if chance.random() < 0.5 else values[-1]


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_lose_no_node_and_no_edge(seed):
    end = random_graph(seed)
    roots = roots_of(end, "test")
    order = nodes_of(roots)
    inner = [node for node in order if "AccumulateGrad" not in node.name()]
    chance = random.Random(seed)
    depth, limit = chance.choice([None, 3, 8]), chance.choice([200, 10])
    around = chance.choice([None, chance.choice(inner)]) if inner else None

    def signature(node):
        return node.name()

    blocks = choose(order, roots, around, depth, limit, signature)
    assert sorted(map(id, (node for block in blocks for node in block.nodes))) == sorted(map(id, inner))
    assert sum(block.kind in ("node", "repeat") for block in blocks) <= limit
    for block in blocks:
        if block.kind == "repeat":
            assert len(block.nodes) % block.period == 0
            # Each time the same operators on the same inputs, counted from each.
            near = [
                node
                for node in inner
                if any(node in other.nodes for other in blocks if other.kind in ("node", "repeat"))
            ]
            place = {node: number for number, node in enumerate(near)}
            for first, second in zip(block.nodes, block.nodes[block.period :], strict=False):
                assert first.name() == second.name()
                for (a, _), (b, _) in zip(first.next_functions, second.next_functions, strict=True):
                    if a in place and b in place:
                        assert place[first] - place[a] == place[second] - place[b]
    Picture(to_dot(end, depth=depth, limit=limit, around=around))


def test_a_deep_graph():
    x = leaf(3)
    for number in range(4000):
        x = x.sin() if number % 7 else x * number
    drawn = picture(x)
    assert len(drawn.boxes) <= 203


# --- It only looks --------------------------------------------------------------------------------------------------


def test_looking_keeps_nothing_and_adds_nothing(tmp_path):
    x = leaf(3)
    y = x.exp()
    watch = weakref.ref(y)
    before = x.exp().grad_fn._sequence_nr()
    draw(y, tmp_path / "graph.dot", saved=True)
    assert summary(y).nodes == 1
    assert x.exp().grad_fn._sequence_nr() == before + 1
    del y
    gc.collect()
    assert watch() is None


# --- Files and errors -----------------------------------------------------------------------------------------------


def test_written_by_graphviz(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "dot"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "drawn as $1"; cat\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    loss = leaf(3).exp()
    for suffix in ("svg", "png", "pdf"):
        draw(loss, tmp_path / f"graph.{suffix}")
        assert (tmp_path / f"graph.{suffix}").read_text() == f"drawn as -T{suffix}\n{to_dot(loss)}"


def test_needs_no_graphviz_for_its_language(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    loss = leaf(3).exp()
    draw(loss, str(tmp_path / "graph.gv"))
    assert (tmp_path / "graph.gv").read_text() == to_dot(loss)
    with pytest.raises(RuntimeError, match="drawing needs Graphviz"):
        draw(loss, tmp_path / "graph.svg")


@pytest.mark.parametrize(
    "wrong, error, text",
    [
        ({"graph": 3}, TypeError, r"draw\(\) takes tensors, nodes and gradient edges, got 3"),
        ({"group": "file"}, ValueError, 'group is "line", "module", "auto" or None, got \'file\''),
        ({"around": 3}, TypeError, r"draw\(\) takes tensors, nodes and gradient edges, got 3"),
    ],
)
def test_wrong_arguments(wrong, error, text):
    with pytest.raises(error, match=text):
        to_dot(**{"graph": leaf(3).exp(), **wrong})


@pytest.fixture
def example():
    path = Path(__file__).parents[2] / "examples" / "draw_graph.py"
    spec = importlib.util.spec_from_file_location("draw_graph", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw_graph"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["draw_graph"]


def test_example(example, tmp_path, capsys):
    example.main(["--output", str(tmp_path / "new" / "graph.dot")])
    printed = capsys.readouterr().out
    assert "SwishBackward (custom)" in printed
    page = Path(__file__).parents[2] / "docs" / "explain.md"
    assert printed.partition("picture:")[0] in page.read_text(), "the page shows something else"
    drawn = Picture((tmp_path / "new" / "graph.dot").read_text())
    assert drawn.boxes[drawn.of("Swish")].startswith("SwishBackward | custom Function | draw_graph.py:")
    assert set(drawn.frames) == {"enter (Linear)", "norm (LayerNorm)", "Net", "leave (Linear)"}
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(example.Swish.apply, x)


# --- The table ------------------------------------------------------------------------------------------------------


def test_summary_text():
    x = leaf(8)
    y = make_double(torch_ext.Function).apply(x).exp()
    z = chain(y, 3).sum() + y.sum()
    text = re.sub(r"draw\.py:\d+", "draw.py:N", str(summary(z)))
    assert max(map(len, text.splitlines())) <= 100
    expecttest.assert_expected_inline(
        text,
        """\
8 nodes, 7 deep, 1 leaf, 96 B kept for backward.

  nodes  bytes  kind                     made by
      3   64 B  SinBackward0             test_graph_draw.py:N (3)
      2    0 B  SumBackward0             test_graph_draw.py:N (2)
      1   32 B  ExpBackward0             test_graph_draw.py:N
      1    0 B  DoubleBackward (custom)  test_graph_draw.py:N
      1    0 B  AddBackward0             test_graph_draw.py:N""",
    )
    assert str(summary(torch.ones(1))) == "There is no graph."


def test_summary_data():
    x = leaf(8)
    y = chain(x.exp(), 2)
    found = summary([y])
    assert (found.nodes, found.leaves, found.depth, found.bytes) == (3, 1, 3, 2 * 32)
    # The result of exp is the input of the first sine, and counts once, for exp.
    assert [(row.kind, row.custom, row.nodes, row.bytes) for row in found.rows] == [
        ("SinBackward0", False, 2, 32),
        ("ExpBackward0", False, 1, 32),
    ]
    assert sum(row.bytes for row in found.rows) == found.bytes
    assert json.loads(found.to_json())["rows"][0]["lines"][0][0]["file"] == __file__


def test_summary_without_notes():
    torch_ext.set_detect_anomaly(False)
    assert "ExpBackward0  (line not noted)" in str(summary(leaf(3).exp()))


def test_summary_refuses_what_has_no_graph():
    with pytest.raises(TypeError, match=r"summary\(\) takes tensors, nodes and gradient edges, got 'x'"):
        summary("x")
