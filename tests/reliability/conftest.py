# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of reliability share: Python code in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def environment(**more):
    path = os.pathsep.join(
        [str(FOLDER.parents[1]), str(FOLDER.parent), str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    return {**os.environ, "PYTHONPATH": path, **more}


@pytest.fixture
def python():
    """Starts ``python *arguments``, with pipes for its input and output."""
    processes = []

    def start(*arguments, **more):
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**more),
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
