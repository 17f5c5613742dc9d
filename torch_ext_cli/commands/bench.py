# SPDX-License-Identifier: BSD-3-Clause
"""``torch-ext bench``."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import refuse
from ..trying import (
    ArgumentsArgument,
    CallsOption,
    InputsOption,
    JsonOption,
    ScriptOption,
    TargetArgument,
    function_and_calls,
)

if TYPE_CHECKING:
    from rich.table import Table

    from torch_ext.checking import Call
    from torch_ext.checking.bench import Row

_LEGEND = """\
overhead: forward less the same forward called directly, without a graph
C++ node: torch's own view_as of the first input, which computes nothing: the
least to expect of a call that makes a node"""


def bench(
    target: TargetArgument,
    arguments: ArgumentsArgument = None,
    inputs: InputsOption = None,
    script: ScriptOption = None,
    calls: CallsOption = 3,
    # Named here since typer 0.27 takes the metavar for the name.
    device: Annotated[str, typer.Option("--device", help="Where tensors are: cpu or cuda.", metavar="DEVICE")] = "cpu",
    rounds: Annotated[int, typer.Option(help="How often each is timed.", metavar="N", min=2)] = 100,
    threads: Annotated[int, typer.Option(help="CPU threads of torch.", metavar="N", min=1)] = 1,
    as_json: JsonOption = False,
) -> None:
    """Time a Function of yours on stock torch and on torch_ext, against a node in C++.

    Both are timed in one process, in short blocks taken in turns; figures are medians in microseconds, of CPU time or,
    on a GPU, of real time.

    Examples:
        torch-ext bench nets.py:Spike --inputs inputs.py
        torch-ext bench nets:Spike --script train.py --device cuda
    """
    cls, found = function_and_calls("bench", target, inputs, script, arguments, calls)
    place = _device(device)
    import torch

    torch.set_num_threads(threads)
    results = _time(target, cls, [each.changed(lambda tensor: tensor.to(place)) for each in found], rounds)
    name = f"{cls.__module__}.{cls.__qualname__}"
    if as_json:
        typer.echo(json.dumps(_to_json(name, place, threads, results), indent=2))
    else:
        _show(name, place, threads, results)


def _time(target: str, cls: type, calls: list[Call], rounds: int) -> list[tuple[Call, list[Row]]]:
    from rich.console import Console
    from rich.progress import Progress

    from torch_ext.checking.bench import bench as time_function

    # Progress goes to stderr, so that stdout has nothing but the outcome.
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("measuring", total=rounds * len(calls))
        try:
            return [(each, time_function(cls, each, rounds, on_round=lambda: progress.advance(bar))) for each in calls]
        except Exception as error:  # noqa: BLE001  # of the user's forward or backward
            refuse("bench", f"{target} raises {type(error).__name__}: {error}".split("\n", 1)[0])


def _device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        refuse("bench", f"--device is cpu or cuda, got {name!r}", 2)
    if device.type not in ("cpu", "cuda"):
        refuse("bench", f"--device is cpu or cuda, got {name!r}", 2)
    if device.type == "cuda" and not torch.cuda.is_available():
        refuse("bench", f"torch {torch.__version__} sees no GPU")
    return device


def _to_json(name: str, device: Any, threads: int, results: list[tuple[Call, list[Row]]]) -> dict[str, Any]:
    import torch

    import torch_ext

    return {
        "function": name,
        "device": str(device),
        "threads": threads,
        "torch": torch.__version__,
        "torch_ext": torch_ext.__version__,
        "results": [{"inputs": str(call), "rows": [dataclasses.asdict(row) for row in rows]} for call, rows in results],
    }


def _show(name: str, device: Any, threads: int, results: list[tuple[Call, list[Row]]]) -> None:
    import torch
    from rich.console import Console

    console = Console(highlight=False)
    for call, rows in results:
        console.print(f"{name}({call})", markup=False, style="bold")
        console.print(_table(rows))
    console.print(f"microseconds; torch {torch.__version__}, {device}, {threads} CPU thread{'s' * (threads > 1)}")
    console.print(_LEGEND, markup=False)


def _table(rows: list[Row]) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("\n")
    for heading in ("stock\ntorch", "\ntorch_ext", "\nratio", "quartiles\nof ratio", "C++\nnode"):
        table.add_column(heading, justify="right")
    for row in rows:
        it = row.result
        low, high = it.quartiles
        node = "" if row.node is None else f"{row.node:.2f}"
        figures = f"{it.reference:.2f}", f"{it.ours:.2f}", f"{it.ratio:.2f}", f"{low:.2f}-{high:.2f}"
        table.add_row(row.name, *figures, node)
    return table
