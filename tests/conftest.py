"""Options and fixtures that all tests share."""

import gc
import warnings

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
    # Bit-for-bit comparison needs sums that are taken in one order.
    torch.set_num_threads(1)


def pytest_generate_tests(metafunc):
    if "variant" in metafunc.fixturenames:
        variants = metafunc.config.getoption("variant") or VARIANTS
        not_for = getattr(metafunc.function, "not_for", ())
        metafunc.parametrize("variant", [variant for variant in variants if variant not in not_for])


def _load_what_torch_loads_on_first_use():
    # Its warnings and classes would show in the first run of a scenario and not in the second.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.forward_ad.dual_level():
            torch.autograd.forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


def pytest_collection_finish(session):
    _load_what_torch_loads_on_first_use()
    # Scenarios collect garbage many times: keep torch's own modules out of each pass.
    gc.collect()
    gc.freeze()


@pytest.fixture
def repeat(request):
    return request.config.getoption("leaks")


@pytest.fixture
def device(request):
    return torch.device(request.config.getoption("device"))
