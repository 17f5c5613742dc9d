# SPDX-License-Identifier: BSD-3-Clause
"""Forward and backward on other streams than the default. The CPU's streams do nothing."""

import contextlib

import torch
from harness import scenario
from harness.registering import hooks_of
from harness.small_functions import make_identity, make_product, make_square


class Streams:
    """The device's default stream and two others, each known by its name."""

    def __init__(self, s):
        self.module = torch.get_device_module(s.device)
        self.named = {"default": self.module.current_stream()}
        self.named |= {name: self.module.Stream() for name in ("side", "other")}

    def current(self):
        stream = self.module.current_stream()
        return next((name for name, each in self.named.items() if each == stream), "unknown")

    @contextlib.contextmanager
    def on(self, name):
        """Work on a stream, after what the current one got before, and before what it gets afterwards."""
        around, stream = self.module.current_stream(), self.named[name]
        stream.wait_stream(around)
        with self.module.stream(stream):
            yield
        around.wait_stream(stream)


def make_telling(s, streams):
    """x * 2, which records the stream of its forward and of its backward."""

    class Telling(s.Function):
        @staticmethod
        def forward(ctx, x, label):
            ctx.label = label
            s.record(f"{label}, forward", streams.current())
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record(f"{ctx.label}, backward", streams.current(), grad)
            return grad * 2, None

    return Telling.apply


def large(s, **options):
    """Enough work for a kernel to be still running when the next is launched."""
    return s.randn(256, 256, **options)


@scenario
def forward_on_a_side_stream(s):
    streams = Streams(s)
    telling, x = make_telling(s, streams), large(s, requires_grad=True)
    with streams.on("side"):
        y = telling(x, "side")
    y.sum().backward()
    s.record("afterwards", streams.current(), y, x)


@scenario
def forward_and_backward_on_a_side_stream(s):
    streams = Streams(s)
    telling, x = make_telling(s, streams), large(s, requires_grad=True)
    with streams.on("side"):
        telling(telling(x, "first"), "second").sum().backward()
        s.record("after backward", streams.current())
    s.record("afterwards", streams.current(), x)


@scenario
def backward_on_another_stream_than_forward(s):
    streams = Streams(s)
    telling, x = make_telling(s, streams), large(s, requires_grad=True)
    y = telling(x, "default").sum()
    with streams.on("side"):
        z = telling(y, "side")
    with streams.on("other"):
        z.backward()
        s.record("after backward", streams.current())
    s.record("input", x)


@scenario
def two_branches_on_two_streams(s):
    streams = Streams(s)
    x = large(s, requires_grad=True)
    square, product = make_square(s.Function).apply, make_product(s.Function).apply
    with streams.on("side"):
        a = product(square(x), x)
    with streams.on("other"):
        b = product(x, square(x))
    product(a, b).sum().backward()
    s.record("input", x)


@scenario
def leaves_made_on_streams(s):
    streams = Streams(s)
    product = make_product(s.Function).apply
    with streams.on("side"):
        a = large(s, requires_grad=True)
    with streams.on("other"):
        b = large(s, requires_grad=True)
    for name in ("default", "side", "other"):
        with streams.on(name):
            product(product(a, b), a).sum().backward()
    s.record("leaves", a, b)


@scenario
def leaf_used_first_on_a_side_stream(s):
    streams = Streams(s)
    telling, x = make_telling(s, streams), large(s, requires_grad=True)
    accumulated = []
    x.register_post_accumulate_grad_hook(lambda x: accumulated.append(streams.current()))
    for name in ("side", "default", "other"):
        with streams.on(name):
            y = telling(x, name)
        y.sum().backward()
    s.record("accumulated on", accumulated)
    s.record("input", x)


