# SPDX-License-Identifier: BSD-3-Clause
"""The ratio, measured to reference, that each row of the benchmark has to reach."""

import torch

ANOMALY = {"noting": 1.1, "anomaly": 1.2, "anomaly_nan": 1.6, "anomaly_deep": 1.2, "anomaly_nan_deep": 1.6}

GOALS = {
    "2.13": {
        "identity": 0.30,
        "saved": 0.40,
        "many": 0.35,
        "setup_context": 0.10,
        "chain": 0.50,
        "hook_call": 1.0,
        "node_hook_call": 1.0,
        "view_as": 1.0,
        **ANOMALY,
    },
    "2.15": {
        "identity": 0.50,
        "saved": 0.60,
        "many": 0.60,
        "setup_context": 0.12,
        "chain": 0.65,
        "hook_call": 1.0,
        "node_hook_call": 1.0,
        "view_as": 1.0,
        **ANOMALY,
    },
}


#: The same in instructions. The rows of anomaly mode have the notes of every report on; ``noting`` has those of nodes.
_ANOMALY = {"noting": 1.04, "anomaly": 1.2, "anomaly_nan": 1.4}

INSTRUCTIONS = {
    "2.13": {
        "identity": 0.26,
        "saved": 0.25,
        "many": 0.33,
        "setup_context": 0.06,
        "chain": 0.48,
        "view_as": 0.95,
        **_ANOMALY,
    },
    "2.15": {
        "identity": 0.50,
        "saved": 0.60,
        "many": 0.60,
        "setup_context": 0.07,
        "chain": 0.65,
        "view_as": 0.97,
        **_ANOMALY,
    },
}


def goals_for(version=torch.__version__, goals=GOALS):
    """Return the goals by row name for a torch version; empty if none are set for it."""
    return goals.get(".".join(version.split(".")[:2]), {})
