# SPDX-License-Identifier: BSD-3-Clause
"""Sparse and nested tensors."""

import torch
from harness import scenario
from harness.small_functions import make_doubler


def doubling(s):
    class Double(s.Function):
        @staticmethod
        def forward(ctx, x):
            s.record("input", x)
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("gradient", grad, ctx.saved_tensors)
            return grad * 2

    return Double


# The first jagged tensor of a process fills a table of torch's, which keeps tensors alive.
torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged)


def coo(s):
    return s.tensor([[1.0, 0.0], [0.0, 2.0]]).to_sparse()


@scenario
def sparse_input_and_output(s):
    x = coo(s).requires_grad_()
    y = doubling(s).apply(x)
    s.record("output", y)
    y.to_dense().sum().backward()
    s.record("leaf", x)


@scenario
def sparse_uncoalesced_input(s):
    x = torch.sparse_coo_tensor([[0, 0, 1]], [1.0, 2.0, 3.0], device=s.device, check_invariants=False).requires_grad_()
    s.record("output", doubling(s).apply(x))


@scenario
def sparse_gradient_of_a_dense_input(s):
    class Lookup(s.Function):
        @staticmethod
        def forward(ctx, table, index):
            ctx.save_for_backward(index)
            ctx.shape = table.shape
            return table[index]

        @staticmethod
        def backward(ctx, grad):
            (index,) = ctx.saved_tensors
            return torch.sparse_coo_tensor(index[None], grad, ctx.shape, check_invariants=False), None

    table = s.randn(4, 2, requires_grad=True)
    Lookup.apply(table, s.tensor([1, 3, 1])).sum().backward()
    s.record("table", table)
    Lookup.apply(table, s.tensor([0])).sum().backward()
    s.record("accumulated", table.grad)


@scenario
def sparse_gradient_that_is_the_one_given(s):
    class Same(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            return grad

    x = coo(s).requires_grad_()
    Same.apply(x).backward(coo(s))
    s.record("leaf", x)


@scenario
def sparse_gradient_of_another_shape(s):
    class Wrong(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            return torch.ones(3, 3).to_sparse()

    y = Wrong.apply(s.randn(2, 2, requires_grad=True))
    s.raises("backward", lambda: y.sum().backward())


@scenario
def sparse_gradient_materialized(s):
    class Two(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x.to_dense()

        @staticmethod
        def backward(ctx, a, b):
            s.record("gradients", a, b)
            return b

    x = coo(s).requires_grad_()
    outputs = Two.apply(x)
    s.record("outputs", outputs)
    s.outcome("backward", lambda: outputs[1].sum().backward())


@scenario
def sparse_dirty(s):
    Scale = make_doubler(s.Function)
    a = coo(s).requires_grad_().clone()
    y = s.outcome("call", Scale.apply, a)
    s.record("same", y is a)


@scenario
def sparse_saved_for_backward(s):
    class Multiply(s.Function):
        @staticmethod
        def forward(ctx, matrix, x):
            ctx.save_for_backward(matrix)
            return matrix @ x

        @staticmethod
        def backward(ctx, grad):
            (matrix,) = ctx.saved_tensors
            s.record("matrix", matrix)
            return None, matrix.t() @ grad

    x = s.randn(2, 2, requires_grad=True)
    Multiply.apply(coo(s), x).sum().backward()
    s.record("leaf", x)


@scenario
def sparse_input_returned(s):
    class Same(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad

    x = coo(s).requires_grad_()
    y = s.outcome("call", Same.apply, x)
    s.record("same", y is x)


@scenario
def compressed_sparse(s):
    for convert in (torch.Tensor.to_sparse_csr, torch.Tensor.to_sparse_csc):
        x = convert(s.tensor([[1.0, 0.0], [0.0, 2.0]])).requires_grad_()
        y = s.outcome(convert.__name__, doubling(s).apply, x)
        s.outcome("backward", lambda y=y: y.to_dense().sum().backward())


@scenario
def block_sparse(s):
    x = torch.eye(4, device=s.device).to_sparse_bsr((2, 2)).requires_grad_()
    s.outcome("call", doubling(s).apply, x)


def nested(s, layout):
    return torch.nested.nested_tensor([s.randn(2, 3), s.randn(1, 3)], layout=layout, requires_grad=True)


def doubling_nested(s):
    """Records parts, not the tensor, whose symbolic size differs from run to run."""

    class Double(s.Function):
        @staticmethod
        def forward(ctx, x):
            s.record("input", type(x), x.is_nested, x.layout, [part.detach() for part in x.unbind()])
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("gradient", type(grad), grad.is_nested, [part.detach() for part in grad.unbind()])
            s.record("saved", ctx.saved_tensors[0].is_nested)
            return grad * 2

    return Double


@scenario
def nested_strided(s):
    """torch has no gradients of strided nested tensors in a custom Function."""
    x = nested(s, torch.strided)
    s.raises("with grad", doubling_nested(s).apply, x)
    y = doubling_nested(s).apply(x.detach())
    s.record("without grad", y.is_nested, y.requires_grad, list(y.unbind()))


@scenario
def nested_jagged(s):
    x = nested(s, torch.jagged)
    y = doubling_nested(s).apply(x)
    s.record("output", y.is_nested, y.requires_grad, y.grad_fn.name(), y.grad_fn._input_metadata[0].is_nested_tensor)
    s.record("values", y.values())
    y.values().sum().backward()
    s.record("gradient", x.grad.values())


@scenario
def nested_from_dense(s):
    for layout in (torch.strided, torch.jagged):

        class Nest(s.Function):
            @staticmethod
            def forward(ctx, x, layout):
                return torch.nested.nested_tensor(list(x.detach().unbind()), layout=layout)

            @staticmethod
            def backward(ctx, grad):
                s.record("gradient", grad.is_nested)
                return torch.stack(list(grad.unbind())), None

        def call(layout=layout, Nest=Nest):
            x = s.randn(2, 3, requires_grad=True)
            y = Nest.apply(x, layout)
            s.record("output", y.is_nested, y.grad_fn.name())
            return torch.autograd.grad(sum(part.sum() for part in y.unbind()), x)

        s.outcome(str(layout), call)


@scenario
def nested_gradient_of_a_dense_input(s):
    class Wrong(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return torch.nested.nested_tensor([torch.ones(3), torch.ones(3)])

    y = Wrong.apply(s.randn(2, 3, requires_grad=True))
    s.outcome("backward", lambda: y.sum().backward())


@scenario
def nested_gradient_materialized(s):
    class Two(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, torch.nested.to_padded_tensor(x, 0.0)

        @staticmethod
        def backward(ctx, a, b):
            s.record("gradients", type(a), a.is_nested, b)
            return a

    x = nested(s, torch.strided)
    s.outcome("backward", lambda: Two.apply(x)[1].sum().backward())


@scenario
def quantized(s):
    q = torch.quantize_per_tensor(s.randn(3), 0.1, 0, torch.qint8)

    class Dequantize(s.Function):
        @staticmethod
        def forward(ctx, x, q):
            ctx.save_for_backward(q)
            return x + q.dequantize()

        @staticmethod
        def backward(ctx, grad):
            s.record("saved", ctx.saved_tensors[0].int_repr())
            return grad, None

    Dequantize.apply(s.randn(3, requires_grad=True), q).sum().backward()


@scenario
def channels_last(s):
    x = s.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = doubling(s).apply(x)
    y.sum().backward()
    s.record("leaf", x)
