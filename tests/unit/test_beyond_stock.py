# SPDX-License-Identifier: BSD-3-Clause
"""Where stock torch crashes or leaks and torch_ext does not."""

import gc
import sys
import weakref

import pytest
import torch
from torch.autograd import forward_ad

import torch_ext


class Double(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


@pytest.fixture
def x(device):
    return torch.ones(2, device=device, requires_grad=True)


def test_raw_saved_tensors_outlive_what_they_held(x):
    y = Double.apply(x)
    (saved,) = y.grad_fn._raw_saved_tensors
    y.sum().backward()
    with pytest.raises(RuntimeError):
        y.grad_fn._raw_saved_tensors
    with pytest.raises(RuntimeError):
        saved.register_hooks(lambda t: t, lambda t: t)
    del y
    gc.collect()
    with pytest.raises(RuntimeError):
        saved.register_hooks(lambda t: t, lambda t: t)


def test_unpack_hook_that_frees_what_is_being_unpacked(x):
    seen = []

    class Twice(Double):
        @staticmethod
        def backward(ctx, grad):
            nodes.append(ctx)
            seen.extend(ctx.saved_tensors)
            with pytest.raises(RuntimeError, match="second time"):
                ctx.saved_tensors
            return grad * 2

    nodes = []

    def unpack(packed):
        nodes.pop().maybe_clear_saved_tensors()
        return packed

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
        y = Twice.apply(x)
    y.sum().backward()
    (saved,) = seen
    assert torch.equal(saved, x)
    assert torch.equal(x.grad, torch.full_like(x, 2))


def test_cycle_through_a_tensor_that_is_saved_alone(x):
    def nodes():
        gc.collect()
        return sum(isinstance(obj, Double._backward_cls) for obj in gc.get_objects())

    before = nodes()
    intermediate = x.clone()
    intermediate.result = Double.apply(intermediate)
    assert nodes() == before + 1
    del intermediate
    # Not a weak reference, which is cleared before the finaliser runs, and that could keep the cycle alive.
    assert nodes() == before


def test_cycle_with_a_saved_tensor_that_is_older_than_the_node(x):
    class KeepsItself(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.kept = ctx
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    def make():
        older = x.clone()
        KeepsItself.apply(older)
        return weakref.ref(older)

    alive = make()
    gc.collect()  # in the order of age, since clearing a tensor that a node holds would end the process
    assert alive() is None


def test_long_chain_is_built_used_and_freed(x):
    y = x
    for _ in range(50_000):
        y = Double.apply(y)
    y.backward(torch.zeros_like(y))
    node = y.grad_fn
    del y
    del node
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.filterwarnings("ignore")
def test_metadata_that_cannot_be_printed(x, monkeypatch):
    # Stock torch raises what printing raised, and when that has happened some times the process ends.
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append(str(report.exc_value)))

    class Failing(Double):
        @staticmethod
        def backward(ctx, grad):
            return 1 / 0

    for broken in 3, [4], "text", None:
        for _ in range(100):
            with torch_ext.detect_anomaly():
                y = Failing.apply(x)
                y.grad_fn.metadata["traceback_"] = broken
                with pytest.raises(ZeroDivisionError):
                    y.sum().backward()
    assert "can only join an iterable" in reported and "sequence item 0: expected str instance, int found" in reported


@pytest.mark.parametrize("failure", ["marked as dirty", "must implement the jvp"])
def test_a_failed_call_that_left_its_node_on_a_captured_leaf(x, failure):
    # For missing gradients stock torch reads past the end of what it noted about the outputs.
    captured = torch.ones(2, device=x.device, requires_grad=True)
    seen = []

    class Failing(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            if failure == "marked as dirty":
                ctx.mark_dirty(x)
            return captured, x * 2

        @staticmethod
        def backward(ctx, *grads):
            seen.append(grads)
            return grads[0]

    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=failure):
        Failing.apply(x if failure == "marked as dirty" else forward_ad.make_dual(x, torch.ones_like(x)))
    assert isinstance(captured.grad_fn, torch_ext._C.Ctx)
    (captured * 3).sum().backward()
    ((first, missing),) = seen
    assert first.tolist() == x.grad.tolist() == [3.0, 3.0]
    assert missing.tolist() == [0.0, 0.0]


def test_a_failed_call_that_left_its_node_on_what_it_changed(x):
    class Fails(torch_ext.Function):
        @staticmethod
        def forward(ctx, x, changed, not_returned):
            ctx.mark_dirty(changed, not_returned)
            return x * 2, changed

        @staticmethod
        def backward(ctx, grad, grad_changed):
            grads.append(grad.tolist())
            return grad + 1, grad_changed * 5, None

    grads = []
    leaf = torch.ones(2, device=x.device, requires_grad=True)
    changed = leaf * 3
    with pytest.raises(RuntimeError, match="marked as dirty"):
        Fails.apply(x, changed, torch.ones(2, device=x.device))
    changed.sum().backward()
    assert grads == [[0, 0]]
    assert leaf.grad.tolist() == [15, 15]
    assert x.grad.tolist() == [1, 1]


class Moves(torch_ext.Function):
    """Changes a leaf in place, which is an error as long as the leaf requires grad."""

    @staticmethod
    def forward(ctx, x, other, stop):
        stop(x)
        ctx.mark_dirty(x)
        return x, other * 2

    @staticmethod
    def backward(ctx, grad, other):
        return grad, other * 2, None


MOVED = "leaf variable has been moved into the graph interior: .* marked it as dirty after it was detached"
STOPS = pytest.mark.parametrize(
    "stop", [lambda x: x.detach_(), lambda x: x.requires_grad_(False)], ids=["detach_", "requires_grad_"]
)


@STOPS
def test_backward_to_a_leaf_detached_in_forward(x, stop):
    before = x * 2
    y, _ = Moves.apply(x, torch.ones(2, requires_grad=True), stop)
    assert y is x and not x.is_leaf
    with pytest.raises(RuntimeError, match=MOVED):
        y.sum().backward()
    with pytest.raises(RuntimeError, match=MOVED):
        before.sum().backward()
    assert torch.autograd.grad((y * 2).sum(), y)[0].tolist() == [2, 2]


@STOPS
def test_backward_to_a_leaf_detached_before_the_call(x, stop):
    before = x * 2
    stop(x)
    other = torch.ones_like(x, requires_grad=True)
    y, z = Moves.apply(x, other, lambda x: None)
    (y + z).sum().backward()
    assert other.grad.tolist() == [2, 2]
    with pytest.raises(RuntimeError, match=MOVED):
        before.sum().backward()


def test_a_leaf_detached_in_forward_of_a_call_that_fails(x):
    class Fails(Moves):
        @staticmethod
        def forward(ctx, x, other):
            x.detach_()
            ctx.mark_dirty(x, other)
            return x, other

    before = x * 2
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad has been used in an in-place operation"):
        Fails.apply(x, torch.ones(2, requires_grad=True))
    with pytest.raises(RuntimeError, match=MOVED):
        before.sum().backward()


@pytest.mark.parametrize("inputs", [1, 65])
def test_flags_that_an_init_sets_are_not_lost(x, inputs):
    flags = ("made", "up")

    class Flagged(Double):
        @staticmethod
        def forward(ctx, *tensors):
            assert ctx.needs_input_grad == (True,) * inputs
            return tensors[0] * 2

    def __init__(self):
        self.needs_input_grad = flags

    Flagged._backward_cls.__init__ = __init__
    before = sys.getrefcount(flags)
    for _ in range(5):
        Flagged.apply(*[x] * inputs)
    assert sys.getrefcount(flags) == before


def test_flags_asked_for_by_a_finaliser_while_they_are_made(x):
    seen = []

    class Asks:
        def __init__(self, ctx):
            self.ctx, self.cycle = ctx, self

        def __del__(self):
            seen.append(self.ctx.needs_input_grad)

    class Flagged(Double):
        @staticmethod
        def forward(ctx, *tensors):
            # Up to Python 3.11 the next allocation collects garbage: the tuple's, which is too long for a free list.
            Asks(ctx)
            threshold = gc.get_threshold()
            gc.set_threshold(1)
            try:
                flags = ctx.needs_input_grad
            finally:
                gc.set_threshold(*threshold)
            gc.collect()
            assert seen and all(each is flags for each in (*seen, ctx.needs_input_grad))
            return tensors[0] * 2

    gc.collect()
    Flagged.apply(*[x] * 40)


def test_parent_whose_ctx_has_a_name_of_its_own(x):
    class Named(Double):
        @staticmethod
        def forward(ctx, x):
            ctx.name = "not to be called"
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return Fails.apply(grad * x)

    class Fails(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise ArithmeticError("on purpose")

    with (  # noqa: PT031 (which of these warns is up to torch)
        pytest.warns(UserWarning, match="Previous calculation was induced by NamedBackward"),
        torch_ext.detect_anomaly(),
    ):
        y = Named.apply(x)  # up to torch 2.12 only the output holds the node
        (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        with pytest.raises(ArithmeticError):
            grad.sum().backward()
