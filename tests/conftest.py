# SPDX-License-Identifier: BSD-3-Clause
"""Options and fixtures that all tests share."""

import gc
import importlib
import os
import warnings

import pytest
import torch
from harness import devices
from harness.engine import prepare

import torch_ext
from torch_ext import anomaly

# For the tests of the pytest plugin.
pytest_plugins = ["pytester"]

VARIANTS = ("ours", "installed")


def pytest_addoption(parser):
    group = parser.getgroup("torch_ext")
    group.addoption(
        "--device",
        default="cpu",
        help="device on which the parity scenarios make their tensors; 'standin' and 'cuda' run tests/device as well, "
        "'cuda' tests/cuda too, and falls back to the CPU if there is no GPU (default: cpu)",
    )
    group.addoption(
        "--leaks",
        type=int,
        default=0,
        metavar="N",
        help="run each parity scenario N times, and look at what is left rather than at what it shows",
    )
    group.addoption(
        "--variant",
        action="append",
        choices=("stock", *VARIANTS),
        help="what the parity scenarios compare with stock torch; may be repeated. 'stock' checks "
        "that the scenarios themselves are deterministic (default: ours and installed)",
    )


def pytest_configure(config):
    # To compare bit for bit, sums have to be taken in one order.
    torch.set_num_threads(1)
    config.stash[devices.CHOICE] = choice = devices.choose(config.getoption("device"))
    if choice.has_gpu:
        # Without it cuBLAS, which reads it once, has no fixed order on several streams.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def pytest_report_header(config):
    return config.stash[devices.CHOICE].note


def pytest_terminal_summary(terminalreporter, config):
    choice = config.stash[devices.CHOICE]
    if not choice.as_asked:
        terminalreporter.section("device")
        terminalreporter.line(choice.note)


def pytest_generate_tests(metafunc):
    if "variant" in metafunc.fixturenames:
        variants = metafunc.config.getoption("variant") or VARIANTS
        not_for = getattr(metafunc.function, "not_for", ())
        metafunc.parametrize("variant", [variant for variant in variants if variant not in not_for])


def pytest_collection_modifyitems(config, items):
    left_out = [item for item in items if config.stash[devices.CHOICE].cannot_run(item.nodeid)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _load_what_torch_loads_on_first_use():
    # Its warnings and classes would show in the first run of a scenario only.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("torch.utils.mkldnn")  # by the compiler, where there is a GPU
        with torch.autograd.forward_ad.dual_level():
            torch.autograd.forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


def pytest_collection_finish(session):
    _load_what_torch_loads_on_first_use()
    if not session.config.option.collectonly:
        prepare(session.config.stash[devices.CHOICE].device)
    # Scenarios collect garbage many times: keep torch's own modules out of each pass.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left_on():
    """The modes of the process, in which the next test would run."""
    yield
    on = {"installed": torch_ext.is_installed(), "anomaly mode": torch.is_anomaly_enabled(), **vars(anomaly._switch)}
    assert not any(on.values()), on


@pytest.fixture
def repeat(request):
    return request.config.getoption("leaks")


@pytest.fixture
def device(request):
    return request.config.stash[devices.CHOICE].device
