# SPDX-License-Identifier: BSD-3-Clause
"""What only the newest releases of torch have: gradient dtypes of outputs, node creation hooks, gradient buffers."""

import torch
from harness import scenario

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16


def declaring(s, declare, forward=lambda x: (x.sin().to(BF16), x.cos()), mark=lambda ctx, x, outputs: None):
    class Declares(s.Function):
        @staticmethod
        def forward(ctx, x):
            declare(ctx)
            outputs = forward(x)
            mark(ctx, x, outputs)
            return outputs

        @staticmethod
        def backward(ctx, *grads):
            s.record("backward", grads)
            return torch.ones(2, device=s.device)

    return Declares


def double_gradients(s, Function, x):
    """Run backward with a gradient of dtype float64 for each output."""
    outputs = Function.apply(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    s.record("outputs", outputs)
    differentiable = [y for y in outputs if isinstance(y, torch.Tensor) and y.requires_grad]
    if differentiable:
        torch.autograd.backward(differentiable, [torch.ones(2, dtype=F64, device=s.device) for _ in differentiable])


def bad_nodes(x):
    return x * 2, "no tensor"


@scenario(since="2.14")
def grad_dtype_of_each_output(s):
    for dtypes in ((F32, None), (F64, BF16), (None, None), (BF16, F32), (F32, torch.complex64)):
        x = s.randn(2, requires_grad=True)
        s.outcome(f"{dtypes}", double_gradients, s, declaring(s, lambda ctx: ctx.set_output_grad_dtype(*dtypes)), x)
        s.record("input", x.grad)


@scenario(since="2.14")
def grad_dtype_that_does_not_fit(s):
    x = s.randn(2, requires_grad=True)
    for dtypes in ((F32,), (F32,) * 3, (), (3, None), (F32, "float")):
        Declares = declaring(s, lambda ctx: ctx.set_output_grad_dtype(*dtypes))
        s.raises(f"{dtypes}", Declares.apply, x)
        with torch.no_grad():
            s.raises(f"{dtypes} without grad", Declares.apply, x)
    for value in ([F32, None], 5, None, ()):
        s.outcome(f"assigned {value}", declaring(s, lambda ctx: setattr(ctx, "output_grad_dtypes", value)).apply, x)


@scenario(since="2.14")
def grad_dtype_of_an_output_without_gradient(s):
    def marked(ctx, x, outputs):
        ctx.mark_non_differentiable(outputs[1])

    def whole(x):
        return x * 2, x.int()

    cases = {"marked": (lambda x: (x * 2, x * 3), marked), "integers": (whole, lambda *_: None)}
    cases["no tensor"] = (bad_nodes, lambda *_: None)
    for name, (forward, mark) in cases.items():
        for dtypes in ((F64, F32), (F64, None)):
            Declares = declaring(s, lambda ctx: ctx.set_output_grad_dtype(*dtypes), forward, mark)
            s.outcome(f"{name}, {dtypes}", double_gradients, s, Declares, s.randn(2, requires_grad=True))
            s.outcome(f"{name}, {dtypes}, no grad", Declares.apply, s.randn(2))


@scenario(since="2.14")
def grad_dtype_is_declared_once(s):
    kept = []

    def twice(ctx):
        kept.append(ctx)
        s.record("before", ctx.output_grad_dtypes)
        ctx.set_output_grad_dtype(F32, None)
        s.record("between", ctx.output_grad_dtypes)
        s.raises("again", ctx.set_output_grad_dtype, F32, None)

    declaring(s, twice).apply(s.randn(2, requires_grad=True))
    s.record("after", kept[0].output_grad_dtypes)
    kept[0].output_grad_dtypes = (1, 2)
    s.record("set on the node", kept[0].output_grad_dtypes)
    del kept[0].output_grad_dtypes
    s.record("deleted", kept[0].output_grad_dtypes)
    s.raises("wrong", declaring(s, lambda ctx: (kept.append(ctx), ctx.set_output_grad_dtype(3))).apply, s.randn(2))
    s.record("after an error", kept[-1].output_grad_dtypes)


@scenario(since="2.14")
def grad_dtype_among_other_errors(s):
    """Which error comes first, and what has happened before."""

    def with_attribute(name):
        def declare(ctx):
            ctx.output_grad_dtypes = (3,)
            setattr(ctx, name, 3)

        return declare

    x = s.randn(2, requires_grad=True)
    for name in ("to_save", "non_differentiable", "dirty_tensors", "saved_for_forward"):
        s.raises(name, declaring(s, with_attribute(name)).apply, x)
    made = []

    def remembered(x):
        made.append(x.clone())
        return made[0], "no tensor"

    s.raises("late", declaring(s, lambda ctx: ctx.set_output_grad_dtype(F32, F32), remembered).apply, x)
    s.record("output of it", made[0])
    other = s.randn(2)
    Dirty = declaring(s, lambda ctx: (ctx.mark_dirty(other), ctx.set_output_grad_dtype(3)), lambda x: other)
    s.raises("dirty", Dirty.apply, x)
    s.record("its version", other)


@scenario(since="2.14")
def grad_dtype_of_inputs_and_views(s):
    def declare(ctx):
        ctx.set_output_grad_dtype(F64)

    double_gradients(s, declaring(s, declare, lambda x: x), s.randn(2, requires_grad=True))
    double_gradients(s, declaring(s, declare, lambda x: x.view(2)), s.randn(2, requires_grad=True))
    in_place = declaring(s, declare, lambda x: x.mul_(2), lambda ctx, x, y: ctx.mark_dirty(x))
    double_gradients(s, in_place, s.randn(2, requires_grad=True) * 1)
    double_gradients(s, in_place, (s.randn(2, requires_grad=True) * 1)[:])


@scenario(since="2.14")
def grad_dtype_with_setup_context(s):
    class Declares(s.Function):
        @staticmethod
        def forward(x):
            return x.to(BF16)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.set_output_grad_dtype(F32)

        @staticmethod
        def backward(ctx, grad):
            s.record("backward", grad)
            return grad * 2

    x = s.randn(2, requires_grad=True)
    s.differentiate("by hand", Declares.apply, x)
    s.record("transform", torch.func.grad(lambda x: Declares.apply(x).float().sum())(x.detach()))


def saving(s):
    class Saves(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y, x + y

        @staticmethod
        def backward(ctx, a, b):
            x, y = ctx.saved_tensors
            return a * y + b, a * x + b

    return Saves


def noting(s):
    """A node creation hook that records everything it can see."""

    def hook(node):
        edges = [(f and f.name(), i) for f, i in node.next_functions]
        s.record(f"made {node.name()}", edges, len(node._input_metadata))
        if hasattr(node, "saved_tensors"):
            s.record("saved", node.saved_tensors)

    return torch.autograd.graph.node_creation_hook(hook)


@scenario(since="2.14")
def node_creation_hook_of_a_function(s):
    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    with noting(s):
        a, b = saving(s).apply(x, y)
        s.record("called")
        with torch.no_grad():
            saving(s).apply(x, y)
        saving(s).apply(x.detach(), y.detach())
        s.record("without nodes")
        gradients = torch.autograd.grad((a * b).sum(), (x, y), create_graph=True)
        s.record("gradients", gradients)


@scenario(since="2.14")
def node_creation_hook_of_odd_outputs(s):
    def call(label, forward, x, mark=lambda ctx, x, y: None):
        class Calls(s.Function):
            @staticmethod
            def forward(ctx, x):
                y = forward(x)
                mark(ctx, x, y)
                return y

            @staticmethod
            def backward(ctx, *grads):
                return grads[0]

        s.record(label)
        with noting(s):
            y = Calls.apply(x)
        s.record("output", y)

    def dirty(ctx, x, y):
        ctx.mark_dirty(x)

    x = s.randn(2, requires_grad=True)
    call("input", lambda x: x, x)
    call("view", lambda x: x.view(1, 2), x)
    call("no tensor", lambda x: 3, x)
    call("integers", lambda x: x.int(), x)
    call("nothing differentiable", lambda x: x * 2, x, lambda ctx, x, y: ctx.mark_non_differentiable(y))
    call("in place", lambda x: x.mul_(2), x * 1, dirty)
    call("a view in place", lambda x: x.mul_(2), (x * 1)[:1], dirty)


@scenario(since="2.14")
def node_creation_hooks_nested_and_failing(s):
    Saves = saving(s)
    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)

    def hook(label, fail=None):
        def call(node):
            s.record(label, node.name())
            if fail is not None:
                fail()

        return torch.autograd.graph.node_creation_hook(call)

    def called_with(hooks, *args):
        with hooks:
            return Saves.apply(*args)

    keep = Saves.apply(x, y)  # keeps the nodes of the leaves alive
    with hook("outer"), hook("inner"):
        Saves.apply(x, y)
    s.raises("fails", called_with, hook("failing", lambda: 1 / 0), x, y)
    s.raises("makes a node", called_with, hook("making", lambda: Saves.apply(x, y)), x, y)
    s.raises("makes a node of torch", called_with, hook("making", lambda: x * 2), x, y)
    s.record("still works", Saves.apply(x, y), keep)


@scenario(since="2.14")
def node_creation_hook_that_registers_hooks(s):
    def registers(node):
        name = node.metadata["made"] = node.name()
        node.register_prehook(lambda grads: s.record("before", name, grads))
        node.register_hook(lambda inputs, outputs: s.record("after", name, inputs))

    x = s.randn(2, requires_grad=True)
    with torch.autograd.graph.node_creation_hook(registers), s.detect_anomaly():
        a, b = saving(s).apply(x, x)
        (a + b).sum().backward()
    s.record("gradient", x.grad)


def reading_buffers(s, add):
    class Reads(s.Function):
        @staticmethod
        def forward(ctx, x, factor, y):
            ctx.factor = factor
            return x * factor + y

        @staticmethod
        def backward(ctx, grad):
            buffers = s.outcome("buffers", lambda: ctx.input_grad_buffers)
            gradients = [grad * ctx.factor, None, grad]
            for i, buffer in enumerate(buffers if add and buffers else ()):
                if buffer is not None:
                    buffer.add_(gradients[i])
                    gradients[i] = None
            return tuple(gradients)

    return Reads


@scenario(since="2.15")
def input_grad_buffers_in_backward(s):
    for add in (False, True):
        Reads = reading_buffers(s, add)
        x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
        first = Reads.apply(x, 3, y)
        (first.sum() + (x * y).sum()).backward()
        s.record("other producer first", x.grad, y.grad)
        x.grad = y.grad = None
        product = (x * y).sum()
        (product + Reads.apply(x, 3, y).sum()).backward()
        s.record("other producer last", x.grad, y.grad)
        chained = Reads.apply(Reads.apply(x, 2, y), 2, x)
        s.record("chain", torch.autograd.grad(chained.sum(), (x, y)))


@scenario(since="2.15")
def input_grad_buffers_elsewhere(s):
    Reads = reading_buffers(s, add=False)
    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    out = Reads.apply(x, 3, y)
    s.raises("outside", lambda: out.grad_fn.input_grad_buffers)
    (gradient,) = torch.autograd.grad((out + x * 2).sum(), x, create_graph=True)
    s.record("create_graph", gradient)
    out.grad_fn.register_hook(lambda inputs, outputs: None)
    (out + x * 2).sum().backward()
    s.record("with a hook", x.grad)
    with s.detect_anomaly():
        (Reads.apply(x, 3, y) + x * 2).sum().backward()


@scenario
def needs_input_grad_is_made_once(s):
    class Reads(s.Function):
        @staticmethod
        def forward(ctx, *args):
            ctx.first = ctx.needs_input_grad
            s.record("forward", ctx.needs_input_grad)
            return args[0] * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("same", ctx.first is ctx.needs_input_grad)
            return (grad,) + (None,) * (len(ctx.first) - 1)

    x = s.randn(2, requires_grad=True)
    for count in (0, 1, 23, 62, 63, 64, 80):
        Reads.apply(x, *([x, 3, x.detach()] * count)[:count]).sum().backward()


@scenario
def needs_input_grad_replaced(s):
    kept = []

    class Replaces(s.Function):
        @staticmethod
        def forward(ctx, x, how):
            kept.append(ctx)
            how(ctx)
            s.record("forward", ctx.needs_input_grad)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("backward", ctx.needs_input_grad)
            return grad, None

    def deleted(ctx):
        del ctx.needs_input_grad

    x = s.randn(2, requires_grad=True)
    for value in ((1, 2), "text", None):
        Replaces.apply(x, lambda ctx: setattr(ctx, "needs_input_grad", value)).sum().backward()
    Replaces.apply(x, deleted).sum().backward()
    Replaces.apply(x, lambda ctx: (ctx.needs_input_grad, deleted(ctx))).sum().backward()
