# SPDX-License-Identifier: BSD-3-Clause
"""What ``torch-ext run`` does inside the program: it begins once torch is imported, and ends as the program ends."""

from . import options


def begin(text: str) -> None:
    """Begins what the options, as a text, ask for."""
    options.from_text(text)
