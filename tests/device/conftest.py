# SPDX-License-Identifier: BSD-3-Clause
"""What only a device shows that runs behind the host: collected with ``--device standin``, and if cuda finds a GPU."""

from harness import devices


def pytest_ignore_collect(collection_path, config):
    return True if config.stash[devices.CHOICE].leaves_out(collection_path) else None
