# SPDX-License-Identifier: BSD-3-Clause
"""What anomaly mode prints and raises if a backward fails, for torch's own nodes and for Functions."""

import warnings

import pytest
import torch
from harness import scenario, torch_is_since
from harness.anomaly_text import attempt, compare_but_for_leaks, under
from harness.small_functions import make_identity, make_square


def make_failing(base, how):
    """An identity whose backward returns NaN ("nan"), raises ("raise") or returns a wrong shape ("shape")."""

    class Failing(base):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            if how == "raise":
                raise KeyError("from backward")
            return grad * float("nan") if how == "nan" else grad.new_ones(7)

    return Failing


def nan_of_torch(x):
    """A function that is finite in forward for x = 0, and NaN in backward."""
    return (x.sqrt() * 0).sum()


@scenario
def nan_from_a_node_of_torch(s):
    x = s.tensor([0.0, 4.0], requires_grad=True)
    under(s, "backward", lambda: nan_of_torch(x).backward())
    s.record("input", x)


@scenario
def nan_from_a_function(s):
    x = s.randn(2, requires_grad=True)
    under(s, "backward", lambda: (make_failing(s.Function, "nan").apply(x * 2) * 3).sum().backward())
    s.record("input", x)


@scenario
def nan_from_the_second_output(s):
    x, y = s.tensor([1.0], requires_grad=True), s.tensor([float("inf")], requires_grad=True)
    under(s, "backward", lambda: (x * y * 0).sum().backward())
    under(s, "grad of one", lambda: torch.autograd.grad((y * x * 0).sum(), x))


@scenario
def nan_in_what_backward_is_called_with(s):
    x = s.randn(2, requires_grad=True)
    nan = torch.full((2,), float("nan"), device=s.device)
    under(s, "one root", lambda: (x * 2).backward(nan))
    under(s, "two roots", lambda: torch.autograd.backward([x * 2, x * 3], [nan, nan]))
    under(s, "a leaf", lambda: x.backward(nan))
    s.record("input", x)


@scenario
def nan_without_the_check(s):
    x = s.tensor([0.0], requires_grad=True)
    under(s, "backward", lambda: nan_of_torch(x).backward(), check_nan=False)
    s.record("input", x)


@scenario
def nan_from_a_hook(s):
    x = s.randn(2, requires_grad=True)

    def body():
        y = x * 2
        y.register_hook(lambda grad: grad * float("nan"))
        (y * 3).sum().backward()

    under(s, "backward", body)


@scenario
def a_function_raises(s):
    x = s.randn(2, requires_grad=True)
    under(s, "backward", lambda: make_failing(s.Function, "raise").apply(x).sum().backward())


@scenario
def a_gradient_of_the_wrong_shape(s):
    x = s.randn(2, requires_grad=True)
    under(s, "backward", lambda: make_failing(s.Function, "shape").apply(x).sum().backward())


