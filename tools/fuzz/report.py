# SPDX-License-Identifier: BSD-3-Clause
"""The table of facilities."""

from rich.table import Table

from .choices import facilities


def unused(report):
    """Facilities that no program used."""
    return [name for name in facilities() if not report.used[name]]


def to_table(report):
    """For each facility the programs that use it, and the outcomes of the steps that do."""
    table = Table(title=f"{report.programs} programs", width=120, caption="outcomes of the steps that use a facility")
    table.add_column("facility")
    table.add_column("programs", justify="right")
    table.add_column("returned", justify="right")
    table.add_column("raised", justify="right")
    table.add_column("most of all")
    for name in sorted({*facilities(), *report.used}):
        outcomes = report.facilities.get(name, {}).copy()
        returned = outcomes.pop("returned", 0)
        most = sorted(outcomes.items(), key=lambda item: -item[1])[:3]
        table.add_row(
            name,
            str(report.used[name]) if report.used[name] else "[red]unused",
            str(returned),
            str(sum(outcomes.values())),
            ", ".join(f"{kind} {count}" for kind, count in most),
        )
    return table


def summary(report):
    """The lines below the table."""
    lines = [f"{report.programs} programs, {len(report.found)} with a difference"]
    if report.left_out:
        lines.append(f"{report.left_out} programs were not run, since threads can see each other in them")
    if report.stock_leaks:
        lines.append(f"{report.stock_leaks} programs left something alive on stock torch and not on torch_ext")
    if report.after_assertion:
        lines.append(f"{report.after_assertion} programs differed after an internal assertion of torch's had failed")
    if report.unsteady:
        lines.append(f"{report.unsteady} programs differed once and not again, or on stock's threads too")
    if report.stock_crashes:
        numbers = ", ".join(map(str, sorted(report.stock_crashes)[:20]))
        lines.append(f"{len(report.stock_crashes)} programs ended stock torch itself and were not compared: {numbers}")
    missing = unused(report)
    if missing:
        lines.append(f"{len(missing)} facilities that no program used: {', '.join(missing)}")
    return lines
