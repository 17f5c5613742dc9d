"""What only a GPU shows: collected where ``--device cuda`` finds one."""

import devices


def pytest_ignore_collect(config):
    return None if config.stash[devices.CHOICE].has_gpu else True
