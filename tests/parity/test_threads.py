# SPDX-License-Identifier: BSD-3-Clause
"""Calls and backwards on several threads, and on threads that Python did not start."""

import ctypes
import gc
import threading
import time
import weakref

import torch
from harness import scenario
from harness.small_functions import make_identity, make_product, make_square


@torch.jit.script
def gradient_in_torchscript(y: torch.Tensor, x: torch.Tensor):
    return torch.autograd.grad([y.sum()], [x])[0]


@torch.jit.script
def gradient_on_a_pool_thread(y: torch.Tensor, x: torch.Tensor):
    future = torch.jit.fork(gradient_in_torchscript, y, x)
    return torch.jit.wait(future)


def in_threads(count, work):
    """What work(index) returned or raised in each of some threads that start together."""
    barrier = threading.Barrier(count)
    results = [None] * count

    def run(index):
        barrier.wait()
        try:
            results[index] = work(index)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def wait_until_dead(refs):
    """Return when all are dead: a pool thread releases its last task some time after the result is there."""
    while any(ref() is not None for ref in refs):
        time.sleep(0.001)
        gc.collect()


def on_a_foreign_thread(work):
    """What work() returned or raised on a thread that libc created and Python doesn't know."""
    results = []

    def run(_):
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    entry = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(run)
    libc = ctypes.CDLL(None)
    thread = ctypes.c_ulong()
    assert libc.pthread_create(ctypes.byref(thread), None, entry, None) == 0
    assert libc.pthread_join(thread, None) == 0
    (result,) = results
    return result


@scenario
def forward_and_backward_on_threads(s):
    product = make_product(s.Function)
    inputs = [s.randn(3, requires_grad=True) for _ in range(8)]

    def work(index):
        x = inputs[index]
        for _ in range(20):
            x.grad = None
            product.apply(product.apply(x, x), x).sum().backward()
        return x.grad.clone()

    s.record("gradients", in_threads(8, work))


@scenario
def backward_on_another_thread_than_forward(s):
    x = s.randn(3, requires_grad=True)
    outputs = [make_square(s.Function).apply(x * (i + 1)) for i in range(4)]
    s.record("gradients", in_threads(4, lambda i: torch.autograd.grad(outputs[i].sum(), x)))


@scenario
def one_graph_from_several_threads(s):
    x = s.randn(3, requires_grad=True)
    y = make_square(s.Function).apply(make_product(s.Function).apply(x, x))
    results = in_threads(8, lambda i: torch.autograd.grad(y.sum(), x, retain_graph=True))
    s.record("gradients", results)


@scenario
def accumulation_from_several_threads(s):
    x = torch.ones(3, device=s.device, requires_grad=True)
    identity = make_identity(s.Function)

    def work(index):
        for _ in range(25):
            identity.apply(x).sum().backward()

    in_threads(4, work)
    s.record("input", x)


@scenario
def errors_on_several_threads(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x, index):
            ctx.index = index
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise KeyError(ctx.index)

    x = s.randn(3, requires_grad=True)
    s.record("errors", in_threads(4, lambda i: Fails.apply(x, i).sum().backward()))


@scenario
def grad_mode_belongs_to_the_thread(s):
    square = make_square(s.Function)
    x = s.randn(3, requires_grad=True)
    with torch.no_grad():
        s.record("elsewhere", in_threads(1, lambda _: square.apply(x).requires_grad))
        s.record("here", square.apply(x).requires_grad)


@scenario
def ctx_shared_by_threads(s):
    x = s.randn(3, requires_grad=True)
    node = make_square(s.Function).apply(x).grad_fn
    s.record("saved", in_threads(4, lambda i: [torch.equal(node.saved_tensors[0], x) for _ in range(50)].count(True)))
    s.record("needs_input_grad", in_threads(4, lambda i: node.needs_input_grad))


@scenario
def first_use_of_a_class_on_many_threads(s):
    x = s.randn(3, requires_grad=True)
    for _ in range(5):
        square = make_square(s.Function)
        types = in_threads(8, lambda i, square=square: type(square.apply(x).grad_fn))
        s.record("one type", len(set(types)))


@scenario
def graph_dies_on_another_thread(s):
    graphs = [make_square(s.Function).apply(s.randn(3, requires_grad=True)) for _ in range(4)]

    def work(index):
        graphs[index] = None
        return True

    s.record("done", in_threads(4, work))


@scenario
def call_and_backward_on_a_foreign_thread(s):
    x = s.randn(3, requires_grad=True)

    def work():
        y = make_product(s.Function).apply(x, x)
        y.sum().backward()
        return y.detach()

    s.record("output", on_a_foreign_thread(work))
    s.record("input", x)


@scenario
def error_on_a_foreign_thread(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise KeyError("backward")

    x = s.randn(3, requires_grad=True)
    s.record("error", on_a_foreign_thread(lambda: Fails.apply(x).sum().backward()))


@scenario
def backward_from_torchscript(s):
    x = s.randn(3, requires_grad=True)
    s.record("gradient", gradient_in_torchscript(make_square(s.Function).apply(x), x))


def backward_on_a_pool_thread(s, backward_of):
    """Record the gradient that a Function with this backward has there."""

    class Doubles(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.thread = threading.get_ident()
            ctx.save_for_backward(x)
            return x * 2

        backward = staticmethod(backward_of)

    x = s.randn(3, requires_grad=True)
    y = Doubles.apply(x)
    refs = [weakref.ref(x), weakref.ref(y), weakref.ref(Doubles)]
    try:
        gradient = gradient_on_a_pool_thread(y, x)
        s.record("gradient", gradient)
        refs.append(weakref.ref(gradient))
    except Exception as error:
        # TorchScript keeps only the text, with a traceback in it.
        s.record("raised", type(error), str(error).splitlines()[-1])
    return refs


@scenario
def backward_on_a_thread_of_torchs_pool(s):
    def backward(ctx, grad):
        s.record("the thread of forward", ctx.thread == threading.get_ident())
        s.record("saved", ctx.saved_tensors)
        return grad * 2

    wait_until_dead(backward_on_a_pool_thread(s, backward))


@scenario
def error_on_a_thread_of_torchs_pool(s):
    def backward(ctx, grad):
        raise KeyError("backward")

    wait_until_dead(backward_on_a_pool_thread(s, backward))


@scenario
def hooks_run_on_the_thread_of_backward(s):
    x = s.randn(3, requires_grad=True)
    y = make_square(s.Function).apply(x)
    ran_on = []
    y.grad_fn.register_hook(lambda *_: ran_on.append(threading.get_ident()))
    y.grad_fn.register_prehook(lambda *_: ran_on.append(threading.get_ident()))
    y.register_hook(lambda *_: ran_on.append(threading.get_ident()))

    def work(_):
        y.sum().backward()
        return {thread == threading.get_ident() for thread in ran_on}, len(ran_on)

    s.record("hooks", in_threads(1, work))


@scenario
def call_in_the_callback_of_a_future(s):
    x = s.randn(3, requires_grad=True)
    future = torch.futures.Future()
    chained = future.then(lambda f: make_square(s.Function).apply(f.value()))
    in_threads(1, lambda _: future.set_result(x))
    y = chained.wait()
    y.sum().backward()
    s.record("output", y.detach(), x)
