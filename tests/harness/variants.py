# SPDX-License-Identifier: BSD-3-Clause
"""The implementations that scenarios are run on."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

NAMES = (
    "Function",
    "FunctionCtx",
    "InplaceFunction",
    "NestedIOFunction",
    "detect_anomaly",
    "once_differentiable",
    "set_detect_anomaly",
)


@dataclass(frozen=True)
class Variant:
    """One implementation of ``torch.autograd.Function``.

    Arguments:
        name: its name in test ids.
        api: returns an object with the attributes in ``NAMES``.
        active: a context manager under which scenarios run.
    """

    name: str
    api: Callable[[], object]
    active: Callable[[], contextlib.AbstractContextManager] = field(default=contextlib.nullcontext)


_TORCH_APPLY = torch.autograd.Function.__dict__["apply"]


@contextlib.contextmanager
def _nothing_installed():
    assert torch.autograd.Function.__dict__["apply"] is _TORCH_APPLY, "stock has to run with torch's own apply"
    yield


def _collect(*modules):
    return SimpleNamespace(**{name: vars(m)[name] for m in modules for name in NAMES if name in vars(m)})


def _stock_api():
    return _collect(torch.autograd.function, torch.autograd.anomaly_mode)


# torch_ext is imported only when it is used: `--variant stock` works without it.
def _our_api():
    import torch_ext.anomaly

    return _collect(torch_ext, torch_ext.anomaly)


def _installed():
    import torch_ext

    return torch_ext.installed()


STOCK = Variant("stock", _stock_api, _nothing_installed)
VARIANTS = {
    variant.name: variant
    for variant in (STOCK, Variant("ours", _our_api, _nothing_installed), Variant("installed", _stock_api, _installed))
}
