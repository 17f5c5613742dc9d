# SPDX-License-Identifier: BSD-3-Clause
"""The outcome, as a table for people and as JSON for programs."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path

import torch
from rich.table import Table

import torch_ext


def machine(device=torch.device("cpu")):
    """Describe the machine and the releases that the figures are for."""
    return {
        "cpu": cpu_name(),
        "device": device_name(device),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_ext": torch_ext.__version__,
        "threads": torch.get_num_threads(),
    }


def cpu_name():
    info = Path("/proc/cpuinfo")  # on Linux; elsewhere Python's own answer has to do
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def device_name(device):
    if device.type == "cpu":
        return "cpu"
    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"


def per_second(result):
    return {"reference": 1e6 / result.reference, "ours": 1e6 / result.ours}


def legend(row, result):
    """The line below the table that says what a row is."""
    line = f"{row.name}: {row.title}"
    if row.is_step:
        steps = per_second(result)
        line += f"; steps a second: {steps['reference']:,.0f}, measured: {steps['ours']:,.0f}"
    return line


def verdicts(results, goals):
    """Return by row name whether the goal is met, None if there is none."""
    return {name: result.ratio <= goals[name] if name in goals else None for name, result in results.items()}


def to_table(rows, results, goals):
    table = Table()
    table.add_column("row\n", no_wrap=True)
    headings = "reference\nus", "measured\nus", "ratio\n", "quartiles\nof ratio", "goal\n"
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict\n", no_wrap=True)
    words = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}
    met = verdicts(results, goals)
    for row in rows:
        result = results[row.name]
        low, high = result.quartiles
        table.add_row(
            row.name,
            f"{result.reference:.2f}",
            f"{result.ours:.2f}",
            f"{result.ratio:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{goals[row.name]:.2f}" if row.name in goals else "",
            words[met[row.name]],
        )
    return table


def to_memory_table(memory):
    """Return a table of what :func:`memory.measure_memory` returned."""
    table = Table(title="Anomaly mode: memory by node of the graph (bytes)")
    table.add_column("stack")
    for mode in next(iter(memory.values())):
        table.add_column(mode, justify="right")
    for label, modes in memory.items():
        table.add_row(label, *(f"{size:,}" for size in modes.values()))
    return table


def to_json(rows, results, goals, settings, memory=None, device=torch.device("cpu")):
    """Return the outcome as a JSON value; times are in microseconds, memory in bytes per node."""
    met = verdicts(results, goals)
    return {
        "machine": machine(device),
        "settings": settings,
        "anomaly_memory": memory,
        "rows": [
            {
                "name": row.name,
                "title": row.title,
                **asdict(results[row.name]),
                "per_second": per_second(results[row.name]),
                "goal": goals.get(row.name),
                "met": met[row.name],
            }
            for row in rows
        ],
    }
