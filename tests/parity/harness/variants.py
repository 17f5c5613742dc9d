"""The implementations that scenarios are run on."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

NAMES = ("Function", "FunctionCtx", "InplaceFunction", "NestedIOFunction", "once_differentiable")


@dataclass(frozen=True)
class Variant:
    """One implementation of ``torch.autograd.Function``.

    Arguments:
        name: as it is shown in test ids.
        api: returns an object with the attributes in ``NAMES``.
        active: context manager under which scenarios run.
    """

    name: str
    api: Callable[[], object]
    active: Callable[[], contextlib.AbstractContextManager] = field(default=contextlib.nullcontext)


_TORCH_APPLY = torch.autograd.Function.__dict__["apply"]


@contextlib.contextmanager
def _nothing_installed():
    assert torch.autograd.Function.__dict__["apply"] is _TORCH_APPLY, "stock has to run with torch's own apply"
    yield


def _stock_api():
    return SimpleNamespace(**{name: getattr(torch.autograd.function, name) for name in NAMES})


# torch_ext is imported only where it is used: `--variant stock` works without it.
def _our_api():
    import torch_ext

    return torch_ext


def _installed():
    import torch_ext

    return torch_ext.installed()


STOCK = Variant("stock", _stock_api, _nothing_installed)
VARIANTS = {
    variant.name: variant
    for variant in (STOCK, Variant("ours", _our_api, _nothing_installed), Variant("installed", _stock_api, _installed))
}
