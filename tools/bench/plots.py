# SPDX-License-Identifier: BSD-3-Clause
"""The pictures of the benchmarks, of what they print as JSON. On white, so that dark pages show them too."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

# Distinct to the colour-blind. The thin line lies on the wide one, so that both can be seen if they are equal.
SIDES = {
    "reference": {"label": "stock torch", "color": "#E69F00", "linewidth": 5, "alpha": 0.7, "marker": "s"},
    "ours": {"label": "torch_ext", "color": "#0072B2", "linewidth": 1.8, "marker": "o", "markersize": 4},
}


def save(figure, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same figures give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "torch_ext"}):
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def draw_lines(axes, sizes, values, **texts):
    for side, style in SIDES.items():
        axes.plot(sizes, values[side], **style)
    axes.set(**texts)
    axes.set_ylim(0, 1.15 * max(map(max, values.values())))
    finish(axes)


def finish(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def draw_growth(outcome, folder):
    """Write growth_chains.svg and growth_arguments.svg, of what tools.bench.growth prints, into ``folder``."""
    chains, arguments = outcome["chains"], outcome["arguments"]
    sizes = [each["size"] for each in chains]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    times, memory = figure.subplots(1, 2)
    for axes in (times, memory):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    values = {side: [each[side] for each in chains] for side in SIDES}
    title = "Forward, backward and death of a node"
    draw_lines(times, sizes, values, title=title, xlabel="nodes in the chain", ylabel="microseconds")
    values = {side: [each["memory"][side] for each in chains] for side in SIDES}
    draw_lines(memory, sizes, values, title="Memory of a node", xlabel="nodes in the chain", ylabel="bytes")
    save(figure, folder / "growth_chains.svg")

    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.subplots()
    values = {side: [each[side] for each in arguments] for side in SIDES}
    title = "Overhead of a call"
    draw_lines(
        axes, [each["size"] for each in arguments], values, title=title, xlabel="tensors in", ylabel="microseconds"
    )
    axes.set_xlim(left=0)
    save(figure, folder / "growth_arguments.svg")


def draw_overheads(outcome, names, path):
    """Write bars of rows that tools.bench prints: ``names`` are theirs, with words for them."""
    rows = {row["name"]: row for row in outcome["rows"]}
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, (side, style) in enumerate(SIDES.items()):
        places = [place + 0.38 * number for place in range(len(names))]
        bars = axes.barh(places, [rows[name][side] for name in names], 0.38, color=style["color"], label=style["label"])
        axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_yticks([place + 0.19 for place in range(len(names))], [words.replace("`", "") for words in names.values()])
    axes.set(xlabel="microseconds", xlim=(0, 1.12 * max(rows[name]["reference"] for name in names)))
    axes.invert_yaxis()
    finish(axes)
    axes.grid(visible=False, axis="y")
    save(figure, path)


def draw_scaling(outcome, folder):
    """Write scaling.svg, of what tools.bench.scaling prints, into ``folder``."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (title, measured) in zip(figure.subplots(1, 2), outcome["classes"].items(), strict=True):
        counts = [each["threads"] for each in measured]
        values = {side: [each[side] for each in measured] for side in SIDES}
        draw_lines(axes, counts, values, title=title, xlabel="threads", ylabel="chains in a second")
        axes.set_xticks(counts)
    save(figure, folder / "scaling.svg")
