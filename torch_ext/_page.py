# SPDX-License-Identifier: BSD-3-Clause
"""Pages of HTML: one file, without scripts and without a network, in light and in dark."""

import os
from collections.abc import Iterable
from html import escape
from pathlib import Path

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1d2127; --dim: #5b6470; --rule: #d9dee4; --hover: #000000; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181c; --ink: #e8eaed; --dim: #9aa4b0; --rule: #343b44; --hover: #ffffff; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; max-width: 1080px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } p { margin: .15rem 0; color: var(--dim); }
h1, p { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin-top: 1rem; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--rule); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th:last-child, td:last-child { text-align: left; width: 99%; white-space: normal; overflow-wrap: anywhere; }
td:last-child { font-family: ui-monospace, monospace; font-size: 13px; }
"""


def write(path: str | os.PathLike[str], title: str, style: str, body: Iterable[str]) -> None:
    """Writes a page.

    Args:
        path: the file.
        title: its title, as text.
        style: what is added to the style that all pages have.
        body: the parts of the page, as HTML.

    Raises:
        OSError: the file can't be written.
    """
    page = [
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width">',
        f"<style>{_STYLE}{style}</style></head><body>",
        *body,
        "</body></html>\n",
    ]
    # A name of the program's may have half of a surrogate pair in it.
    Path(path).write_text("\n".join(page), encoding="utf-8", errors="backslashreplace")
