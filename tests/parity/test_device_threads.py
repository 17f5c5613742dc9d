# SPDX-License-Identifier: BSD-3-Clause
"""What backward and its hooks find on their thread: for a GPU it is the engine's, one for each device."""

import contextvars
import threading
import warnings

import torch
from harness import scenario
from harness.registering import empty_the_queue, hooks_of
from harness.small_functions import make_square


def here():
    """What is the same about the current thread in every run."""
    thread = threading.current_thread()
    return "the main thread" if thread is threading.main_thread() else type(thread).__name__


def make_telling(s, tell, in_backward=lambda: None):
    """x * 2 whose backward records what ``tell()`` returns, and calls ``in_backward()``."""

    class Telling(s.Function):
        @staticmethod
        def forward(ctx, x):
            s.record("forward", tell())
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("backward", tell())
            in_backward()
            return grad * 2

    return Telling.apply


@scenario
def threads_of_hooks(s):
    hooks = hooks_of(s)
    x = s.randn(3, requires_grad=True)
    y = make_telling(s, here)(x)
    hooks.register_tensor_hook(x, lambda grad: s.record("leaf", here()))
    hooks.register_post_accumulate_grad_hook(x, lambda x: s.record("accumulated", here()))
    hooks.register_tensor_hook(y, lambda grad: s.record("output", here()))
    hooks.register_node_prehook(y.grad_fn, lambda outs: s.record("before", here()))
    hooks.register_node_posthook(y.grad_fn, lambda ins, outs: s.record("after", here()))
    y.sum().backward()
    y = make_telling(s, here)(x)
    s.record("gradient", torch.autograd.grad(y.sum(), x))


@scenario
def one_thread_for_all_nodes_and_calls(s):
    idents = []
    telling = make_telling(s, lambda: "called", lambda: idents.append(threading.get_ident()))
    x = s.randn(3, requires_grad=True)
    for _ in range(3):
        telling(telling(x)).sum().backward()
    caller = threading.Thread(target=lambda: telling(x).sum().backward())
    caller.start()
    caller.join()
    s.record("threads", len(idents), len(set(idents[:6])), len(set(idents)))


@scenario
def multithreading_switched_off(s):
    telling = make_telling(s, here)
    x = s.randn(3, requires_grad=True)
    with torch.autograd.set_multithreading_enabled(False):
        telling(x).sum().backward()
        s.record("double", torch.autograd.grad(telling(x).sum(), x, create_graph=True))
    telling(x).sum().backward()
    s.record("input", x)


