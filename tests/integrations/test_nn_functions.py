# SPDX-License-Identifier: BSD-3-Clause
"""The Functions that torch itself is written with: those of torch.nn, masked tensors, quantization and the like."""

import types
from unittest import mock

import torch
import torch._prims_common.wrappers
import torch.ao.quantization.fx._decomposed as decomposed
import torch.masked
import torch.nn.utils._expanded_weights
from harness import scenario
from harness.small_functions import make_square
from torch._dynamo._trace_wrapped_higher_order_op import ModIndex
from torch._dynamo.create_parameter_op import TracableCreateParameter, new_parameter_placeholder
from torch._subclasses.complex_tensor._core import Complex
from torch.autograd._functions.tensor import Resize, Type
from torch.masked.maskedtensor import _ops_refs as masked_ops
from torch.nested._internal.nested_tensor import ViewBufferFromNested, ViewNestedFromBuffer
from torch.nn.modules._functions import BackwardHookFunction, CrossMapLRN2d
from torch.nn.parallel._functions import Broadcast, Gather, ReduceAddCoalesced, Scatter
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.utils.checkpoint import CheckpointFunction


def over(s, cls):
    """A subclass of torch's Function ``cls`` that is called as the implementation under test calls.

    ``ModIndex`` has an ``apply`` of its own, which gets there by ``super()``.
    """
    return types.new_class(cls.__name__, (cls, s.Function))


@scenario
def backward_hook_function(s):
    x, y, z = s.randn(2, requires_grad=True), s.randn(2), s.randn(2, requires_grad=True).exp()
    outputs = s.differentiate("all", over(s, BackwardHookFunction).apply, x, y, z)
    s.record("what doesn't require grad", outputs[1])
    s.raises("no tensor", over(s, BackwardHookFunction).apply, 3)


@scenario
def cross_map_lrn(s):
    function = over(s, CrossMapLRN2d)
    calls = {
        "defaults": lambda x: function.apply(x, 3),
        "options": lambda x: function.apply(x, 5, 1e-2, 0.5, 2),
        "module": torch.nn.CrossMapLRN2d(3),
    }
    for name, call in calls.items():
        x = s.randn(2, 5, 2, 2, requires_grad=True)
        out = call(x)
        out.sum().backward()
        s.record(name, out, x)
    s.raises("too few dimensions", function.apply, s.randn(2), 3)
    s.raises("create_graph", torch.autograd.grad, calls["module"](x).sum(), x, create_graph=True)


@scenario
def checkpoint_function(s):
    square = make_square(s.Function)
    function = over(s, CheckpointFunction)

    def body(x, scale, name, y):
        s.record(f"run {name}", torch.is_grad_enabled(), x.requires_grad, y.requires_grad)
        return square.apply(x * y) * scale, name

    x, y = s.randn(3, requires_grad=True), s.randn(3, requires_grad=True)
    for preserve in True, False:
        out, name = function.apply(body, preserve, x, 2.0, "body", y)
        s.record("outputs", out, name)
        out.sum().backward()
        s.record("inputs", x, y)
        s.raises("a second time", lambda: out.sum().backward())
    s.raises("nothing to differentiate", lambda: function.apply(body, False, x, 2.0, "none", y)[0].detach().backward())


@scenario
def data_parallel_functions_without_a_gpu(s):
    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    s.raises("Broadcast", over(s, Broadcast).apply, [0], x, y)
    s.outcome("Broadcast of nothing", over(s, Broadcast).apply, [0])
    s.raises("Gather", over(s, Gather).apply, 0, 0, x, y)
    s.outcome("Scatter", over(s, Scatter).apply, [-1], None, 0, x)
    s.raises("ReduceAddCoalesced", over(s, ReduceAddCoalesced).apply, 0, 1, x, y)
    with mock.patch("torch.cuda.is_available", return_value=False):
        module = torch.nn.DataParallel(torch.nn.Linear(2, 2))
    with torch.no_grad():
        module.module.weight.copy_(s.randn(2, 2))
        module.module.bias.zero_()
    s.differentiate("DataParallel", module, s.randn(1, 2, requires_grad=True))


