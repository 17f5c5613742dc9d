# SPDX-License-Identifier: BSD-3-Clause
"""Options of backward() and torch.autograd.grad(), and backward inside backward."""

import torch
import torch._dynamo  # torch does so on the first use of a dispatch mode: its classes are no leak
from harness import scenario
from harness.small_functions import make_identity, make_product, make_square


def make_two_outputs(s, materialize=True):
    class Two(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.set_materialize_grads(materialize)
            return x * 2, y * 3

        @staticmethod
        def backward(ctx, a, b):
            s.record("gradients given", a, b)
            s.record("needs_input_grad", ctx.needs_input_grad)
            return None if a is None else a * 2, None if b is None else b * 3

    return Two


@scenario
def create_graph_to_the_third_derivative(s):
    x = s.randn(3, requires_grad=True)
    product = make_product(s.Function)
    y = product.apply(product.apply(x, x), x)
    for order in range(3):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        s.record(f"derivative {order + 1}", y)


@scenario
def backward_with_create_graph(s):
    x = s.randn(2, requires_grad=True)
    make_square(s.Function).apply(x).sum().backward(create_graph=True)
    s.record("input", x)
    x.grad.sum().backward()
    s.record("input after the second", x)
    x.grad = None


@scenario
def retain_graph_twice(s):
    x = s.randn(2, requires_grad=True)
    y = make_square(s.Function).apply(x)
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    s.record("input", x)
    s.record("saved are gone", y.grad_fn.needs_input_grad)
    s.raises("a third time", lambda: y.sum().backward())
    s.raises("saved_tensors", lambda: y.grad_fn.saved_tensors)


@scenario
def second_backward_without_saved_tensors(s):
    x = s.randn(2, requires_grad=True)
    y = make_identity(s.Function).apply(x)
    y.backward(torch.ones_like(y))
    s.outcome("again", y.backward, torch.ones_like(y))
    s.record("input", x)


@scenario
def saved_none_after_backward(s):
    class SavesNone(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(None)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("saved", ctx.saved_tensors)
            return grad * 2

    x = s.randn(2, requires_grad=True)
    y = SavesNone.apply(x)
    y.backward(torch.ones_like(y))
    s.outcome("again", y.backward, torch.ones_like(y))


@scenario
def backward_inputs_option(s):
    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    a, b = make_two_outputs(s).apply(x, y)
    torch.autograd.backward((a.sum() + b.sum(),), inputs=[y])
    s.record("only y", x, y)


@scenario
def grad_with_inputs_skips_what_is_not_needed(s):
    class Product(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, grad):
            s.record("needs_input_grad", ctx.needs_input_grad)
            x, y = ctx.saved_tensors
            return grad * y, grad * x

    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    z = Product.apply(x * 1, y * 1).sum()
    s.record("x", torch.autograd.grad(z, [x], retain_graph=True))
    s.record("y", torch.autograd.grad(z, [y], retain_graph=True))
    s.record("both", torch.autograd.grad(z, [y, x]))


@scenario
def grad_of_an_intermediate(s):
    x = s.randn(2, requires_grad=True)
    square = make_square(s.Function)
    middle = square.apply(x)
    end = square.apply(middle)
    s.record("middle", torch.autograd.grad(end.sum(), [middle], retain_graph=True))
    s.record("end itself", torch.autograd.grad(end.sum(), [end], retain_graph=True))
    s.record("all", torch.autograd.grad(end, [x, middle, end], torch.ones_like(end)))


@scenario
def gradient_edge_as_input_and_output(s):
    x = s.randn(2, requires_grad=True)
    middle = make_square(s.Function).apply(x)
    edge = torch.autograd.graph.get_gradient_edge(middle)
    s.record("edge", edge.node, edge.output_nr)
    end = make_square(s.Function).apply(middle)
    s.record("by edge", torch.autograd.grad(end.sum(), [edge], retain_graph=True))
    s.record("from edge", torch.autograd.grad([edge], [x], [torch.ones(2, device=s.device)]))


@scenario
def allow_unused(s):
    x, y, z = (s.randn(2, requires_grad=True) for _ in range(3))
    a, b = make_two_outputs(s).apply(x, y)
    s.record("one is unused", torch.autograd.grad(a.sum(), [x, z], allow_unused=True, retain_graph=True))
    s.raises("not allowed", torch.autograd.grad, a.sum(), [x, z], retain_graph=True)
    s.record("materialized", torch.autograd.grad(a.sum(), [x, z], materialize_grads=True))


@scenario
def undefined_gradient_of_an_output(s):
    for materialize in True, False:
        x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
        a, b = make_two_outputs(s, materialize).apply(x, y)
        a.sum().backward()
        s.record(f"materialize={materialize}", x, y)


@scenario
def unused_because_backward_returns_none(s):
    class Blocks(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return None

    x = s.randn(2, requires_grad=True)
    s.record("grad", torch.autograd.grad(Blocks.apply(x).sum(), x, allow_unused=True))
    s.raises("not allowed", lambda: torch.autograd.grad(Blocks.apply(x).sum(), x))
    Blocks.apply(x * 1).sum().backward()
    s.record("input", x)


@scenario
def batched_gradients(s):
    x = s.randn(3, requires_grad=True)
    y = make_square(s.Function).apply(x)
    rows = torch.eye(3, device=s.device)
    s.record("jacobian", torch.autograd.grad(y, x, rows, is_grads_batched=True))


@scenario
def batched_gradients_with_create_graph(s):
    x = s.randn(3, requires_grad=True)
    y = make_square(s.Function).apply(x)
    rows = torch.eye(3, device=s.device)
    (jacobian,) = torch.autograd.grad(y, x, rows, is_grads_batched=True, create_graph=True)
    s.record("jacobian", jacobian)
    s.record("again", torch.autograd.grad(jacobian.sum(), x))


@scenario
def batched_gradients_that_are_partly_undefined(s):
    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    a, b = make_two_outputs(s).apply(x, y)
    rows = torch.eye(2, device=s.device)
    s.record("jacobian", torch.autograd.grad(a, [x, y], rows, is_grads_batched=True, allow_unused=True))


@scenario
def batched_gradients_with_a_function_in_backward(s):
    product = make_product(s.Function)

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 2 * product.apply(grad, x)

    x = s.randn(3, requires_grad=True)
    y = Outer.apply(x)
    rows = torch.eye(3, device=s.device)
    s.outcome("jacobian", lambda: torch.autograd.grad(y, x, rows, is_grads_batched=True))


@scenario
def functional_jacobian_and_hessian(s):
    square = make_square(s.Function)
    x = s.randn(3)
    for vectorize in False, True:
        s.record(
            f"jacobian, vectorize={vectorize}",
            torch.autograd.functional.jacobian(square.apply, x, vectorize=vectorize),
        )
        s.record(
            f"hessian, vectorize={vectorize}",
            torch.autograd.functional.hessian(lambda x: square.apply(x).sum() ** 2, x, vectorize=vectorize),
        )
    s.record("vjp", torch.autograd.functional.vjp(square.apply, x, torch.ones_like(x)))
    s.record("jvp", torch.autograd.functional.jvp(square.apply, x, torch.ones_like(x)))
    s.record("hvp", torch.autograd.functional.hvp(lambda x: square.apply(x).sum(), x, torch.ones_like(x)))


# Backward inside backward


@scenario
def reentrant_backward(s):
    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                make_square(s.Function).apply(leaf).backward(grad)
            s.record("inner gradient", leaf.grad)
            return leaf.grad

    x = s.randn(3, requires_grad=True)
    Outer.apply(x).sum().backward()
    s.record("input", x)


def make_recursive(s, steps):
    class Recursive(s.Function):
        @staticmethod
        def forward(ctx, x, depth):
            ctx.depth = depth
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            steps.append(ctx.depth)
            if ctx.depth:
                with torch.enable_grad():
                    leaf = torch.ones(2, device=s.device, requires_grad=True)
                    Recursive.apply(leaf, ctx.depth - 1).sum().backward()
                grad = grad + leaf.grad
            return grad * 2, None

    return Recursive


@scenario
def reentrant_backward_nested(s):
    steps = []
    x = s.randn(2, requires_grad=True)
    make_recursive(s, steps).apply(x, 5).sum().backward()
    s.record("order", steps)
    s.record("input", x)


@scenario
def reentrant_backward_deeper_than_one_stack(s):
    # At a depth of 60 the engine goes on on another thread.
    steps = []
    x = s.randn(2, requires_grad=True)
    make_recursive(s, steps).apply(x, 130).sum().backward()
    s.record("order", steps)
    s.record("input", x)


@scenario
def reentrant_backward_that_raises(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("inner")

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                leaf = torch.ones(2, device=s.device, requires_grad=True)
                s.raises("inside", lambda: Fails.apply(leaf).sum().backward())
                Fails.apply(leaf).sum().backward()

    x = s.randn(2, requires_grad=True)
    s.raises("outside", lambda: Outer.apply(x).sum().backward())
    s.differentiate("still works", make_square(s.Function).apply, x)


@scenario
def backward_of_the_same_graph_inside_backward(s):
    x = s.randn(2, requires_grad=True)
    first = make_square(s.Function).apply(x)

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            first.backward(torch.ones_like(first), retain_graph=True)
            return grad * 2

    Outer.apply(first).sum().backward()
    s.record("input", x)


@scenario
def leaf_gradient_accumulates_and_is_stolen(s):
    x = s.randn(2, requires_grad=True)
    given = []

    class Keeps(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            given.append(torch.full_like(grad, 7))
            return given[-1]

    Keeps.apply(x).sum().backward()
    s.record("kept elsewhere", x.grad is given[0], x.grad.data_ptr() == given[0].data_ptr())
    Keeps.apply(x).sum().backward()
    s.record("accumulated", x, given)


@scenario
def one_gradient_for_two_inputs(s):
    class Add(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    Add.apply(x, y).sum().backward()
    s.record("gradients", x.grad.data_ptr() == y.grad.data_ptr(), x, y)


@scenario
def the_same_input_twice(s):
    x = s.randn(2, requires_grad=True)
    y = make_product(s.Function).apply(x, x)
    s.record("node", y.grad_fn)
    y.sum().backward()
    s.record("input", x)


@scenario
def chain_in_order_of_sequence_numbers(s):
    order = []

    class Step(s.Function):
        @staticmethod
        def forward(ctx, x, index):
            ctx.index = index
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            order.append(ctx.index)
            return grad * 2, None

    x = s.randn(2, requires_grad=True)
    branches = [Step.apply(x, i) for i in range(4)]
    total = Step.apply(branches[2], 4) + Step.apply(branches[0], 5) + branches[1] + branches[3]
    total.sum().backward()
    s.record("order", order)
    s.record("sequence numbers", [branch.grad_fn for branch in branches])


@scenario
def retain_grad_on_outputs(s):
    x = s.randn(2, requires_grad=True)
    y = make_square(s.Function).apply(x)
    y.retain_grad()
    z = make_square(s.Function).apply(y)
    z.retain_grad()
    z.sum().backward()
    s.record("retained", y, z, x)


@scenario
def current_node_in_backward(s):
    class Looks(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            node = torch._C._current_autograd_node()
            s.record("current node", node is ctx, node)
            s.record("graph task", torch._C._current_graph_task_id() >= 0)
            return grad * 2

    x = s.randn(2, requires_grad=True)
    Looks.apply(x).sum().backward()
    s.record("outside", torch._C._current_autograd_node())


@scenario
def queue_callback_in_backward(s):
    class Queues(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            torch.autograd.Variable._execution_engine.queue_callback(lambda: s.record("callback"))
            s.record("backward")
            return grad * 2

    x = s.randn(2, requires_grad=True)
    y = Queues.apply(x)
    Queues.apply(y).sum().backward()
    s.record("input", x)


@scenario
def multi_grad_hook(s):
    product = make_product(s.Function)
    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    a, b = product.apply(x, y), product.apply(y, y)
    torch.autograd.graph.register_multi_grad_hook([a, b], lambda grads: s.record("all", grads))
    torch.autograd.graph.register_multi_grad_hook([a, b], lambda grad: s.record("any", grad), mode="any")
    (a * b).sum().backward()
    s.record("inputs", x, y)


@scenario
def allow_mutation_on_saved_tensors(s):
    square = make_square(s.Function)
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        x = s.randn(2, requires_grad=True)
        middle = x * 2
        y = square.apply(middle)
        with torch.no_grad():
            middle.add_(1)
        s.outcome("backward", lambda: y.sum().backward())
    s.record("input", x)


@scenario
def mutation_of_a_saved_tensor(s):
    x = s.randn(2, requires_grad=True)
    middle = x * 2
    y = make_square(s.Function).apply(middle)
    middle.add_(1)
    s.raises("backward", lambda: y.sum().backward())
    s.raises("saved_tensors", lambda: y.grad_fn.saved_tensors)
