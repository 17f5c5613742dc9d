# SPDX-License-Identifier: BSD-3-Clause
"""Texts of two runs, made comparable."""

import re

_DIFFERS_ALWAYS = (
    (re.compile(r"\b0x[0-9a-fA-F]+"), "0x..."),
    (re.compile(r"\b\d{13,}\b"), "..."),  # id()
)


def without_addresses(text: str) -> str:
    """``text`` without what differs between two runs of one program: addresses, and numbers as ``id()`` gives."""
    for pattern, replacement in _DIFFERS_ALWAYS:
        text = pattern.sub(replacement, text)
    return text
