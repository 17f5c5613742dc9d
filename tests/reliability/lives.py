# SPDX-License-Identifier: BSD-3-Clause
"""Lives of a process that uses torch_ext, each a function; ``python -m lives NAME`` lives one.

A life ends with exit status 0 and nothing on stderr, unless :mod:`test_process_life` says otherwise.
"""

import atexit
import contextlib
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
import weakref

import torch

import torch_ext

torch.set_num_threads(1)


class Double(torch_ext.Function):
    """Saves its input, and says by ``ctx.meet`` when backward is there."""

    meet = None

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        if Double.meet is not None:
            Double.meet(ctx)
        return grad * 2 + x * 0


class Copy(torch_ext.Function):
    """A Function with the cheapest node."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad


def leave_once_released(nodes):
    """End the process once what these weak references refer to is gone, without an end of the interpreter.

    Deep down backward runs on threads of the engine's own, which release their nodes later. The interpreter's end ends
    those that are still at it, on stock torch too, and with C++ on their stacks that ends the process. Nothing says
    when they are done.
    """
    while any(node() is not None for node in nodes):
        time.sleep(0.01)
    os._exit(0)


def run_on_a_thread(work):
    """Run it on a thread, and wait until the thread is gone.

    Before Python 3.13 ``join()`` may return while the thread still releases what torch keeps for it since its backward.
    If the interpreter ends meanwhile, the process aborts, on stock torch too.
    """
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):
        time.sleep(0.001)


def leaf():
    return torch.tensor([1.0, 2.0], requires_grad=True)


def check():
    """Forward, hooks and backward are right, alone and in anomaly mode."""
    import warnings

    for _ in range(3):
        x = leaf()
        y = Double.apply(x)
        seen = []
        torch_ext.hooks.register_tensor_hook(y, lambda grad: seen.append("tensor"))
        torch_ext.hooks.register_node_posthook(y.grad_fn, lambda *grads: seen.append("node"))
        y.sum().backward()
        assert x.grad.tolist() == [2.0, 2.0] and seen == ["tensor", "node"], (x.grad, seen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch_ext.detect_anomaly():
            y = Double.apply(leaf())
            assert "check" in "".join(y.grad_fn.metadata["traceback_"])


def leave_much_behind():
    """Live graphs, hooks, cycles and anomaly metadata, in places that end early and late."""
    import warnings

    warnings.simplefilter("ignore")
    torch_ext.install()
    with torch_ext.detect_anomaly():
        x = leaf()
        y = Double.apply(x)
    y.grad_fn.cycle = y
    y.grad_fn.traceback = y.grad_fn.metadata["traceback_"]
    torch_ext.hooks.register_tensor_hook(y, lambda grad: (y, None)[1])
    torch_ext.hooks.register_node_prehook(y.grad_fn, lambda grads: (y, None)[1])
    torch_ext.hooks.register_post_accumulate_grad_hook(x, lambda x: (y, None)[1])
    for holder in globals(), vars(torch), vars(sys), vars(torch_ext), vars(Double):
        if isinstance(holder, dict):
            holder["left_behind"] = y
    Double.left_behind = y
    return y


# --- The end of the interpreter ----------------------------------------------


def ends_with_live_graphs():
    leave_much_behind()
    Double.apply(leaf()).sum().backward()


def runs_backward_at_exit():
    y = leave_much_behind()
    Double.finaliser = Finaliser()
    atexit.register(lambda: y.sum().backward())


class Finaliser:
    """Runs a graph when hardly anything else is left."""

    def __init__(self):
        self.y = Double.apply(leaf())

    def __del__(self):
        self.y.sum().backward()
        self.y.grad_fn.metadata


def leaves_in_a_hook():
    y = Double.apply(leaf())
    y.register_hook(lambda grad: os._exit(7))
    y.sum().backward()


def exits_in_a_hook():
    y = Double.apply(leaf())
    y.register_hook(lambda grad: sys.exit(8))
    y.sum().backward()


def exits_in_a_hook_on_a_thread():
    y = Double.apply(leaf())
    y.register_hook(lambda grad: os._exit(9))
    run_on_a_thread(y.sum().backward)


def aborts_in_forward_of_a_thread_while_another_runs():
    threading.Thread(target=lambda: [check() for _ in range(10**9)], daemon=True).start()
    Double.meet = lambda ctx: os._exit(6)
    Double.apply(leaf()).sum().backward()


# --- Other processes ---------------------------------------------------------


def forks_after_use():
    check()
    y = leave_much_behind()
    for _ in range(5):
        child = os.fork()
        if child == 0:
            check()
            y.sum().backward()  # the parent's graph
            gc.collect()
            os._exit(5)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    check()


class Doubled(torch.utils.data.Dataset):
    """Each item takes a forward and a backward."""

    def __len__(self):
        return 20

    def __getitem__(self, i):
        x = torch.full((2,), float(i), requires_grad=True)
        Double.apply(x).sum().backward()
        return x.grad * i


def loads_data_in_forked_workers():
    check()
    for context in "fork", "spawn":
        loader = torch.utils.data.DataLoader(Doubled(), batch_size=5, num_workers=2, multiprocessing_context=context)
        total = sum(batch.sum().item() for batch in loader)
        assert total == 2 * 2 * sum(range(20)), total
    check()


def spawns():
    check()
    process = multiprocessing.get_context("spawn").Process(target=check)
    process.start()
    process.join()
    assert process.exitcode == 0


# --- Modules -----------------------------------------------------------------


def reloads_modules():
    stock = torch.autograd.Function.__dict__["apply"], torch.autograd.Variable._execution_engine
    y = leave_much_behind()
    names = [name for name in sys.modules if name.startswith("torch_ext.") and name != "torch_ext._C"]
    for name in [*sorted(names), "torch_ext"]:
        assert torch_ext.is_installed()
        importlib.reload(sys.modules[name])
        check()
    y.sum().backward()
    assert torch_ext.is_installed()
    torch_ext.uninstall()
    check()
    assert torch.autograd.Function.__dict__["apply"] is stock[0]
    assert torch.autograd.Variable._execution_engine is stock[1]


def clears_the_type_cache():
    """Python 3.10 gives out version tags from the start again, and references to None drift for a while."""
    x = leaf()
    for number in range(500):
        Double.forward = staticmethod(lambda ctx, x, number=number: x * number)
        for _ in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.13
                sys._clear_type_cache()
            assert torch.equal(Double.apply(x), x * number)


@contextlib.contextmanager
def subinterpreter():
    """Another interpreter, in which code has run."""
    try:
        import _interpreters as interpreters
    except ImportError:  # up to Python 3.12
        import _xxsubinterpreters as interpreters
    other = interpreters.create()
    if hasattr(interpreters, "exec"):
        interpreters.exec(other, "pass")
    else:
        interpreters.run_string(other, "pass")
    yield
    interpreters.destroy(other)


def drops_hooks_after_a_subinterpreter():
    """From then on PyGILState_Check() is always true, even while torch has released the GIL to free a tensor."""
    with subinterpreter():
        pass
    ended = []
    for number in range(100):

        class Ends:
            def __del__(self, number=number):
                ended.append(number)

        x = leaf()
        torch_ext.hooks.register_tensor_hook(x, lambda grad, ends=Ends(): grad)
        y = Double.apply(x)
        torch_ext.hooks.register_node_posthook(y.grad_fn, lambda *grads, ends=Ends(): None)
        del x, y
    gc.collect()
    assert len(ended) == 200, ended


def backward_is_refused_after_a_subinterpreter():
    """torch's engine believes that its caller holds the GIL then, on any thread. That is all that happens."""
    from harness.small_functions import make_square

    said = []

    def attempt(base):
        Square = make_square(base)

        def run():
            x = leaf()
            y = Square.apply(x).sum()
            try:
                y.backward()
                said.append(x.grad.tolist())
            except RuntimeError as error:
                said.append(str(error))

        run()
        run_on_a_thread(run)

    def on_both():
        said.clear()
        attempt(torch.autograd.Function)
        attempt(torch_ext.Function)
        return said[:]

    assert on_both() == [[2.0, 4.0]] * 4
    with subinterpreter():
        while_there_is_one = on_both()
    for refused in (while_there_is_one, on_both()):
        assert len(set(refused)) == 1 and "autograd engine was called while holding the GIL" in refused[0], refused


