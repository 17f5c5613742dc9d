# SPDX-License-Identifier: BSD-3-Clause
"""The memory of a device that a Function keeps, and when it releases it."""

import gc

import torch
import torch.utils.checkpoint
from harness import scenario
from harness.engine import settle
from harness.small_functions import make_product, make_square

SIZE = 1 << 20  # elements of a tensor: 4 MiB


class Memory:
    """Allocated memory of the device in tensors of SIZE, counted from the creation of this object."""

    def __init__(self, s):
        self.s = s
        self.start = self.bytes()

    def bytes(self):
        return self.s.device_module.memory_allocated(self.s.device)

    def tensors(self):
        return (self.bytes() - self.start) / (4 * SIZE)

    def record(self, label):
        settle(self.s.device)
        self.s.record(label, self.tensors())

    def record_peak(self, label, call, *args):
        """Record the most that ``call(*args)`` takes while it runs."""
        settle(self.s.device)
        self.s.device_module.reset_peak_memory_stats(self.s.device)
        before = self.bytes()
        result = call(*args)
        peak = self.s.device_module.max_memory_allocated(self.s.device) - before
        self.s.record(label, peak / (4 * SIZE))
        return result


def make_keeping(s, in_backward):
    """exp, which saves its input and its result; ``in_backward(ctx, grad)`` is its backward."""

    class Keeping(s.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(x, y)
            return y

        @staticmethod
        def backward(ctx, grad):
            return in_backward(ctx, grad)

    return Keeping


@scenario
def saved_until_backward(s):
    memory = Memory(s)
    x = torch.zeros(SIZE, device=s.device, requires_grad=True)
    y = x
    for _ in range(4):
        y = make_square(s.Function).apply(y)
    memory.record("after forward")
    y.sum().backward()
    memory.record("after backward")
    del y
    memory.record("without the output")
    x.grad = None
    memory.record("without the gradient")
    del x
    memory.record("without anything")


@scenario
def saved_until_the_graph_is_dropped(s):
    memory = Memory(s)
    x = torch.zeros(SIZE, device=s.device, requires_grad=True)
    y = make_square(s.Function).apply(make_product(s.Function).apply(x, x.detach() + 1)).sum()
    memory.record("after forward")
    node = y.grad_fn.next_functions[0][0]
    del y
    memory.record("the node alone")
    del node
    memory.record("nothing")


@scenario
def retained(s):
    memory = Memory(s)
    x = torch.zeros(SIZE, device=s.device, requires_grad=True)
    y = make_square(s.Function).apply(x * 2).sum()
    for _ in range(2):
        torch.autograd.grad(y, x, retain_graph=True)
        memory.record("retained")
    torch.autograd.grad(y, x)
    memory.record("let go")


@scenario
def released_node_by_node(s):
    """Each node's tensors are freed before the next node runs."""
    memory, seen = Memory(s), []

    def in_backward(ctx, grad):
        x, y = ctx.saved_tensors
        seen.append(memory.tensors())
        return grad * y

    x = torch.zeros(SIZE, device=s.device, requires_grad=True)
    y = x
    for _ in range(4):
        y = make_keeping(s, in_backward).apply(y).clone()
    total = y.sum()
    del y
    total.backward()
    s.record("in each backward", seen)
    memory.record("afterwards")


@scenario
def locals_of_backward(s):
    memory, seen = Memory(s), []

    def in_backward(ctx, grad):
        x, y = ctx.saved_tensors
        seen.append(memory.tensors())
        result = grad * y
        seen.append(memory.tensors())
        del x, y
        seen.append(memory.tensors())
        ctx.maybe_clear_saved_tensors()
        seen.append(memory.tensors())
        return result

    x = torch.zeros(SIZE, device=s.device, requires_grad=True)
    total = make_keeping(s, in_backward).apply(x * 1).sum()
    total.backward()
    s.record("in backward", seen)
    memory.record("afterwards")


@scenario(since="2.13")
def cleared_on_access(s):
    for clear in (False, True):
        memory, seen = Memory(s), []

        def in_backward(ctx, grad, memory=memory, seen=seen):
            x, y = ctx.saved_tensors
            seen.append(memory.tensors())
            del x
            seen.append(memory.tensors())
            result = grad * y
            del y
            seen.append(memory.tensors())
            return result

        function = make_keeping(s, in_backward)
        function.clear_saved_tensors_on_access = clear
        x = torch.zeros(SIZE, device=s.device, requires_grad=True)
        y = function.apply(x * 1)
        total = y.sum()
        del y
        total.backward()
        s.record(f"in backward, {clear}", seen)
        memory.record("afterwards")


@scenario
def gradients_of_a_chain(s):
    """No gradient outlives the node that used it: the peak does not grow with the chain."""

    class Double(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    memory = Memory(s)
    for length in (1, 4, 16):
        x = torch.zeros(SIZE, device=s.device, requires_grad=True)
        y = x
        for _ in range(length):
            y = Double.apply(y)
        total = y.sum()
        del y
        memory.record_peak(f"peak, {length} nodes", total.backward)
        del total
        memory.record("afterwards")


@scenario
def materialized_gradients(s):
    class Two(s.Function):
        @staticmethod
        def forward(ctx, x, materialize):
            ctx.set_materialize_grads(materialize)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, a, b):
            s.record("in backward", a is None, memory.tensors())
            return b * 3, None

    for materialize in (False, True):
        memory = Memory(s)
        x = torch.zeros(SIZE, device=s.device, requires_grad=True)
        Two.apply(x, materialize)[1].sum().backward()
        memory.record("afterwards")


@scenario
def input_changed_in_place(s):
    class Scale(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def backward(ctx, grad):
            return grad.mul_(2)

    memory = Memory(s)
    x = torch.zeros(SIZE, device=s.device, requires_grad=True)
    y = x * 1
    memory.record_peak("peak of the call", Scale.apply, y)
    (y * 2).sum().backward()
    memory.record("afterwards")


@scenario
def error_in_backward(s):
    def in_backward(ctx, grad):
        x, y = ctx.saved_tensors
        raise ValueError("backward")

    memory = Memory(s)
    x = torch.zeros(SIZE, device=s.device, requires_grad=True)
    total = make_keeping(s, in_backward).apply(make_square(s.Function).apply(x)).sum()
    try:
        total.backward()
    except ValueError as error:
        memory.record("while the error is there")
        del error
    memory.record("without the error")
    del total
    gc.collect()
    memory.record("without the graph")


@scenario
def cycle_through_ctx(s):
    memory = Memory(s)

    class Cycle(s.Function):
        @staticmethod
        def forward(ctx, x):
            y = x * 2
            ctx.y = y
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = torch.zeros(SIZE, device=s.device, requires_grad=True)
    y = Cycle.apply(x)
    y.sum().backward()
    del y
    memory.record("in a cycle")
    gc.collect()
    memory.record("after gc")


@scenario
def kept_elsewhere_by_hooks(s):
    memory = Memory(s)
    x = torch.zeros(SIZE, device=s.device, requires_grad=True)
    with torch.autograd.graph.save_on_cpu(pin_memory=True):
        y = make_square(s.Function).apply(make_square(s.Function).apply(x))
    memory.record("after forward")
    y.sum().backward()
    memory.record("after backward")
    s.record("gradient", x.grad[:3])


@scenario
def checkpointed(s):
    memory = Memory(s)
    square = make_square(s.Function).apply
    x = torch.zeros(SIZE, device=s.device, requires_grad=True)
    for reentrant in (False, True):
        y = torch.utils.checkpoint.checkpoint(
            lambda x: square(square(square(x))), x, use_reentrant=reentrant, preserve_rng_state=False
        )
        memory.record("after forward")
        memory.record_peak("peak of backward", y.sum().backward)
        del y
        memory.record("afterwards")


@scenario
def hooks_keep_nothing(s):
    memory = Memory(s)
    x = torch.zeros(SIZE, device=s.device, requires_grad=True)
    y = make_square(s.Function).apply(x)
    seen = []
    y.register_hook(lambda grad: seen.append(memory.tensors()))
    x.register_hook(lambda grad: seen.append(memory.tensors()))
    y.grad_fn.register_prehook(lambda outs: seen.append(memory.tensors()))
    y.grad_fn.register_hook(lambda ins, outs: seen.append(memory.tensors()))
    x.register_post_accumulate_grad_hook(lambda x: seen.append(memory.tensors()))
    y.sum().backward()
    s.record("in hooks", seen)
    memory.record("afterwards")
