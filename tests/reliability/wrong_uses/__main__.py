# SPDX-License-Identifier: BSD-3-Clause
"""``python -m wrong_uses stock|ours|installed`` runs the cases that stdin names, and writes their outcomes, as JSON."""

import contextlib
import gc
import json
import os
import re
import sys
import traceback
import types
import warnings

import torch

from . import CASES, leaf, load, make_function, run


def implementation(name):
    if name == "stock":
        return types.SimpleNamespace(Function=torch.autograd.Function)
    import torch_ext

    if name == "installed":
        torch_ext.install()
        return types.SimpleNamespace(Function=torch.autograd.Function)
    return types.SimpleNamespace(Function=torch_ext.Function)


def describe(value, depth=4):
    """What can be compared between processes."""
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {normalise(str(value))}"
    if type(value) in (tuple, list):
        if depth == 0:
            return "..."
        return f"{type(value).__name__}[{', '.join(describe(item, depth - 1) for item in value)}]"
    if isinstance(value, torch.Tensor):
        with contextlib.suppress(Exception):
            return f"tensor {value.detach().tolist()} {value.requires_grad} {value.grad_fn and value.grad_fn.name()}"
    if value is None or type(value) in (bool, int, float, str):
        return normalise(repr(value))
    return normalise(f"a {'type' if isinstance(value, type) else type(value).__name__}")


def normalise(text):
    # torch_ext's subclass of list is documented.
    text = re.sub(r"(torch_ext\._C\.)?LazyTraceback", "list", text)
    text = re.sub(r"0x[0-9a-f]+", "0x...", text)
    return re.sub(r"\b\d+ (bytes|MB)", "N \\1", text)


def outcome(body, api):
    reported = []
    sys.unraisablehook = lambda report: reported.append(describe(report.exc_value))
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                result = "returned " + describe(body(api))
            except BaseException as error:
                result = "raised " + describe(error)
                del error
            gc.collect()
    finally:
        sys.unraisablehook = sys.__unraisablehook__
    lines = [result, *(f"reported {text}" for text in reported)]
    return lines + [f"warned {describe(w.message)}" for w in warned if not issubclass(w.category, ImportWarning)]


def check_sane(api):
    """Whatever has happened before, an ordinary call is right."""
    (y, (grad,)) = run(make_function(api), leaf())
    assert y.tolist() == [2.0, 4.0] and grad.tolist() == [2.0, 2.0], (y, grad)


def run_cases(names, api, output):
    """Writes [name] before each case and [name, outcome] after it."""
    for name in names:
        print(json.dumps([name]), file=output, flush=True)
        lines = outcome(CASES[name], api)
        check_sane(api)
        print(json.dumps([name, lines]), file=output, flush=True)


def in_child(work, *args):
    """What work(*args, output) writes in a forked process, and whether that ended normally."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open(write, "w") as output:
                work(*args, output)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(write)
    with open(read) as output:
        text = output.read()
    return text, os.waitpid(child, 0)[1] == 0


def main():
    """A case may end its process, so they run in a child; the next child goes on from there, with torch loaded."""
    torch.set_num_threads(1)
    api = implementation(sys.argv[1])
    left = json.load(sys.stdin)
    load()
    check_sane(api)  # loads what torch loads on first use
    gc.collect()
    gc.freeze()
    outcomes = {}
    while left:
        text, well = in_child(run_cases, left, api)
        lines = [json.loads(line) for line in text.splitlines()]
        outcomes.update(line for line in lines if len(line) == 2)
        if not well:
            outcomes[lines[-1][0]] = ["crashed"]
        left = [name for name in left if name not in outcomes]
    json.dump(outcomes, sys.stdout)


main()