def imports_again():
    check()
    y = Double.apply(x := leaf())
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_ext"]:
        del sys.modules[name]
    again = importlib.import_module("torch_ext")
    assert again is not torch_ext
    with again.installed():
        check()
    check()
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]


def loses_its_modules():
    y = leave_much_behind()
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_ext"]:
        del sys.modules[name]
    gc.collect()
    y.sum().backward()


# --- Signals -----------------------------------------------------------------


def is_interrupted_in_forward_and_backward():
    def interrupt(*args):
        signal.raise_signal(signal.SIGINT)

    class Interrupted(Double):
        @staticmethod
        def forward(ctx, x):
            interrupt()
            return x

    for work in (
        lambda: Interrupted.apply(leaf()),
        lambda: hooked(lambda y: y.register_hook(interrupt)),
        lambda: hooked(lambda y: y.grad_fn.register_hook(interrupt)),
        lambda: hooked(lambda y: y.grad_fn.register_prehook(interrupt)),
        lambda: met(interrupt),
    ):
        for _ in range(20):
            try:
                work()
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("not interrupted")
            Double.meet = None
            check()


def hooked(register):
    y = Double.apply(leaf())
    register(y)
    y.sum().backward()


def met(meet):
    Double.meet = meet
    Double.apply(leaf()).sum().backward()


