# SPDX-License-Identifier: BSD-3-Clause
"""Report.draw: the picture, and the error if there can be none."""

import stat

import pytest

from torch_ext.anomaly.facts import Edge, Frame, Neighbour
from torch_ext.anomaly.picture import to_dot
from torch_ext.anomaly.report import Report

FRAME = Frame("folder/model.py", 7, "forward", 'return log(x, "\\n")')
REPORT = Report(
    node_name="LogBackward0",
    found="nan",
    output_index=1,
    error="RuntimeError: a message\nof two lines",
    frames=(FRAME,),
    neighbours=(
        Neighbour("LogBackward0", FRAME, failing=True, born=False),
        Neighbour("SqrtBackward0", None, failing=False, born=True),
        Neighbour("MulBackward0", FRAME, failing=False, born=False),
    ),
    edges=(Edge(2, 0, 0), Edge(0, 1, 1), Edge(0, 2, 0)),
)
DOT = to_dot(REPORT.error, REPORT.found, REPORT.output_index, REPORT.neighbours, REPORT.edges)


@pytest.fixture
def dot(tmp_path, monkeypatch):
    """Puts a program called dot, a shell script, in the place of Graphviz's."""

    def install(script):
        program = tmp_path / "bin" / "dot"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    return install


def test_nodes_and_edges():
    lines = DOT.splitlines()
    assert lines[0] == "digraph {" and lines[-1] == "}"
    assert '"RuntimeError: a message"' in lines[1]
    failing, born, other = (line for line in lines if line.startswith(("  0 [", "  1 [", "  2 [")))
    assert 'LogBackward0\\ngave NaN\\nmodel.py:7 forward\\nreturn log(x, \\"\\\\n\\")' in failing
    assert "fillcolor" in failing and "fillcolor" not in born + other
    assert "SqrtBackward0\\nfirst values not finite" in born and "penwidth" in born
    assert "penwidth" not in other and "gave NaN" not in other
    edges = [line.strip() for line in lines if "->" in line]
    assert edges[0] == "2 -> 0" and edges[2] == "0 -> 2"
    assert edges[1].startswith("0 -> 1 [label=NaN ")


def test_the_failing_node_says_what_changed_or_freed():
    lines = to_dot(
        "error", "exception", None, REPORT.neighbours, REPORT.edges, ["self was changed", "twice"]
    ).splitlines()
    assert 'return log(x, \\"\\\\n\\")\\nself was changed\\ntwice' in lines[4]
    assert not any("changed" in line for line in lines[5:])


def test_no_node_may_have_failed():
    assert to_dot("error " * 30, "no_grad", None, (), ()).splitlines()[1].count("\\n") == 1


def test_source_needs_no_graphviz(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for name in ("graph.dot", "graph.gv"):
        REPORT.draw(tmp_path / name)
        assert (tmp_path / name).read_text() == DOT


def test_draws_with_graphviz(dot, tmp_path):
    dot('echo "drawn as $1"; cat')
    REPORT.draw(str(tmp_path / "graph.svg"))
    assert (tmp_path / "graph.svg").read_text() == "drawn as -Tsvg\n" + DOT


def test_without_graphviz_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match=r"install graphviz.*a file named \*.dot"):
        REPORT.draw(tmp_path / "graph.png")
    assert list(tmp_path.iterdir()) == []


def test_failing_graphviz_leaves_no_half_picture(dot, tmp_path):
    dot('echo half; echo "Format: nothing not recognized" >&2; exit 1')
    picture = tmp_path / "graph.nothing"
    with pytest.raises(ValueError, match=r"graph.nothing.*: Format: nothing not recognized"):
        REPORT.draw(picture)
    assert not picture.exists()


def test_path_without_a_suffix(tmp_path):
    with pytest.raises(ValueError, match="has to name a format"):
        REPORT.draw(tmp_path / "graph")
