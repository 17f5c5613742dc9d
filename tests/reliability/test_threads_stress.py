# SPDX-License-Identifier: BSD-3-Clause
"""16 threads that take turns as often as Python can: no race, deadlock or wrong value."""

import gc
import sys
import threading

import pytest
import torch
from torch.utils.hooks import RemovableHandle

import torch_ext
from torch_ext import hooks

THREADS = 16
ROUNDS = 200


@pytest.fixture(autouse=True)
def free_running():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
    torch_ext.uninstall()
    torch_ext.set_detect_anomaly(False)  # after contexts that overlap it is as the last one found it


def on_threads(*works, count=THREADS):
    """Runs works[i % len(works)](i) on ``count`` threads that start together. Raises what the first one raised."""
    barrier = threading.Barrier(count)
    errors = []

    def run(index):
        barrier.wait()
        try:
            works[index % len(works)](index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def make_triple(base):
    class Triple(base):
        @staticmethod
        def forward(ctx, x, factor=3):
            ctx.save_for_backward(x)
            ctx.factor = factor
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * ctx.factor + x * 0, None

    return Triple


@pytest.fixture(params=["ours", "installed"])
def base(request):
    if request.param == "ours":
        return torch_ext.Function
    torch_ext.install()
    return torch.autograd.Function


def gradient_of_chain(function, x, length=5):
    y = x
    for _ in range(length):
        y = function.apply(y)
    return torch.autograd.grad(y.sum(), x)[0]


def test_separate_graphs(base):
    function = make_triple(base)

    def work(index):
        for i in range(ROUNDS):
            x = torch.full((2,), float(i + index), requires_grad=True)
            assert gradient_of_chain(function, x).tolist() == [243.0, 243.0]

    on_threads(work)


def test_one_graph_run_by_all(base):
    function = make_triple(base)
    x = torch.ones(2, requires_grad=True)
    y = x
    for _ in range(10):
        y = function.apply(y)
    total = y.sum()

    def work(index):
        for _ in range(ROUNDS // 10):
            assert torch.autograd.grad(total, x, retain_graph=True)[0].tolist() == [3.0**10] * 2

    on_threads(work)


def test_one_graph_freed_by_whoever_is_first(base):
    function = make_triple(base)
    for _ in range(ROUNDS // 10):
        x = torch.ones(2, requires_grad=True)
        total = function.apply(function.apply(x)).sum()
        gradients = []

        def work(index, total=total, x=x, gradients=gradients):
            try:
                gradients.extend(torch.autograd.grad(total, x))
            except RuntimeError as error:
                assert "second time" in str(error)

        on_threads(work)
        assert gradients and all(gradient.tolist() == [9.0, 9.0] for gradient in gradients)


def test_leaf_shared_by_all(base):
    function = make_triple(base)
    x = torch.ones(2, requires_grad=True)

    def work(index):
        for _ in range(ROUNDS // 4):
            function.apply(x).sum().backward()

    on_threads(work)
    assert x.grad.tolist() == [3.0 * THREADS * (ROUNDS // 4)] * 2


def test_first_use_of_one_class():
    for _ in range(ROUNDS // 4):
        function = make_triple(torch_ext.Function)
        x = torch.ones(2, requires_grad=True)
        types = []

        def work(index, function=function, x=x, types=types):
            types.append(type(function.apply(x).grad_fn))

        on_threads(work)
        (kind,) = set(types)
        assert issubclass(kind, function._backward_cls)


def test_class_that_is_changed_while_it_is_called(base):
    function = make_triple(base)
    by_factor = {factor: staticmethod(lambda ctx, grad, f=factor: (grad * f, None)) for factor in (3, 5)}

    def call(index):
        for _ in range(ROUNDS):
            x = torch.ones(2, requires_grad=True)
            function.apply(x).sum().backward()
            assert x.grad[0].item() in (3.0, 5.0)

    def change(index):
        for i in range(ROUNDS):
            function.backward = by_factor[3 + i % 2 * 2]
            setattr(function, f"extra{index}", i)
            delattr(function, f"extra{index}")

    def read(index):
        for _ in range(ROUNDS):
            str(vars(function))

    function.backward = by_factor[3]
    on_threads(call, call, change if base is torch_ext.Function else call, read)


def test_install_and_uninstall_while_others_call():
    function = make_triple(torch.autograd.Function)

    def call(index):
        for _ in range(ROUNDS):
            x = torch.ones(2, requires_grad=True)
            assert gradient_of_chain(function, x, 2).tolist() == [9.0, 9.0]

    def install(index):
        for _ in range(ROUNDS):
            torch_ext.install()
            torch_ext.uninstall()

    def within(index):
        for _ in range(ROUNDS):
            with torch_ext.installed():
                function.apply(torch.ones(2, requires_grad=True)).sum().backward()

    on_threads(call, call, install, within)


@pytest.fixture
def handles_counted_one_by_one(monkeypatch):
    """torch counts the ids of handles without a lock: without the GIL two handles may get the same one."""
    lock = threading.Lock()
    init = RemovableHandle.__init__

    def locked_init(self, *args, **kwargs):
        with lock:
            init(self, *args, **kwargs)

    monkeypatch.setattr(RemovableHandle, "__init__", locked_init)


@pytest.mark.usefixtures("handles_counted_one_by_one")
def test_hooks_added_and_removed_during_backward(base):
    function = make_triple(base)
    x = torch.ones(2, requires_grad=True)
    inner = function.apply(x)
    total = function.apply(inner).sum()
    seen = []
    add = (
        lambda: hooks.register_tensor_hook(inner, lambda grad: seen.append(1)),
        lambda: hooks.register_node_prehook(inner.grad_fn, lambda grads: seen.append(2)),
        lambda: hooks.register_node_posthook(inner.grad_fn, lambda *grads: seen.append(3)),
        lambda: inner.register_hook(lambda grad: seen.append(4)),
        lambda: inner.grad_fn.register_prehook(lambda grads: seen.append(5)),
        lambda: inner.grad_fn.register_hook(lambda *grads: seen.append(6)),
    )
    # The first of each kind creates the object that the engine iterates over, which torch doesn't guard.
    kept = [register() for register in add]

    def run(index):
        for _ in range(ROUNDS // 2):
            assert torch.autograd.grad(total, x, retain_graph=True)[0].tolist() == [9.0, 9.0]

    def change(index):
        for i in range(ROUNDS):
            handles = [register() for register in add]
            for handle in handles[:: -1 if i % 2 else 1]:
                handle.remove()

    on_threads(run, change)
    for handle in kept:
        handle.remove()
    seen.clear()
    torch.autograd.grad(total, x)
    assert not seen


def test_garbage_is_collected_while_others_run(base):
    function = make_triple(base)

    def make_cycles(index):
        for _ in range(ROUNDS):
            y = function.apply(torch.ones(2, requires_grad=True))
            y.grad_fn.cycle = y
            hooks.register_tensor_hook(y, lambda grad, y=y: None)
            y.sum().backward()

    def collect(index):
        for _ in range(ROUNDS // 20):
            gc.collect()

    gc.collect()
    gc.freeze()
    on_threads(make_cycles, make_cycles, make_cycles, collect)


def test_one_ctx_looked_at_by_all(base):
    function = make_triple(base)
    needed = {(True,), (False,), None}

    def look(index, node, x):
        for i in range(ROUNDS // 2):
            assert node.next_functions[0][0].variable is x
            assert node.needs_input_grad in needed
            assert (node.to_save, node.metadata, node.name()) == (None, {}, "TripleBackward")
            try:
                (saved,) = node.saved_tensors
                assert saved is x
            except RuntimeError as error:
                assert "already been freed" in str(error)
            if index % 4 == 1:
                node.needs_input_grad = (i % 2 == 0,)
            if index % 4 == 2 and i == ROUNDS // 4:
                node.maybe_clear_saved_tensors()

    for _ in range(ROUNDS // 4):
        x = torch.ones(2, requires_grad=True)
        y = function.apply(x)
        node = y.grad_fn
        on_threads(lambda index, node=node, x=x: look(index, node, x))


def test_missing_gradients_of_one_node_made_by_all(base):
    class Pair(base):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, double, triple):
            return double * 2 + triple * 3

    for _ in range(ROUNDS // 10):
        x = torch.ones(2, requires_grad=True)
        total = Pair.apply(x)[0].sum()

        def work(index, total=total, x=x):
            assert torch.autograd.grad(total, x, retain_graph=True)[0].tolist() == [2.0, 2.0]

        on_threads(work)


def test_arguments_and_defaults_that_change_meanwhile(base):
    class Scaled(base):
        @staticmethod
        def forward(x, numbers=(3,)):
            return x * 3

        @staticmethod
        def setup_context(ctx, inputs, output):
            assert len(inputs) == 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 3, None

    numbers = [1] * 100
    by_name = {"one": 1}

    def call(index):
        x = torch.ones(2, requires_grad=True)
        for _ in range(ROUNDS):
            for arguments in ((x, numbers), (x, by_name), (x,)):
                assert Scaled.apply(*arguments).tolist() == [3.0, 3.0]

    def change(index):
        for i in range(ROUNDS):
            del numbers[i % 90 :]
            numbers.extend([i] * 100)
            by_name[f"{index}.{i}"] = i
            by_name.pop(f"{index}.{i - 1}", None)
            Scaled.forward.__defaults__ = ((i,),)
            Scaled.forward.__dict__ = {"note": i}

    with torch.profiler.profile(record_shapes=True, activities=[torch.profiler.ProfilerActivity.CPU]):
        on_threads(call, change)


def test_one_traceback_read_by_all():
    function = make_triple(torch_ext.Function)
    with torch_ext.anomaly.set_detect_anomaly(True):
        outputs = [function.apply(torch.ones(2, requires_grad=True)) for _ in range(ROUNDS // 4)]
    nodes = [output.grad_fn for output in outputs]
    expected = len(nodes[0].metadata["traceback_"])

    def read(index, node):
        assert len(node.metadata["traceback_"]) == expected

    for node in nodes:
        on_threads(lambda index, node=node: read(index, node))


@pytest.mark.filterwarnings("ignore")
def test_anomaly_mode_switched_while_others_run():
    function = make_triple(torch_ext.Function)
    failing = type("Failing", (function,), {"backward": staticmethod(lambda ctx, grad: 1 / 0)})

    def run(index):
        for _ in range(ROUNDS // 4):
            y = function.apply(torch.ones(2, requires_grad=True))
            "".join(y.grad_fn.metadata.get("traceback_", ()))
            y.sum().backward()

    def fail(index):
        for _ in range(ROUNDS // 20):
            with pytest.raises(ZeroDivisionError):
                failing.apply(torch.ones(2, requires_grad=True)).sum().backward()

    def switch(index):
        for _ in range(ROUNDS // 4):
            with torch_ext.detect_anomaly():
                function.apply(torch.ones(2, requires_grad=True))

    on_threads(run, fail, run, switch)


# What looks on at the calls, operators and backwards of the whole process.
LOOKING_ON = {
    "what operators return": lambda: torch_ext.detect_anomaly("forward"),
    "gradients, later": lambda: torch_ext.detect_anomaly("deferred", check_every=2),
    "what was saved": lambda: torch_ext.detect_anomaly(check_saved=True),
    "infinities": lambda: torch_ext.detect_anomaly(check_loss=True, check_inf=True),
    "profile": lambda: torch_ext.profile.record(stock=False),
    "lint": torch_ext.lint.watch,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("looking_on", LOOKING_ON)
def test_looked_at_while_others_run(looking_on):
    function = make_triple(torch_ext.Function)

    def run_once():
        x = torch.ones(2, requires_grad=True)
        y = function.apply(x)
        y.mul_(2)  # a change, and a value that leaves the graph: both are noted
        assert y.sum().item() == 12
        assert torch.autograd.grad(y.sum(), x)[0].tolist() == [6, 6]

    def run(index):
        for _ in range(ROUNDS // 10):
            run_once()

    def look(index):
        for _ in range(ROUNDS // 20):
            with LOOKING_ON[looking_on]():
                run_once()

    on_threads(run, look)
