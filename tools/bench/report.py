# SPDX-License-Identifier: BSD-3-Clause
"""The outcome as a JSON value, for programs and for the tables."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path

import torch

import torch_ext

from .goals import GOALS, INSTRUCTIONS, goals_for


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


def verdicts(results, goals):
    """Return by row name whether the goal is met, None if there is none."""
    return {name: result.ratio <= goals[name] if name in goals else None for name, result in results.items()}


def to_json(rows, results=None, counts=None, settings=None, memory=None, device=torch.device("cpu")):
    """Return the outcome as a JSON value.

    Args:
        rows: what was measured.
        results: ``timing.Result`` by name, in microseconds; rows that weren't timed are missing.
        counts: ``instructions.Count`` by name.
        settings: what was asked for.
        memory: what ``measure_memory`` returned, in bytes per node.
        device: where the tensors were. The goals were set for the CPU.
    """
    on_cpu = device.type == "cpu"
    goals, counted_goals = (goals_for(torch.__version__, each) if on_cpu else {} for each in (GOALS, INSTRUCTIONS))
    results, counts = results or {}, counts or {}
    met, counted_met = verdicts(results, goals), verdicts(counts, counted_goals)

    def times(name):
        if name not in results:
            return {}
        result = results[name]
        per_second = {"reference": 1e6 / result.reference, "ours": 1e6 / result.ours}
        return {**asdict(result), "per_second": per_second, "goal": goals.get(name), "met": met[name]}

    def instructions(row):
        if row.name not in counts:
            return {}
        count = counts[row.name]
        judged = {"goal": counted_goals.get(row.name), "met": counted_met[row.name], "checked": row.is_checked}
        return {"instructions": {**asdict(count), "ratio": count.ratio, **judged}}

    return {
        "machine": machine(device),
        "settings": settings or {},
        "anomaly_memory": memory,
        "rows": [
            {"name": row.name, "title": row.title, "is_step": row.is_step, **times(row.name), **instructions(row)}
            for row in rows
        ],
    }