@scenario
def views_and_changes_in_place_across_streams(s):
    class Scale(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.mul_(3)

        @staticmethod
        def backward(ctx, grad):
            return grad * 3

    streams = Streams(s)
    x = large(s, requires_grad=True)
    a = x.clone()
    with streams.on("side"):
        Scale.apply(a)
        first = a[:1]
    with streams.on("other"):
        out = Scale.apply(first.clone()) + make_identity(s.Function).apply(a)
    out.sum().backward()
    s.record("input", x)


@scenario
def double_backward_across_streams(s):
    streams = Streams(s)
    square, x = make_square(s.Function).apply, large(s, requires_grad=True)
    with streams.on("side"):
        y = square(x)
    with streams.on("other"):
        (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        z = square(grad)
    z.sum().backward()
    s.record("input", grad, x)


@scenario
def streams_that_hooks_see(s):
    streams, hooks = Streams(s), hooks_of(s)
    x = s.randn(3, requires_grad=True)
    with streams.on("side"):
        y = make_square(s.Function).apply(x)
    hooks.register_tensor_hook(x, lambda grad: s.record("leaf", streams.current(), grad))
    hooks.register_post_accumulate_grad_hook(x, lambda x: s.record("accumulated", streams.current(), x.grad))
    hooks.register_tensor_hook(y, lambda grad: s.record("output", streams.current(), grad))
    hooks.register_node_prehook(y.grad_fn, lambda outs: s.record("before", streams.current(), outs))
    hooks.register_node_posthook(y.grad_fn, lambda ins, outs: s.record("after", streams.current(), ins, outs))
    y.sum().backward()
    s.record("input", x)


@scenario
def stream_chosen_inside_backward(s):
    streams = Streams(s)
    telling = make_telling(s, streams)

    class Moves(s.Function):
        @staticmethod
        def forward(ctx, x):
            with streams.on("other"):
                return x * 3

        @staticmethod
        def backward(ctx, grad):
            with streams.on("other"):
                s.record("inside", streams.current())
                result = grad * 3
            s.record("then", streams.current())
            return result

    x = large(s, requires_grad=True)
    with streams.on("side"):
        y = Moves.apply(telling(x, "before"))
    telling(y, "behind").sum().backward()
    s.record("input", x)


@scenario
def stream_left_changed_by_backward(s):
    streams = Streams(s)
    telling = make_telling(s, streams)

    class Leaves(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 3

        @staticmethod
        def backward(ctx, grad):
            result = grad * 3
            streams.named["other"].wait_stream(streams.module.current_stream())
            streams.module.stream(streams.named["other"]).__enter__()
            return result

    x = large(s, requires_grad=True)
    with streams.on("side"):
        y = Leaves.apply(telling(x, "before"))
    try:
        y.sum().backward()
        s.record("the caller's", streams.current() if s.device.type != "cpu" else "one for all threads")
    finally:
        streams.module.stream(streams.named["default"]).__enter__()
    streams.module.synchronize()
    s.record("input", x)


@scenario
def error_on_a_side_stream(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise KeyError(streams.current())

    streams = Streams(s)
    telling, x = make_telling(s, streams), s.randn(3, requires_grad=True)
    with streams.on("side"):
        y = telling(Fails.apply(telling(x, "first")), "last")
    with streams.on("other"):
        s.raises("backward", lambda: y.sum().backward())
        s.record("after the error", streams.current())
    telling(x, "again").sum().backward()
    s.record("input", x)


@scenario
def saved_tensors_hooks_across_streams(s):
    streams = Streams(s)

    def pack(tensor):
        s.record("pack", streams.current())
        return tensor.detach().to("cpu"), tensor.device

    def unpack(packed):
        s.record("unpack", streams.current())
        values, device = packed
        return values.to(device)

    x = large(s, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack), streams.on("side"):
        y = make_square(s.Function).apply(x)
    y.sum().backward()
    s.record("input", x)


@scenario
def reentrant_backward_on_streams(s):
    streams = Streams(s)
    telling = make_telling(s, streams)

    class Reenters(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            with torch.enable_grad(), streams.on("other"):
                leaf = x.detach().requires_grad_()
                telling(leaf, "inner").sum().backward()
            s.record("outer", streams.current())
            return grad * leaf.grad

    x = large(s, requires_grad=True)
    with streams.on("side"):
        y = Reenters.apply(x)
    y.sum().backward()
    s.record("input", x)
