# SPDX-License-Identifier: BSD-3-Clause
"""The compiler, warmed up before the first scenario: what it does on first use would show in that one only."""

import importlib
import warnings

import pytest
import torch

# Everything is compiled anew except C++, of which there is as little as possible.
INDUCTOR = {
    "compile_threads": 1,
    "fx_graph_cache": False,
    "cpp.simdlen": 1,
    "cpp_cache_precompile_headers": False,
}


@pytest.fixture(scope="session", autouse=True)
def compiler(tmp_path_factory):
    """torch's compiler, warmed up, with caches of its own; removed at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("torch._inductor.compile_fx")
        with (
            torch._inductor.config.patch(INDUCTOR),
            torch._dynamo.config.patch(automatic_dynamic_local_pgo=False),
            torch._functorch.config.patch(enable_autograd_cache=False),
        ):
            _warm_up()
            yield
    torch._dynamo.reset()


@pytest.fixture
def device():
    """The CPU, whatever ``--device`` says: the other parts of torch are compared there."""
    return torch.device("cpu")


def _warm_up():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    @torch._dynamo.nonstrict_trace
    def not_looked_into(x):
        return x + 1

    x = torch.ones(2, requires_grad=True)
    compiled = torch.compile(lambda x: Twice.apply(not_looked_into(x)), backend="aot_eager", dynamic=True)
    compiled(x).sum().backward()
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda x: Twice.apply(x).sum().backward(), backend="aot_eager")(x)
    torch._dynamo.reset()
