"""torch's anomaly mode over a Function: what it raises, warns and keeps."""

import re
import warnings

import torch
from harness import scenario
from small_functions import make_identity, make_product, make_square


def run(s, label, body, **options):
    """Record what body() raises under anomaly mode, and the user's lines in the traceback it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.autograd.detect_anomaly(**options):
            s.outcome(label, body)
    for warning in caught:
        text = str(warning.message)
        # Of the stack, torch's frames differ: a call runs through fewer of them.
        frames = re.findall(r'File "[^"]*/(test_anomaly_mode\.py|small_functions\.py)", line (\d+), in (\w+)', text)
        s.record("warning", warning.category, text.partition("Traceback")[0], frames)


def make_nan(s, where="backward"):
    class Nan(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            if where == "raise":
                raise KeyError("backward")
            return grad * float("nan")

    return Nan.apply


@scenario
def nan_from_backward(s):
    x = s.randn(2, requires_grad=True)
    run(s, "backward", lambda: make_nan(s)(x).sum().backward())
    s.record("input", x)


@scenario
def nan_without_the_check(s):
    x = s.randn(2, requires_grad=True)
    run(s, "backward", lambda: make_nan(s)(x).sum().backward(), check_nan=False)
    s.record("input", x)


@scenario
def error_in_backward(s):
    x = s.randn(2, requires_grad=True)
    run(s, "backward", lambda: make_nan(s, "raise")(x).sum().backward())


@scenario
def error_in_forward(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            raise KeyError("forward")

    run(s, "forward", lambda: Fails.apply(s.randn(2, requires_grad=True)))


@scenario
def nothing_goes_wrong(s):
    x, y = s.randn(2, requires_grad=True), s.randn(2, requires_grad=True)
    run(s, "backward", lambda: make_product(s.Function).apply(x, y).sum().backward())
    s.record("inputs", x, y)


@scenario
def metadata_of_the_node(s):
    x = s.randn(2, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly():
            y = make_square(s.Function).apply(x)
    s.record("keys", sorted(y.grad_fn.metadata))
    trace = y.grad_fn.metadata["traceback_"]
    s.record("types", type(trace), type(trace[0]))
    s.record("last line of the user", [line for line in trace if "test_anomaly_mode" in line][-1])


@scenario
def metadata_is_the_users_to_write(s):
    node = make_square(s.Function).apply(s.randn(2, requires_grad=True)).grad_fn
    s.record("empty", node.metadata)
    node.metadata["note"] = [1]
    s.record("kept", node.metadata, node.metadata is node.metadata)


@scenario
def parent_of_a_node_made_in_backward(s):
    x = s.randn(2, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly():
            y = make_square(s.Function).apply(x)
            (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    s.record("keys", sorted(grad.grad_fn.metadata))
    parent = grad.grad_fn.metadata["parent_"]
    s.record("parent", parent, parent is y.grad_fn)


@scenario
def error_in_double_backward_names_both_forwards(s):
    nan = make_nan(s)

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return nan(grad)

    x = s.randn(2, requires_grad=True)

    def body():
        y = Outer.apply(x)
        weight = torch.ones(2, device=s.device, requires_grad=True)
        (grad,) = torch.autograd.grad(y, x, weight, create_graph=True)
        grad.sum().backward()

    run(s, "double backward", body)


@scenario
def nodes_made_before_anomaly_mode(s):
    x = s.randn(2, requires_grad=True)
    y = make_nan(s)(x)
    run(s, "backward", lambda: y.sum().backward())


@scenario
def saved_tensor_changed_in_place(s):
    x = s.randn(2, requires_grad=True)

    def body():
        middle = x * 2
        y = make_square(s.Function).apply(middle)
        middle.add_(1)
        y.sum().backward()

    run(s, "backward", body)


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
    run(s, "backward", lambda: sum(t.sum() for t in Two.apply(x, y)).backward())


@scenario
def set_detect_anomaly_in_forward(s):
    class Looks(s.Function):
        @staticmethod
        def forward(ctx, x):
            s.record("forward", torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("backward", torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())
            return grad

    x = s.randn(2, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        Looks.apply(x).sum().backward()
    s.record("after", torch.is_anomaly_enabled())


@scenario
def anomaly_mode_keeps_nothing_alive(s):
    x = s.randn(2, requires_grad=True)
    run(s, "backward", lambda: make_identity(s.Function).apply(x).sum().backward())
    run(s, "nan", lambda: make_nan(s)(x).sum().backward())


@scenario
def no_gradient_under_anomaly_mode(s):
    run(s, "call", lambda: make_nan(s)(s.randn(2)))