@scenario
def lobpcg(s):
    base = s.randn(9, 9, dtype=torch.float64)
    a = (base @ base.T + 9 * torch.eye(9, dtype=base.dtype, device=s.device)).requires_grad_()
    start = s.randn(9, 2, dtype=torch.float64)
    s.differentiate("call", lambda a: torch.lobpcg(a, k=2, X=start, niter=50)[0], a)


@scenario
def masked_tensors(s):
    masked_tensor = torch.masked.masked_tensor
    mask = s.tensor([True, False, True])

    def body(x):
        m = masked_tensor(x, mask)
        s.record("masked", type(m).__name__, m.requires_grad, type(m.grad_fn).__name__)
        return (m * m).sum().to_tensor(0.0), torch.masked.as_masked_tensor(x, mask).get_data()

    s.differentiate("of a leaf", body, s.randn(3, requires_grad=True))

    x = masked_tensor(s.randn(3), mask, requires_grad=True)
    y = masked_tensor(s.randn(3), mask, requires_grad=True)
    torch.where(mask, x, y).sum().backward()
    s.record("where", x.grad.get_data(), y.grad.get_data())
    s.outcome("no mask", over(s, masked_ops._MaskedWhere).apply, mask, x, s.randn(3))
    for function in masked_ops._MaskedContiguous, masked_ops._MaskedToDense, masked_ops._MaskedToSparse:
        z = masked_tensor(s.randn(3), mask, requires_grad=True)
        out = over(s, function).apply(z)
        s.record(function.__name__, out.is_leaf, out.layout, type(out.grad_fn).__name__)
        s.raises("no masked tensor", over(s, function).apply, s.randn(3))
    matrix = masked_tensor(s.randn(2, 2), s.tensor([[True, False], [True, True]]), requires_grad=True)
    out = over(s, masked_ops._MaskedToSparseCsr).apply(matrix)
    s.record("rows", out.layout, type(out.grad_fn).__name__)
    s.outcome("backward of rows", lambda: out.to_dense().sum().backward())
    sparse = masked_tensor(s.randn(3).to_sparse(), mask.to_sparse(), requires_grad=True)
    out = over(s, masked_ops._MaskedToDense).apply(sparse)
    s.record("dense", out.layout, type(out.grad_fn).__name__)
    s.outcome("backward", lambda: out.sum().backward())
    s.record("gradient", None if sparse.grad is None else sparse.grad.layout)


@scenario
def nested_tensors_and_their_buffers(s):
    square = make_square(s.Function)
    values, offsets = s.randn(3, 2, requires_grad=True), s.tensor([0, 2, 3])
    for cache in None, {"min_seqlen": 1, "max_seqlen": 2}:
        nested = over(s, ViewNestedFromBuffer).apply(values, offsets, cache)
        s.record("nested", type(nested.grad_fn).__name__, nested.is_nested, nested.requires_grad)
        buffer = over(s, ViewBufferFromNested).apply(nested)
        s.record("buffer", type(buffer.grad_fn).__name__, buffer.shape)
        s.record("gradient", torch.autograd.grad(square.apply(buffer).sum(), values))


@scenario
def masked_reductions(s):
    # torch.masked._combine_input_and_mask creates its Function in each call.
    mask = s.tensor([[True, False], [True, True]])
    x = s.randn(2, 2, requires_grad=True)
    for name in "sum", "amax", "prod", "mean", "softmax", "logsumexp":
        s.differentiate(name, lambda x, name=name: getattr(torch.masked, name)(x, 1, mask=mask), x)
    s.differentiate("input and mask", lambda x: torch.masked._ops._combine_input_and_mask(torch.masked.sum, x, mask), x)


def per_sample_grads(s, module, *inputs, **options):
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(s.randn(*parameter.shape))
    out = call_for_per_sample_grads(module, **options)(*inputs)
    s.record("output", out)
    out.sum().backward()
    s.record("per sample", [p.grad_sample for p in module.parameters()], [p.grad for p in module.parameters()])


