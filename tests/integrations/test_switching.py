# SPDX-License-Identifier: BSD-3-Clause
"""What a part of torch begins under install() and ends after uninstall(), or the other way round."""

from typing import ClassVar

import pytest
import torch
from harness.small_functions import make_product, make_square
from torch._library.custom_ops import OPDEF_TO_LIB
from torch.autograd.function import FunctionMeta
from torch.func import jvp, linearize, vjp, vmap
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import torch_ext


@pytest.fixture(autouse=True)
def as_it_was():
    torch_ext.uninstall()
    yield
    torch_ext.uninstall()
    for name in [name for name in OPDEF_TO_LIB if name.startswith("torch_ext_switching::")]:
        OPDEF_TO_LIB.pop(name)._destroy()


def switch(installed):
    (torch_ext.install if installed else torch_ext.uninstall)()


def recomputed(x, square, product, **options):
    out = checkpoint(lambda x: product.apply(square.apply(x), x).sin(), x, **options)
    return lambda: torch.autograd.grad(out.sum(), x) if not options["use_reentrant"] else (out.sum().backward(), x.grad)


def kept_selectively(x, square, product):
    kept = [torch.ops.aten.mul.Tensor]
    contexts = lambda: create_selective_checkpoint_contexts(kept)  # noqa: E731
    return recomputed(x, square, product, use_reentrant=False, context_fn=contexts)


def packed(x, square, product):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: product.apply(t, t), torch.sqrt):
        out = square.apply(x.abs())
    return lambda: torch.autograd.grad(out.sum(), x)


def double_backward(x, square, product):
    (first,) = torch.autograd.grad(product.apply(square.apply(x), x).sum(), x, create_graph=True)
    return lambda: torch.autograd.grad(square.apply(first).sum(), x)


def pulled_back(x, square, product):
    out, back = vjp(lambda x: product.apply(product.apply(x, x), x), x.detach())
    return lambda: back(torch.ones_like(out))


def pushed_forward(x, square, product):
    out, push = linearize(lambda x: product.apply(x, x), x.detach())
    return lambda: (push(torch.ones_like(x)), jvp(push, (x.detach(),), (out,)))


def mapped(x, square, product):
    out = vmap(lambda x: product.apply(x, x))(x)
    return lambda: torch.autograd.grad(vmap(lambda y: product.apply(y, y))(out).sum(), x)


def through_a_module(x, square, product):
    module = torch.nn.Identity()
    module.register_full_backward_hook(lambda m, ins, outs: (product.apply(ins[0], ins[0]),))
    out = module(square.apply(x))
    return lambda: torch.autograd.grad(out.sum(), x)


def traced(x, square, product):
    call = torch.jit.trace(lambda x: product.apply(square.apply(x), x), x)
    return lambda: (call(x * 2), torch.autograd.grad(call(x).sum(), x))


def of_an_operator(x, square, product):
    op = torch.library.custom_op(
        "torch_ext_switching::cube", lambda x: x**3, mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    op.register_autograd(
        lambda ctx, grad: product.apply(grad, 3 * square.apply(ctx.saved_tensors[0])),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    out = op(x)
    return lambda: torch.autograd.grad(op(out).sum(), x)


def profiled(x, square, product):
    p = profile(activities=[ProfilerActivity.CPU])
    p.start()
    out = square.apply(x).sum()

    def finish():
        gradients = torch.autograd.grad(product.apply(out, out), x)
        p.stop()
        numbers = {e.name: e.sequence_nr for e in p.events()}
        assert numbers["Square"] == numbers["SquareBackward"] < numbers["Product"] == numbers["ProductBackward"]
        return gradients

    return finish


def not_reentrant(x, square, product):
    return recomputed(x, square, product, use_reentrant=False)


def reentrant(x, square, product):
    return recomputed(x, square, product, use_reentrant=True)


BEGUN = [
    not_reentrant,
    reentrant,
    kept_selectively,
    packed,
    double_backward,
    pulled_back,
    pushed_forward,
    mapped,
    through_a_module,
    traced,
    of_an_operator,
    profiled,
]


def run(begin, before, after):
    x = torch.linspace(0.5, 2, 4, requires_grad=True)
    functions = make_square(torch.autograd.Function), make_product(torch.autograd.Function)
    switch(before)
    finish = begin(x, *functions)
    switch(after)
    tensors = torch.utils._pytree.tree_leaves(finish())
    return [t for t in tensors if t is not None]


@pytest.mark.parametrize("before", [False, True], ids=["installed later", "uninstalled later"])
@pytest.mark.parametrize("begin", BEGUN)
def test_ends_as_on_stock(begin, before):
    expected = run(begin, before=False, after=False)
    actual = run(begin, before=before, after=not before)
    assert len(actual) == len(expected) > 0
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


class Notes(FunctionMeta):
    """A metaclass that notes what it creates; that of DeepSpeed's compiler changes the Functions of AOTAutograd."""

    created: ClassVar[list[str]] = []

    def __new__(cls, name, bases, namespace):
        cls.created.append(name)
        return super().__new__(cls, name, bases, namespace)


@pytest.mark.parametrize("install", ["never", "before", "inside"])
def test_compiled_while_the_name_is_another_class(install, monkeypatch):
    torch._dynamo.reset()
    Notes.created.clear()
    torchs_own, own_apply = torch.autograd.Function, vars(torch.autograd.Function)["apply"]
    x = torch.linspace(0.5, 2, 4, requires_grad=True)
    compiled = torch.compile(lambda x: x.sin() * x, backend="aot_eager")
    switch(install == "before")
    with monkeypatch.context() as m:
        m.setattr(torch.autograd, "Function", Notes("Patched", (torchs_own,), {}))
        if install == "inside":
            switch(True)
        y = compiled(x)
    assert "CompiledFunction" in Notes.created
    for out in y, compiled(x):
        assert isinstance(out.grad_fn, torch_ext._C.Ctx) == (install != "never")
        assert torch.equal(torch.autograd.grad(out.sum(), x)[0], torch.autograd.grad((x.sin() * x).sum(), x)[0])
    torch_ext.uninstall()
    assert vars(torchs_own)["apply"] is own_apply
