# SPDX-License-Identifier: BSD-3-Clause
"""Every public name of torch_ext: what ``__all__`` of its modules says, what that returns, and members of classes."""

import importlib
import inspect

import torch_ext

MODULES = ["", ".anomaly", ".checking", ".compare", ".graph", ".hooks", ".lint", ".profile", ".tracer"]
# Classes of what public functions return, that are not to be created.
RETURNED = {
    ".anomaly.report": "Report",
    ".anomaly.facts": "Argument Birth Change Cut Edge Frame Freed Modified Neighbour Origin",
    ".graph.explain": "Reach",
    ".graph.facts": "Copy Packed Row Saver Storage",
}


def public_names():
    """Each name, such as "torch_ext.graph.draw", with its object."""
    found = {}
    for suffix in MODULES:
        module = importlib.import_module(f"torch_ext{suffix}")
        found.update({f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__})
    for suffix, names in RETURNED.items():
        module = importlib.import_module(f"torch_ext{suffix}")
        found.update({f"{module.__name__}.{name}": getattr(module, name) for name in names.split()})
    return found


def own_names():
    """The functions and classes among them that are torch_ext's own, and the public members of the classes."""
    found = {}
    for name, value in public_names().items():
        if not getattr(value, "__module__", "").startswith("torch_ext") or not callable(value):
            continue
        found[name] = value
        is_own_class = inspect.isclass(value) and value is not torch_ext.Function  # apply is documented as torch's
        for key, member in vars(value).items() if is_own_class else ():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if key[0] != "_" and inspect.isfunction(function):
                found[f"{name}.{key}"] = function
    return found