@scenario
def expanded_weights(s):
    x = s.randn(2, 4, requires_grad=True)
    per_sample_grads(s, torch.nn.Linear(4, 2), x)
    s.record("input", x)
    per_sample_grads(s, torch.nn.Linear(4, 2, bias=False), s.randn(2, 3, 4), loss_reduction="mean")
    per_sample_grads(s, torch.nn.Embedding(5, 3), torch.tensor([[0, 1], [4, 4]]), batch_size=2)
    per_sample_grads(s, torch.nn.LayerNorm(4), s.randn(2, 4))
    per_sample_grads(s, torch.nn.GroupNorm(2, 4), s.randn(2, 4, 3))
    per_sample_grads(s, torch.nn.InstanceNorm1d(4, affine=True), s.randn(2, 4, 3))
    per_sample_grads(s, torch.nn.Conv1d(4, 2, 2, padding=1), s.randn(2, 4, 3))


@scenario
def fake_quantization(s):
    from torch.ao.quantization import FakeQuantize, MovingAveragePerChannelMinMaxObserver
    from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize

    function = over(s, decomposed.FakeQuantPerChannel)
    scales, zero_points = torch.tensor([0.5, 0.25]), torch.tensor([0, 1], dtype=torch.int32)
    x = s.randn(2, 3, requires_grad=True)
    s.differentiate("call", function.apply, x, scales, zero_points, 0, -2, 2)
    s.outcome("one scale for all", function.apply, x, scales[:1], zero_points, 0, -2, 2)

    observer = MovingAveragePerChannelMinMaxObserver
    learnable = _LearnableFakeQuantize(observer, -8, 7, dtype=torch.qint8, channel_len=2)
    with torch.no_grad():
        learnable.scale.fill_(0.25)
    out = learnable(make_square(s.Function).apply(x))
    out.sum().backward()
    s.record("learnable", out, x, learnable.scale, learnable.zero_point)
    module = FakeQuantize(observer, -8, 7, dtype=torch.qint8, qscheme=torch.per_channel_symmetric, ch_axis=0)
    s.differentiate("module", lambda x: module(make_square(s.Function).apply(x)), x)


@scenario
def complex_tensor(s):
    parts = s.randn(3, requires_grad=True), s.randn(3, requires_grad=True)
    out = over(s, Complex).apply(*parts)
    s.record("output", type(out).__name__, type(out.grad_fn).__name__, out.requires_grad)

    def and_apart_again(x, y):
        z = over(s, Complex).apply(x, y)
        return z.real, z.imag

    s.differentiate("parts", and_apart_again, *parts)


@scenario
def created_parameter(s):
    placeholder = new_parameter_placeholder((3,), torch.float32, s.device, True)
    with torch.enable_grad():
        out = over(s, TracableCreateParameter).apply(s.randn(3, requires_grad=True), placeholder)
    s.record("same object", out is placeholder, type(out).__name__)
    out.square().sum().backward()
    s.record("parameter", out)


@scenario
def legacy_conversions(s):
    x = s.randn(2, 3, requires_grad=True)
    s.differentiate("Type", over(s, Type).apply, x, torch.DoubleTensor)
    s.differentiate("Resize", over(s, Resize).apply, x, (3, 2))
    s.raises("another size", over(s, Resize).apply, x, (3, 3))


@scenario
def mod_index(s):
    function = over(s, ModIndex)
    indices = [s.tensor([0, 1, 1])]
    s.differentiate("call", function.apply, s.randn(2, requires_grad=True), indices)
    s.outcome("vmap", torch.func.vmap(lambda x: function.apply(x, indices)), s.randn(2, 2))
    s.outcome("grad", torch.func.grad(lambda x: function.apply(x, indices).square().sum()), s.randn(2))


@scenario
def a_prim_without_backward(s):
    prim = torch._prims_common.wrappers.backwards_not_supported(torch.ops.aten.sin.default)
    x = s.randn(3, requires_grad=True)
    out = prim(x)
    s.record("output", out)
    s.raises("backward", lambda: out.sum().backward())
    s.record("without gradient", prim(s.randn(3)))