@scenario
def modes_of_the_caller(s):
    def modes():
        return {
            "grad": torch.is_grad_enabled(),
            "inference": torch.is_inference_mode_enabled(),
            "autocast": torch.is_autocast_enabled(s.device.type),
            "anomaly": torch.is_anomaly_enabled(),
            "default dtype": torch.get_default_dtype(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "saved tensors hooks": torch._C._autograd._top_saved_tensors_default_hooks(False) is not None,
            "default device": torch.zeros(()).device,
        }

    telling = make_telling(s, modes)
    x = s.randn(3, requires_grad=True)
    around = (
        torch.no_grad(),
        torch.autocast(s.device.type, dtype=torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
        torch.device("meta"),
        s.detect_anomaly(check_nan=False),
    )
    y = telling(x)
    for context in around:
        with warnings.catch_warnings(), context:
            warnings.simplefilter("ignore")
            s.outcome("backward", lambda: y.sum().backward(torch.ones((), device=s.device), retain_graph=True))
    z = telling(x).sum()
    s.record("create_graph", torch.autograd.grad(z, x, create_graph=True))
    s.record("input", x)


@scenario
def what_belongs_to_a_thread_in_python(s):
    variable = contextvars.ContextVar("variable", default="default")
    local = threading.local()
    local.value = "the caller's"
    token = variable.set("the caller's")
    telling = make_telling(s, lambda: (variable.get(), getattr(local, "value", "nothing")))
    telling(s.randn(3, requires_grad=True)).sum().backward()
    variable.reset(token)


@scenario
def warnings_in_backward_and_in_hooks(s):
    hooks = hooks_of(s)
    telling = make_telling(s, lambda: None, lambda: warnings.warn("in backward", UserWarning, stacklevel=1))
    x = s.randn(3, requires_grad=True)
    y = telling(x)
    hooks.register_tensor_hook(y, lambda grad: warnings.warn("in a hook", FutureWarning, stacklevel=1))
    y.sum().backward(retain_graph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s.raises("as errors", lambda: y.sum().backward())
    empty_the_queue()
    s.record("input", x)


@scenario
def errors_in_backward_and_in_hooks(s):
    hooks = hooks_of(s)
    x = s.randn(3, requires_grad=True)

    def fails():
        raise error

    for error in (KeyError("missing"), StopIteration(1), KeyboardInterrupt("now"), SystemExit(3)):
        y = make_telling(s, here, fails)(x)
        s.raises("backward", lambda y=y: y.sum().backward())
        y = make_square(s.Function).apply(x)
        for register in (
            lambda hook, y=y: hooks.register_tensor_hook(y, hook),
            lambda hook, y=y: hooks.register_node_prehook(y.grad_fn, hook),
            lambda hook, y=y: hooks.register_node_posthook(y.grad_fn, hook),
            lambda hook: hooks.register_post_accumulate_grad_hook(x, hook),
        ):
            handle = register(lambda *_: fails())
            s.raises("hook", lambda y=y: y.sum().backward(retain_graph=True))
            handle.remove()
        y.sum().backward()
    empty_the_queue()
    s.record("input", x)


@scenario
def cause_of_an_error(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise KeyError("from", here()) from ValueError("cause")

    x = s.randn(3, requires_grad=True)
    try:
        Fails.apply(x).sum().backward()
    except KeyError as error:
        s.record("context", error, error.__cause__, error.__suppress_context__)
    empty_the_queue()


@scenario
def reentrant_backward_stays_on_its_thread(s):
    idents = []

    class Inner(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            idents.append(threading.get_ident())
            return grad * 2

    def inner(depth):
        with torch.enable_grad():
            leaf = torch.ones(3, device=s.device, requires_grad=True)
            Reenters.apply(Inner.apply(leaf), depth - 1).sum().backward()
        return leaf.grad

    class Reenters(s.Function):
        @staticmethod
        def forward(ctx, x, depth):
            ctx.depth = depth
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            idents.append(threading.get_ident())
            return (grad * inner(ctx.depth) if ctx.depth else grad), None

    x = s.randn(3, requires_grad=True)
    Reenters.apply(x, 3).sum().backward()
    s.record("threads", len(idents), len(set(idents)))
    s.record("input", x)


@scenario
def callbacks_queued_in_backward(s):
    queue = torch.autograd.Variable._execution_engine.queue_callback
    telling = make_telling(s, lambda: "runs", lambda: queue(lambda: s.record("callback", here(), x.grad is not None)))
    x = s.randn(3, requires_grad=True)
    telling(telling(x)).sum().backward()
    failing = make_telling(s, lambda: "runs", lambda: queue(lambda: 1 / 0))
    s.raises("failing callback", lambda: failing(x).sum().backward())
    empty_the_queue()


@scenario
def finalisers_of_what_backward_dropped(s):
    class Noted:
        def __init__(self, label):
            self.label = label

        def __del__(self):
            s.record("freed", self.label, here())

    class Keeps(s.Function):
        @staticmethod
        def forward(ctx, x, kept):
            ctx.kept = kept
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            dropped = Noted("a local of backward")
            del dropped
            s.record("ctx", ctx.kept.label)
            return grad * 2, None

    x = s.randn(3, requires_grad=True)
    y = Keeps.apply(x, Noted("an attribute of ctx"))
    y.sum().backward()
    s.record("after backward", y.grad_fn.kept.label)
    del y
    s.record("at the end", x)


@scenario
def classes_and_functions_first_used_there(s):
    """A Function called for the first time in another's backward, and a class defined there."""

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            square = make_square(s.Function)
            with torch.enable_grad():
                leaf = grad.detach().requires_grad_()
                y = square.apply(leaf)
                s.record("made", y)
                (inner,) = torch.autograd.grad(y.sum(), leaf)
            return inner

    x = s.randn(3, requires_grad=True)
    Outer.apply(x).sum().backward()
    s.record("input", x)
