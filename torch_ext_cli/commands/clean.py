# SPDX-License-Identifier: BSD-3-Clause
"""``torch-ext clean``."""


def clean() -> None:
    """Removes the builds that importing torch_ext has left in the cache folder."""
    raise NotImplementedError
