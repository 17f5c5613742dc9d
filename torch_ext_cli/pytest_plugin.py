# SPDX-License-Identifier: BSD-3-Clause
"""The plugin of pytest: ``pytest --torch-ext`` and ``pytest --torch-ext=compare``. docs/testing.md says what they do.

pytest loads this file in every run, so it imports neither torch nor torch_ext until one of its options asks for them.
"""

from __future__ import annotations

import pytest

_MODES = ("on", "compare", "off")
_MODE = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declares the options. Each is spelt out, so that a path after --torch-ext is a path and no mode."""
    group = parser.getgroup("torch_ext", "torch_ext, a drop-in for torch.autograd.Function")
    for names, mode, text in (
        (("--torch-ext", "--torch-ext=on"), "on", "run the tests on torch_ext instead of stock torch"),
        (
            ("--torch-ext=compare",),
            "compare",
            "run each test on stock torch and on torch_ext, and fail it if the outcomes differ",
        ),
        (("--torch-ext=off",), "off", "run the tests on stock torch, whatever the configuration says"),
    ):
        group.addoption(*names, action="store_const", const=mode, default=None, dest="torch_ext", help=text)
    parser.addini("torch_ext", "on, compare or off: what --torch-ext is if it isn't given", default="off")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Takes the side before the first conftest.py or test is imported, which may keep what it finds."""
    mode = early_config.known_args_namespace.torch_ext or early_config.getini("torch_ext").strip() or "off"
    if mode not in _MODES:
        raise pytest.UsageError(f"torch_ext in pytest's configuration is one of {', '.join(_MODES)}, got {mode!r}")
    early_config.stash[_MODE] = mode
    if mode != "off":
        _begin(early_config, mode)


def _begin(config: pytest.Config, mode: str) -> None:
    try:
        from torch_ext.compare import Sides

        from .testing import Comparing, Running

        sides = Sides()
        sides.take(stock=mode == "compare")
    except (ImportError, RuntimeError) as error:
        raise pytest.UsageError(f"--torch-ext: {error}") from error
    config.add_cleanup(sides.restore)
    plugin = Comparing(sides) if mode == "compare" else Running(sides)
    config.pluginmanager.register(plugin, "torch_ext_tests")


def pytest_configure(config: pytest.Config) -> None:
    """Declares the marker, also for runs without the options."""
    config.addinivalue_line("markers", "torch_ext_stock: under --torch-ext this test runs on stock torch only")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Says what is run on what."""
    mode = config.stash.get(_MODE, "off")
    if mode == "off":
        return None
    import torch_ext

    what = {
        "on": "every custom Function runs on it",
        "compare": "each test runs on stock torch and on it, and fails if the outcomes differ",
    }
    return f"torch_ext {torch_ext.__version__}: {what[mode]}"
