"""Options and fixtures that all tests share."""

import gc

import pytest
import torch

VARIANTS = ("ours", "installed")


def pytest_addoption(parser):
    group = parser.getgroup("torch_ext")
    group.addoption(
        "--device",
        default="cpu",
        help="device on which the parity scenarios make their tensors (default: cpu)",
    )
    group.addoption(
        "--variant",
        action="append",
        choices=("stock", *VARIANTS),
        help="what the parity scenarios compare with stock torch; may be repeated. 'stock' checks "
        "that the scenarios themselves are deterministic (default: ours and installed)",
    )


def pytest_configure(config):
    # Bit-for-bit comparison needs sums that are taken in one order.
    torch.set_num_threads(1)


def pytest_generate_tests(metafunc):
    if "variant" in metafunc.fixturenames:
        metafunc.parametrize("variant", metafunc.config.getoption("variant") or VARIANTS)


def pytest_collection_finish(session):
    # Scenarios collect garbage many times: keep torch's own modules out of each pass.
    gc.collect()
    gc.freeze()


@pytest.fixture
def device(request):
    return torch.device(request.config.getoption("device"))
