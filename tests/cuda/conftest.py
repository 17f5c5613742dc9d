# SPDX-License-Identifier: BSD-3-Clause
"""What only a GPU shows: collected if ``--device cuda`` finds one."""

from harness import devices


def pytest_ignore_collect(collection_path, config):
    return True if config.stash[devices.CHOICE].leaves_out(collection_path) else None
