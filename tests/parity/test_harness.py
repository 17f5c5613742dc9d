# SPDX-License-Identifier: BSD-3-Clause
"""The harness itself: a difference from stock torch turns a scenario red, and only a difference does."""

import warnings
import weakref

import pytest
import torch
from harness import VARIANTS, Variant, compare, scenario, transcript
from harness.describe import Describer, render
from harness.levels import grows
from harness.scenario import check_leaks
from harness.small_functions import make_square

from torch_ext.graph import noting

STOCK = VARIANTS["stock"]


def imitation(function):
    """A variant whose Function is ``function``."""
    api = STOCK.api()
    api.Function = function
    return Variant("imitation", lambda: api)


def subject(s):
    """A scenario that shows each of the faults below."""

    class Double(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("ctx", ctx)
            return grad * 2

    x = s.randn(3, requires_grad=True)
    y = Double.apply(x)
    s.record("output", y)
    y.register_hook(lambda grad: s.record("hook", grad))
    y.sum().backward()
    s.record("input", x)
    s.raises("no arguments", Double.apply)
    s.references("references", lambda: Double.apply(x), x, None)
    s.alive("output", weakref.ref(y))


class Faithful(torch.autograd.Function):
    """Another class that behaves as stock does."""


def fault(break_output):
    """A Function whose ``apply`` returns ``break_output(inputs, output)`` in place of ``output``."""

    class Broken(torch.autograd.Function):
        @classmethod
        def apply(cls, *args):
            return break_output(args, super().apply(*args))

    Broken.__name__ = break_output.__name__
    return Broken


def value_in_the_last_bit(inputs, output):
    with torch.no_grad():
        output.data[0] = torch.nextafter(output.data[0], torch.tensor(torch.inf))
    return output


def detached(inputs, output):
    return output.detach()


def extra_node(inputs, output):
    return output.view_as(output)


def version(inputs, output):
    with torch.no_grad():
        output.mul_(1)
    return output


def strides(inputs, output):
    return output.expand(1, 3)[0].as_strided((3,), (1,))


def result_is_a_list(inputs, output):
    return [output]


def warns(inputs, output):
    warnings.warn("imitation", stacklevel=2)
    return output


KEPT = []


def leaks_a_tensor(inputs, output):
    KEPT.append(torch.zeros(1))
    return output


def leaks_a_reference(inputs, output):
    KEPT.append(inputs)
    return output


def consumes_a_sequence_number(inputs, output):
    output.grad_fn._set_sequence_nr(output.grad_fn._sequence_nr() + 1)
    return output


def metadata(inputs, output):
    output.grad_fn.metadata["x"] = 1
    return output


def attribute_on_ctx(inputs, output):
    output.grad_fn.extra = 1
    return output


def hook_order(inputs, output):
    output.register_hook(lambda grad: None)
    output.register_hook(lambda grad: grad * 2)
    return output


def output_in_a_cycle(inputs, output):
    output.itself = output
    return output


FAULTS = [
    value_in_the_last_bit,
    detached,
    extra_node,
    version,
    strides,
    result_is_a_list,
    warns,
    leaks_a_tensor,
    leaks_a_reference,
    consumes_a_sequence_number,
    metadata,
    attribute_on_ctx,
    hook_order,
]


def test_faithful_imitation_passes(device):
    compare(subject, imitation(Faithful), device)


def test_stock_is_deterministic(device):
    compare(subject, STOCK, device)


@pytest.mark.parametrize("break_output", FAULTS, ids=lambda f: f.__name__)
def test_difference_is_found(break_output, device):
    # A difference, or the scenario can't even go on.
    with pytest.raises(Exception):  # noqa: B017, PT011 (whatever it is)
        compare(subject, imitation(fault(break_output)), device)


def test_leak_is_found(device):
    with pytest.raises(AssertionError, match=r"subject: .*objects.* grow with each run"):
        check_leaks(subject, imitation(fault(leaks_a_tensor)), device, 20)


def test_growth_that_ends_is_no_leak(device):
    cache = []

    def fills_a_cache(inputs, output):
        cache.extend(torch.zeros(1) for _ in range(5) if len(cache) < 500)
        return output

    check_leaks(subject, imitation(fault(fills_a_cache)), device, 20)
    assert len(cache) == 500


def test_larger_records_than_those_of_earlier_tests_are_no_leak():
    def leave_small_records():
        with noting(operators=True):
            x = torch.ones(1)
            for _ in range(20_000):
                x.add_(1)

    def leave_larger_records():
        with noting(operators=True):
            for _ in range(6):
                torch.ones(1).add_(1)  # has a counter of its own

    leave_small_records()
    assert not grows(leave_larger_records, 20, 100, 1000, 1000)


def test_leaks_of_stock_do_not_count(device):
    def body(s):
        KEPT.append(s)

    check_leaks(body, VARIANTS["ours"], device, 20)


class Wrapper(torch.Tensor):
    """Has no memory of its own."""

    @staticmethod
    def __new__(cls, inner):
        self = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        raise AssertionError(f"the harness ran {operator}")


def test_values_inside_a_wrapper_are_seen(device):
    def body(s):
        square = make_square(s.Function).apply
        s.record("wrapped", Wrapper(square(s.randn(3))))
        # Not contiguous, so reading its memory would copy what isn't there.
        s.record("transposed", Wrapper(square(s.randn(3, 20)).t()))

    compare(body, imitation(Faithful), device)
    assert transcript(body, STOCK, device) == transcript(body, STOCK, device)
    with pytest.raises(AssertionError, match=r"\+          values: "):
        compare(body, imitation(fault(value_in_the_last_bit)), device)


def test_lifetime_is_seen(device):
    def body(s):
        class Double(s.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 2

        y = Double.apply(s.randn(3))
        ref = weakref.ref(y)
        del y
        s.alive("output", ref)

    with pytest.raises(AssertionError, match="'alive, after gc dead'"):
        compare(body, imitation(fault(output_in_a_cycle)), device)


def test_wrong_text_of_an_error_is_found(device):
    class Reworded(torch.autograd.Function):
        @classmethod
        def apply(cls, *args):
            try:
                return super().apply(*args)
            except TypeError as error:
                raise TypeError(str(error).replace("missing", "lacks")) from None

    with pytest.raises(AssertionError, match="lacks 1 required positional argument"):
        compare(subject, imitation(Reworded), device)


def test_wrong_name_of_the_node_is_found(device):
    class Meta(type(torch.autograd.Function)):
        def __init__(cls, name, bases, attributes):
            super().__init__(name + "Other", bases, attributes)

    class RenamedByMeta(torch.autograd.Function, metaclass=Meta):
        pass

    with pytest.raises(AssertionError, match="DoubleOtherBackward"):
        compare(subject, imitation(RenamedByMeta), device)


def test_exception_that_stock_lacks_fails(device):
    class Raising(torch.autograd.Function):
        @classmethod
        def apply(cls, *args):
            raise ValueError("imitation")

    with pytest.raises(ValueError, match="imitation"):
        compare(subject, imitation(Raising), device)


def test_scenario_that_expects_what_stock_does_not_raise_is_wrong(device):
    def body(s):
        s.raises("nothing", lambda: 1)

    with pytest.raises(AssertionError, match="nothing: stock torch raises nothing"):
        compare(body, STOCK, device)


def test_unraisable_exception_is_recorded(device):
    class Raises:
        def __del__(self):
            raise ValueError("in a destructor")

    def body(s):
        Raises()

    assert any("in a destructor" in line for line in transcript(body, STOCK, device))


def test_recording_keeps_nothing_alive(device):
    def body(s):
        x = s.randn(3, requires_grad=True)
        y = (x * 2).exp()
        s.record("everything", y, y.grad_fn, x)
        refs = weakref.ref(x), weakref.ref(y)
        del x, y
        assert [ref() for ref in refs] == [None, None]

    transcript(body, STOCK, device)


def test_recording_changes_nothing(device):
    def body(s):
        x = s.randn(3, requires_grad=True)
        y = x.view(3)
        s.record("first", x, y)
        s.record("first", x, y)

    lines = transcript(body, STOCK, device)
    half = (len(lines) - 1) // 2
    assert lines[:half] == lines[half : 2 * half]


def test_same_object_has_the_same_number():
    describe = Describer()
    x, y = torch.zeros(1), torch.zeros(1)
    assert [describe.identity(t) for t in (x, y, x)] == [1, 2, 1]


def test_number_is_not_given_again():
    describe = Describer()
    numbers = {describe.identity(torch.zeros(1)) for _ in range(5)}
    assert numbers == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    "one, other",
    [
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64)),
        (torch.tensor([1.0]), torch.tensor([[1.0]])),
        (torch.tensor([1 + 1j]).conj(), torch.tensor([1 - 1j])),
        (torch.zeros(2, 2), torch.zeros(2, 2).t()),
        (torch.zeros(2), torch.zeros(4)[2:]),
        (torch.zeros(2), torch.nn.Parameter(torch.zeros(2))),
        (torch.eye(2).to_sparse(), torch.eye(2).to_sparse(1)),
        ((1, 2), [1, 2]),
        (ValueError("a"), ValueError("b")),
        (ValueError("a"), TypeError("a")),
        ({"a": 1}, {"a": 2}),
        ({1, 2}, frozenset({1, 2})),
        (1, True),
    ],
)
def test_descriptions_differ(one, other):
    assert list(render("x", Describer()(one))) != list(render("x", Describer()(other)))


def test_addresses_do_not_differ():
    one, other = object(), object()
    assert Describer()(one) == Describer()(other) == "<object object at 0x...>"


@scenario
def scenario_is_collected_whatever_its_name(s):
    s.record("nothing but this")


def test_stock_is_not_run_while_something_else_is_installed(device, monkeypatch):
    monkeypatch.setattr(torch.autograd.Function, "apply", classmethod(lambda cls, *args: None))
    with pytest.raises(AssertionError, match="torch's own apply"):
        transcript(subject, STOCK, device)
