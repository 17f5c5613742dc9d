# SPDX-License-Identifier: BSD-3-Clause
"""Reading one Function, and trying it."""

from collections.abc import Iterable
from typing import Any

import torch

from . import comparing
from .finding import Finding, check_kinds, is_allowed
from .reading import read
from .watch import Watch


def check(
    cls: type[torch.autograd.Function], /, *args: Any, ignore: Iterable[str] = (), **kwargs: Any
) -> tuple[Finding, ...]:
    """Says which mistakes a custom Function has.

    Reads its source, if there is one. With example inputs it runs the Function on
    copies of them too, looks on as :func:`watch` does, and compares gradients and
    double gradients with numerical ones: in float64 (complex128), for one input at
    a time, with the same random numbers at each call. If forward doesn't take
    float64, or backward is ``once_differentiable``, what needs that is left out.

    Args:
        cls: a subclass of ``torch.autograd.Function``.
        *args: example inputs, as ``cls.apply`` takes them; small ones, since each
            element is looked at. If none requires grad, all that can do.
        ignore: kinds of findings to leave out, of :data:`torch_ext.lint.KINDS`.
        **kwargs: keyword arguments of ``cls.apply``.

    Returns:
        What was found, in the order of the lines.

    Raises:
        TypeError: ``cls`` is no such class.
        ValueError: ``ignore`` has a kind that there isn't.
        Exception: what forward or backward raises, unless a finding explains it.
    """
    if not (isinstance(cls, type) and issubclass(cls, torch.autograd.Function)):
        raise TypeError(f"check() takes a subclass of torch.autograd.Function, got {cls!r}")
    ignored = tuple(ignore)
    check_kinds(ignored)
    found = read(cls)
    if args or kwargs:
        watch = Watch(only=cls)
        with watch:
            comparing.run(cls, args, kwargs, watch.findings)
        found.extend(watch.findings)
        found.extend(comparing.compare(cls, args, kwargs, found))
    unique: dict[tuple[str, str, int, str], Finding] = {}
    for each in found:
        by_what = each.what if each.kind.startswith("wrong") else ""
        if each.kind not in ignored and not is_allowed(each):
            unique.setdefault((each.kind, each.file, each.line, by_what), each)
    return tuple(sorted(unique.values(), key=lambda each: (each.file, each.line)))