@scenario
def none_and_several_gradients(s):
    class Two(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            return x * 2, y * 3

        @staticmethod
        def backward(ctx, a, b):
            return None, b * float("nan")

    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    under(s, "backward", lambda: sum(t.sum() for t in Two.apply(x, y)).backward())


@scenario
def nothing_fails(s):
    x = s.randn(2, requires_grad=True)
    under(s, "backward", lambda: make_square(s.Function).apply(x * 2).sum().backward())
    under(s, "no gradient", lambda: make_failing(s.Function, "raise").apply(s.randn(2)))
    s.record("input", x)


@scenario
def hooks_raise(s):
    def fail(*args):
        raise KeyError("from a hook")

    def with_tensor_hook(y):
        y.register_hook(fail)

    def with_node_prehook(y):
        y.grad_fn.register_prehook(fail)

    def with_node_hook(y):
        y.grad_fn.register_hook(fail)

    x = s.randn(2, requires_grad=True)
    for register in (with_tensor_hook, with_node_prehook, with_node_hook):
        for name, make in (("torch", lambda x: x * 2), ("function", make_square(s.Function).apply)):

            def body():
                y = make(x)
                register(y)
                (y * 3).sum().backward()

            under(s, f"{register.__name__}, {name}", body)


@scenario
def unpacking_a_saved_tensor_raises(s):
    def unpack(packed):
        raise KeyError("from unpack")

    x = s.randn(2, requires_grad=True)
    for name, make in (("torch", torch.exp), ("function", make_square(s.Function).apply)):

        def body():
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
                y = make(x)
            y.sum().backward()

        under(s, name, body)


@scenario
def unpack_hooks_run_as_often(s):
    x = s.randn(2, requires_grad=True)
    unpacked = []

    def unpack(packed):
        unpacked.append(packed.shape)
        return "no tensor" if len(unpacked) > allowed else packed

    for allowed in (0, 1, 2, 10):
        for name, make in (
            ("square", lambda m: m * m),
            ("product", lambda m: m * torch.ones(2)),
            ("quotient", lambda m: m / torch.ones(2)),
            ("power", lambda m: m ** torch.ones(2)),
            ("bounded", lambda m: m.clamp(-torch.ones(2), torch.ones(2))),
            ("log", lambda m: (m - m).log() * m),
        ):

            def body():
                with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
                    y = make(x * 2)
                y.sum().backward()

            unpacked.clear()
            under(s, f"{name}, {allowed}", body)
            s.record("unpacked", unpacked)


@scenario
def saved_tensor_changed_in_place(s):
    x = s.randn(2, requires_grad=True)
    for name, make in (("torch", lambda m: m * m), ("function", make_square(s.Function).apply)):

        def body():
            middle = x * 2
            y = make(middle)
            middle.add_(1)
            y.sum().backward()

        under(s, name, body)


@scenario
def backward_a_second_time(s):
    x = s.randn(2, requires_grad=True)
    for name, make in (("torch", torch.exp), ("function", make_square(s.Function).apply)):

        def body():
            y = make(x).sum()
            y.backward()
            y.backward()

        under(s, name, body)


@scenario
def backward_that_never_starts(s):
    under(s, "no grad", lambda: s.randn(2).sum().backward())
    under(s, "no scalar", lambda: (s.randn(2, requires_grad=True) * 2).backward())


@scenario
def forward_that_raises(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            raise KeyError("from forward")

    under(s, "forward", lambda: Fails.apply(s.randn(2, requires_grad=True)))


@scenario
def retained_graph(s):
    x = s.tensor([0.0], requires_grad=True)

    def body():
        y = nan_of_torch(x)
        for _ in range(2):
            attempt(s, "retained", y.backward, retain_graph=True)
        y.backward()

    under(s, "last", body)


@scenario
def one_of_two_branches_fails(s):
    x = s.randn(2, requires_grad=True)
    nan, fine = make_failing(s.Function, "nan"), make_identity(s.Function)
    under(s, "backward", lambda: (fine.apply(x).exp() + nan.apply(x).exp()).sum().backward())
    s.record("input", x)
    x.sum().backward()  # the thread's queue holds the other branch until it is next used


@scenario
def warnings_come_after_what_ran(s):
    x = s.tensor([0.0], requires_grad=True)

    def body():
        root = x.sqrt()
        root.register_hook(lambda grad: s.record("hook of root", grad))
        out = (root * 0).sum()
        out.register_hook(lambda grad: s.record("hook of out", grad))
        out.backward()

    under(s, "backward", body)


def call_at_depth(depth, call):
    return call() if depth == 0 else call_at_depth(depth - 1, call)


@scenario
def deep_stack_with_repeated_frames(s):
    x = s.tensor([0.0], requires_grad=True)
    under(s, "backward", lambda: call_at_depth(40, lambda: nan_of_torch(x)).backward())


@scenario
def code_without_a_file(s):
    x = s.tensor([0.0], requires_grad=True)
    names = {"x": x}
    exec(compile("def made():\n    return (x.sqrt() * 0).sum()\n", "<no file>", "exec"), names)
    under(s, "backward", lambda: names["made"]().backward())


# --- Double backward ------------------------------------------------------------------------------


def parents_of_a_node_of_torch(s):
    x = s.tensor([0.0, 1.0], requires_grad=True)

    def body():
        (grad,) = torch.autograd.grad((x**1.5).sum(), x, create_graph=True)
        grad.sum().backward(inputs=[x])
        s.record("first", x.grad)
        ((grad * 0).sqrt() * 0).sum().backward()

    under(s, "double backward", body)


def parents_of_a_function(s):
    failing = make_failing(s.Function, "nan")

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return failing.apply(grad)

    x = s.randn(2, requires_grad=True)

    def body():
        weight = torch.ones(2, device=s.device, requires_grad=True)
        (grad,) = torch.autograd.grad(Outer.apply(x), x, weight, create_graph=True)
        grad.sum().backward()

    under(s, "double backward", body)


def parents_of_parents(s):
    x = s.tensor([2.0], requires_grad=True)

    def raise_nan(grad):
        return grad * float("nan")

    def body():
        y = x**4
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
        node = second.grad_fn
        generations = []
        while node is not None:
            generations.append(node.name())
            node = node.metadata.get("parent_")
        s.record("generations", generations)
        second.register_hook(raise_nan)
        second.sum().backward()

    under(s, "triple backward", body)


def parent_outside_anomaly_mode(s):
    x = s.tensor([2.0], requires_grad=True)
    y = x**3

    def body():
        (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        grad.register_hook(lambda grad: grad * float("nan"))
        grad.sum().backward()

    under(s, "double backward", body)


PARENTS = [parents_of_a_node_of_torch, parents_of_parents, parent_outside_anomaly_mode]
if torch_is_since("2.13"):  # before, torch can't print a parent whose node is destroyed, and raises that
    PARENTS.append(parents_of_a_function)


@pytest.mark.parametrize("body", PARENTS)
def test_parents(body, variant, device):
    compare_but_for_leaks(body, variant, device)


# --- On and off -----------------------------------------------------------------------------------


@scenario
def on_in_backward_only(s):
    x = s.tensor([0.0], requires_grad=True)
    y = nan_of_torch(x)
    z = make_failing(s.Function, "raise").apply(x)
    under(s, "torch", y.backward)
    under(s, "function", z.backward)


@scenario
def on_in_forward_only(s):
    x = s.tensor([0.0], requires_grad=True)
    y = under(s, "torch", lambda: nan_of_torch(x))
    z = under(s, "function", lambda: make_failing(s.Function, "raise").apply(x))
    attempt(s, "torch", y.backward)
    attempt(s, "function", z.backward)
    s.record("input", x)


@scenario
def on_in_forward_and_again_in_backward(s):
    x = s.tensor([0.0], requires_grad=True)
    y = under(s, "forward", lambda: nan_of_torch(x))
    under(s, "backward", y.backward)


@scenario
def on_in_a_part_of_forward(s):
    x = s.tensor([0.0], requires_grad=True)

    def body():
        root = x.sqrt()
        with s.set_detect_anomaly(False):
            out = root * 0
        s.record("keys", sorted(root.grad_fn.metadata), sorted(out.grad_fn.metadata))
        out.sum().backward()

    under(s, "backward", body)


@scenario
def switched_off_in_backward(s):
    class Off(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            torch.set_anomaly_enabled(False)
            return grad * float("nan")

    x = s.randn(2, requires_grad=True)
    under(s, "backward", lambda: Off.apply(x).sum().backward())
    s.record("input", x)


@scenario
def switched_on_in_backward(s):
    class On(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            s.set_detect_anomaly(True)
            return grad * float("nan")

    x = s.randn(2, requires_grad=True)
    try:
        attempt(s, "backward", On.apply(x).sum().backward)
    finally:
        s.set_detect_anomaly(False)
    s.record("input", x)


# --- Warnings as errors ---------------------------------------------------------------------------


@scenario
def warnings_are_errors(s):
    x = s.tensor([0.0], requires_grad=True)

    def body():
        with s.set_detect_anomaly(True):
            torch.autograd.backward(nan_of_torch(x))

    def as_errors(call):
        warnings.simplefilter("error")
        call()

    attempt(s, "making detect_anomaly", as_errors, s.detect_anomaly)
    attempt(s, "backward", as_errors, body)
    s.record("enabled", torch.is_anomaly_enabled())


@scenario
def warnings_of_a_failing_backward_are_errors(s):
    x = s.randn(2, requires_grad=True)

    def body():
        warnings.simplefilter("error")
        with s.set_detect_anomaly(True):
            make_failing(s.Function, "raise").apply(x).sum().backward()

    attempt(s, "backward", body)