def is_interrupted_at_any_time():
    """Prints "ready" and works until it is interrupted, for each line of stdin."""
    for _ in sys.stdin:
        try:
            print("ready", flush=True)
            while True:
                y = leaf()
                for _ in range(100):
                    y = Double.apply(Copy.apply(y))
                y.sum().backward()
        except KeyboardInterrupt:
            pass
        check()
        print("interrupted", flush=True)


# --- Depth -------------------------------------------------------------------


def reaches_the_recursion_limit_in_backward():
    for room in range(1, 40):
        limit = sys.getrecursionlimit()

        def lower(ctx, room=room):
            depth = len(__import__("inspect").stack(0))
            sys.setrecursionlimit(depth + room)
            try:
                Double.meet = None
                with torch.enable_grad():
                    Double.apply(Double.apply(leaf())).sum().backward()
                recurse()
            finally:
                sys.setrecursionlimit(limit)

        Double.meet = lower
        try:
            Double.apply(leaf()).sum().backward()
        except RecursionError:
            pass
        else:
            raise AssertionError("no error")
        Double.meet = None
        check()


def recurse():
    recurse()


def re_enters_deeply():
    nodes = []

    class Nested(torch_ext.Function):
        @staticmethod
        def forward(ctx, x, depth):
            nodes.append(weakref.ref(ctx))
            ctx.depth = depth
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            if ctx.depth:
                x = leaf()
                with torch.enable_grad():
                    Nested.apply(x, ctx.depth - 1).sum().backward()
                grad = grad + x.grad
            return grad, None

    x = leaf()
    Nested.apply(x, 150).sum().backward()
    assert x.grad.tolist() == [151.0, 151.0], x.grad
    leave_once_released(nodes)


# As little as Python itself needs: from 3.13 on it deallocates nested objects by recursion to a depth of thousands,
# however small the thread's stack is.
SMALL_STACK = (4096 if sys.version_info >= (3, 13) else 256) * 1024


def million(apply, run, stack=None):
    """Creates a chain of a million nodes, runs backward if ``run``, and frees it. ``stack``: on a thread with that."""

    def work():
        x = leaf()
        y = x
        for _ in range(1_000_000):
            y = apply(y)
        if run:
            y.backward(torch.ones(2))
            assert x.grad.tolist() == [1.0, 1.0]
        del y

    if stack is None:
        work()
    else:
        threading.stack_size(stack)
        run_on_a_thread(work)


def runs_a_million_nodes():
    million(Copy.apply, run=True)


def drops_a_million_nodes():
    million(Copy.apply, run=False, stack=SMALL_STACK)


def collects_a_million_nodes_in_a_cycle():
    y = x = leaf()
    for _ in range(1_000_000):
        y = Copy.apply(y)
    y.grad_fn.cycle = y
    del x, y
    gc.collect()


def drops_a_million_nodes_that_others_are_between():
    def apply(y):
        return Copy.apply(y).view_as(y) if next(turn) % 2 else y * 1.0

    turn = iter(range(10**9))
    million(apply, run=False, stack=SMALL_STACK)


# --- Other interpreters ------------------------------------------------------


def is_imported_by_another_interpreter():
    """torch itself doesn't work once there is another interpreter, so all that is tested is our refusal."""
    y = Double.apply(leaf())
    if sys.version_info >= (3, 13):
        import _interpreters as interpreters

        other = interpreters.create("legacy")
        print(interpreters.run_string(other, "import torch_ext").formatted)
    else:
        import _xxsubinterpreters as interpreters

        other = interpreters.create(isolated=False)
        try:
            interpreters.run_string(other, "import torch_ext")
        except interpreters.RunFailedError as error:
            print(error)
    interpreters.destroy(other)
    del y
    gc.collect()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    globals()[sys.argv[1]]()
