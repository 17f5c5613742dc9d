# SPDX-License-Identifier: BSD-3-Clause
"""The HTML page of what a graph keeps: treemaps as SVG, and the tables. One file, without scripts."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from .. import _page
from . import text
from .facts import Saver, Storage

_WIDTH, _HEIGHT = 1080.0, 520.0
_TITLE = 20.0  # the height of a group's title
_LETTER = 6.6  # the width of one, about
# Smaller storages are drawn as one.
_MOST_TILES = 60

# Tints that the colour-blind can tell apart, with dark letters on them in light mode and in dark.
_TINTS = ("#9CC9E8", "#F4BE7E", "#8FD3B6", "#E5A9CB", "#EFE08A", "#B8B5E6", "#F2A28C", "#C9CDD2")

_STYLE = """
input { position: absolute; opacity: 0; } section { display: none; margin-top: 1rem; }
label { display: inline-block; margin: 1rem .5rem 0 0; padding: .25rem .8rem; border: 1px solid var(--rule);
  border-radius: 1rem; cursor: pointer; }
svg.map { width: 100%; height: auto; } svg text { font-size: 11px; fill: #1d2127; }
svg .title { font-size: 12px; font-weight: 600; } rect { stroke: var(--paper); }
.tile:hover rect { stroke: var(--hover); stroke-width: 2; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em; }
"""


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float


def squarify(sizes: list[float], box: Box) -> list[Box]:
    """Boxes that fill ``box``, with areas in proportion to ``sizes``, largest first, as near to squares as can be."""
    boxes: list[Box] = []
    total, index = sum(sizes), 0
    while index < len(sizes):
        side = min(box.width, box.height)
        scale = box.width * box.height / total if total else 0.0
        end = index + 1
        while end < len(sizes) and _worst(sizes[index : end + 1], scale, side) <= _worst(sizes[index:end], scale, side):
            end += 1
        row = sizes[index:end]
        thickness = sum(row) * scale / side if side else 0.0
        at = 0.0
        for each in row:
            length = side * each / sum(row) if sum(row) else 0.0
            if box.width >= box.height:
                boxes.append(Box(box.x, box.y + at, thickness, length))
            else:
                boxes.append(Box(box.x + at, box.y, length, thickness))
            at += length
        if box.width >= box.height:
            box = Box(box.x + thickness, box.y, max(box.width - thickness, 0.0), box.height)
        else:
            box = Box(box.x, box.y + thickness, box.width, max(box.height - thickness, 0.0))
        total -= sum(row)
        index = end
    return boxes


def _worst(row: list[float], scale: float, side: float) -> float:
    """The longest of a row's boxes, as the ratio of its sides."""
    area = sum(row) * scale
    least = min(row) * scale
    if area <= 0 or least <= 0 or side <= 0:
        return float("inf")
    return max(side * side * max(row) * scale / (area * area), area * area / (side * side * least))


def write(about: Sequence[str], kept: Sequence[Storage], path: str | os.PathLike[str]) -> None:
    """Writes the page with the lines ``about`` and what is kept: see :meth:`SavedMemory.to_html`."""
    head, *details = about
    groupings: list[tuple[str, str, Callable[[Saver], str]]] = [
        ("line", "by line", lambda saver: text.line(saver.line)),
        ("kind", "by kind of node", lambda saver: saver.node),
        ("module", "by module", lambda saver: saver.module or "(no module)"),
    ]
    tabs, shown, sections = [], [], []
    for number, (key, title, label_of) in enumerate(groupings):
        tabs.append(
            f'<input type="radio" name="by" id="{key}"{" checked" * (number == 0)}><label for="{key}">{title}</label>'
        )
        shown.append(
            f"#{key}:checked ~ .{key} {{ display: block; }} "
            f"#{key}:checked + label {{ background: var(--ink); color: var(--paper); }} "
            f"#{key}:focus-visible + label {{ outline: 2px solid var(--dim); }}"
        )
        sections.append(f'<section class="{key}">{_section(kept, title, label_of)}</section>')
    lines = [f"<p>{escape(each)}</p>" for each in details if each]
    body = [f"<h1>{escape(head)}</h1>", *lines, *tabs, *sections]
    _page.write(path, "Kept for backward", _STYLE + " ".join(shown), body)


def _section(kept: Sequence[Storage], title: str, label_of: Callable[[Saver], str]) -> str:
    groups: dict[str, list[Storage]] = {}
    for each in kept:
        if each.bytes:
            groups.setdefault(label_of(each.savers[0]), []).append(each)
    total = sum(each.bytes for each in kept)
    ordered = sorted(groups.items(), key=lambda item: -_sum(item[1]))
    boxes = squarify([float(_sum(members)) for _, members in ordered], Box(0, 0, _WIDTH, _HEIGHT))
    drawn = [
        _group(label, members, box, _TINTS[index % len(_TINTS)], total)
        for index, ((label, members), box) in enumerate(zip(ordered, boxes, strict=True))
    ]
    picture = (
        f'<svg class="map" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="treemap {escape(title)}">'
        f"{''.join(drawn)}</svg>"
        if drawn
        else ""
    )
    rows = "".join(
        f"<tr><td>{text.size(_sum(members))}</td><td>{_sum(members):,}</td><td>{_sum(members) / total:.1%}</td>"
        f"<td>{len(members)}</td><td>{_swatch(index)}{escape(label)}</td></tr>"
        for index, (label, members) in enumerate(ordered)
    )
    head = "<tr><th>size</th><th>bytes</th><th>share</th><th>storages</th><th>what</th></tr>"
    return f"{picture}<table>{head}{rows}</table>" if drawn else ""


def _group(label: str, members: list[Storage], box: Box, tint: str, total: int) -> str:
    size = _sum(members)
    about = f"{label}\n{text.size(size)} ({size:,} bytes, {size / total:.1%}) in {text.plural(len(members), 'storage')}"
    titled = box.height > 2.2 * _TITLE and box.width > 70
    inner = Box(0, _TITLE, box.width, box.height - _TITLE) if titled else Box(0, 0, box.width, box.height)
    parts = [f"<title>{escape(about)}</title>", _rect(Box(0, 0, box.width, box.height), tint, 3)]
    if titled:
        parts.append(_words(f"{text.size(size)}  {label}", 6, 14, box.width - 10, "title"))
    shown, rest = members[:_MOST_TILES], members[_MOST_TILES:]
    sizes = [float(each.bytes) for each in shown] + ([float(_sum(rest))] if rest else [])
    sizes.sort(reverse=True)
    tiles: list[tuple[float, str, str]] = [(float(each.bytes), *_words_of(each)) for each in shown]
    if rest:
        tiles.append((float(_sum(rest)), f"{len(rest)} more", f"{len(rest)} smaller storages, {text.size(_sum(rest))}"))
    tiles.sort(key=lambda tile: -tile[0])
    for (_, name, hover), tile in zip(tiles, squarify(sizes, inner), strict=True):
        content = [f"<title>{escape(hover)}</title>", _rect(Box(0, 0, tile.width, tile.height), tint, 1)]
        if tile.height > 16 and tile.width > 40:
            content.append(_words(name, 6, 14, tile.width - 8, ""))
        parts.append(_svg(tile, "".join(content), "tile"))
    return _svg(box, "".join(parts), "group")


def _words_of(storage: Storage) -> tuple[str, str]:
    """What a tile says, and what it says if the pointer is on it."""
    what = text.shape(storage.shape, storage.dtype)
    savers = "\n".join(f"{each.name} of {each.node}, {text.line(each.line)}" for each in storage.savers)
    return f"{storage.savers[0].name} {what}", f"{what}, {text.size(storage.bytes)} ({storage.bytes:,} bytes)\n{savers}"


def _sum(storages: list[Storage]) -> int:
    return sum(each.bytes for each in storages)


def _svg(box: Box, content: str, kind: str) -> str:
    # An svg of its own cuts off what is too long.
    place = f'x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    return f'<svg {place}><g class="{kind}">{content}</g></svg>'


def _rect(box: Box, fill: str, width: int) -> str:
    size = f'width="{box.width:.1f}" height="{box.height:.1f}"'
    return f'<rect {size} fill="{fill}" stroke-width="{width}"/>'


def _words(words: str, x: float, y: float, width: float, kind: str) -> str:
    fitting = text.cut(words, int(width / _LETTER))
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(fitting)}</text>'


def _swatch(index: int) -> str:
    return f'<span class="swatch" style="background:{_TINTS[index % len(_TINTS)]}"></span>'
