# SPDX-License-Identifier: BSD-3-Clause
"""What a Function can return from forward."""

import collections

import torch
from harness import scenario


def returning(s, make, backward=lambda ctx, *grads: grads[0]):
    """A Function of x that returns ``make(x)``."""

    class Returns(s.Function):
        @staticmethod
        def forward(ctx, x):
            return make(x)

        @staticmethod
        def backward(ctx, *grads):
            s.record("gradients", grads)
            return backward(ctx, *grads)

    return Returns


@scenario
def one_output(s):
    s.differentiate("one", returning(s, lambda x: x * 2).apply, s.randn(2, requires_grad=True))


@scenario
def tuple_of_one(s):
    y = returning(s, lambda x: (x * 2,)).apply(s.randn(2, requires_grad=True))
    s.record("output", y)
    y[0].sum().backward()


@scenario
def empty_tuple(s):
    s.record("output", returning(s, lambda x: ()).apply(s.randn(2, requires_grad=True)))


@scenario
def several_outputs(s):
    s.differentiate("several", returning(s, lambda x: (x * 2, x * 3, x.sum())).apply, s.randn(2, requires_grad=True))


@scenario
def list_of_outputs(s):
    s.outcome("list", returning(s, lambda x: [x * 2, x * 3]).apply, s.randn(2, requires_grad=True))
    s.outcome("without grad", returning(s, lambda x: [x * 2, x * 3]).apply, s.randn(2))


@scenario
def named_tuple_of_outputs(s):
    Pair = collections.namedtuple("Pair", "a b")
    out = s.outcome("named tuple", returning(s, lambda x: Pair(x * 2, x * 3)).apply, s.randn(2, requires_grad=True))
    s.record("type", type(out).__name__)


@scenario
def structseq_of_outputs(s):
    out = s.outcome("max", returning(s, lambda x: x.max(0)).apply, s.randn(2, requires_grad=True))
    s.record("type", type(out).__name__)


@scenario
def tuple_subclass_of_outputs(s):
    class Special(tuple):
        pass

    out = returning(s, lambda x: Special((x * 2, 1))).apply(s.randn(2, requires_grad=True))
    s.record("out", type(out).__name__, out)


@scenario
def outputs_that_are_no_tensors(s):
    for value in (None, 1, "text", {"a": 1}, object):
        s.outcome(f"{value!r}", returning(s, lambda x, value=value: value).apply, s.randn(2, requires_grad=True))


@scenario
def tensors_and_others_mixed(s):
    thing = object()
    outputs = returning(
        s, lambda x: (1, x * 2, None, "text", x * 3, thing, [x]), backward=lambda ctx, *grads: grads[1] + grads[4]
    ).apply(s.randn(2, requires_grad=True))
    s.record("outputs", outputs[:5], outputs[5] is thing, outputs[6])
    (outputs[1] + outputs[4]).sum().backward()


@scenario
def nested_outputs(s):
    outputs = returning(s, lambda x: (x * 2, (x * 3, x * 4))).apply(s.randn(2, requires_grad=True))
    s.record("outputs", outputs)
    outputs[0].sum().backward()


@scenario
def dict_of_outputs(s):
    s.record("output", returning(s, lambda x: {"y": x * 2}).apply(s.randn(2, requires_grad=True)))


@scenario
def nothing_returned(s):
    s.outcome("None", returning(s, lambda x: None).apply, s.randn(2, requires_grad=True))
    s.outcome("tuple of None", returning(s, lambda x: (None, None)).apply, s.randn(2, requires_grad=True))


@scenario
def same_output_twice(s):
    def make(x):
        y = x * 2
        return y, y

    a, b = returning(s, make).apply(s.randn(2, requires_grad=True))
    s.record("outputs", a, b, a is b)
    (a + b * 2).sum().backward()


@scenario
def input_returned(s):
    x = s.randn(2, requires_grad=True)
    y = returning(s, lambda x: x).apply(x)
    s.record("output", y, y is x)
    y.sum().backward()
    s.record("input", x)


@scenario
def input_returned_non_leaf(s):
    x = s.randn(2, requires_grad=True)
    a = x * 2
    y = returning(s, lambda x: x).apply(a)
    s.record("output", y, y is a)
    s.record("gradient", torch.autograd.grad(y.sum(), x))


@scenario
def input_returned_without_grad(s):
    x = s.randn(2)
    y = returning(s, lambda x: x).apply(x)
    s.record("output", y, y is x)
    with torch.no_grad():
        x = s.randn(2, requires_grad=True)
        y = returning(s, lambda x: x).apply(x)
    s.record("under no_grad", y, y is x)


@scenario
def input_returned_twice(s):
    x = s.randn(2, requires_grad=True)
    a, b = returning(s, lambda x: (x, x)).apply(x)
    s.record("outputs", a, b, a is b, a is x)
    (a + b).sum().backward()


@scenario
def input_returned_next_to_a_new_tensor(s):
    x = s.randn(2, requires_grad=True)
    a, b = returning(s, lambda x: (x, x * 2)).apply(x)
    s.record("outputs", a, b, a is x)
    (a + b).sum().backward()
    s.record("input", x)


@scenario
def frozen_input_returned(s):
    class Second(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            return y

        @staticmethod
        def backward(ctx, grad):
            s.record("gradient", grad)
            return grad, grad

    x, frozen = s.randn(2, requires_grad=True), s.randn(2)
    y = Second.apply(x, frozen)
    s.record("output", y, y is frozen)
    y.sum().backward()
    s.record("inputs", x, frozen)


@scenario
def input_returned_and_modified_afterwards(s):
    x = s.randn(2, requires_grad=True).clone()
    y = returning(s, lambda x: x).apply(x)
    s.outcome("in place", y.add_, 1)
    s.record("input", x)


@scenario
def input_returned_with_setup_context(s):
    class Same(s.Function):
        @staticmethod
        def forward(x, y):
            return x, y

        @staticmethod
        def setup_context(ctx, inputs, output):
            s.record("same", output[0] is inputs[0])

        @staticmethod
        def backward(ctx, *grads):
            return grads

    x, y = s.randn(2, requires_grad=True), s.randn(2)
    s.record("outputs", Same.apply(x, y))


@scenario
def tensor_from_outside_returned(s):
    outside = s.randn(2)
    y = returning(s, lambda x: outside).apply(s.randn(2, requires_grad=True))
    s.record("output", y, y is outside)


@scenario
def leaf_from_outside_returned(s):
    outside = s.randn(2, requires_grad=True)
    s.outcome("call", returning(s, lambda x: outside).apply, s.randn(2, requires_grad=True))
    s.record("leaf", outside)


@scenario
def tensor_with_a_graph_returned(s):
    x = s.randn(2, requires_grad=True)

    def make(x):
        with torch.enable_grad():
            return x.exp() * 2

    y = s.outcome("call", returning(s, make).apply, x)
    s.record("gradient", torch.autograd.grad(y.sum(), x))


@scenario
def parameter_returned(s):
    p = torch.nn.Parameter(s.randn(2))
    y = returning(s, lambda x: x).apply(p)
    s.record("input returned", y)
    y = returning(s, lambda x: torch.nn.Parameter(x * 2)).apply(p)
    s.record("new one", y)
    s.outcome("backward", lambda: y.sum().backward())


@scenario
def output_of_a_first_call_returned_by_a_second(s):
    function = returning(s, lambda x: x)
    x = s.randn(2, requires_grad=True)
    y = function.apply(function.apply(x))
    s.record("output", y)
    y.sum().backward()


@scenario
def outputs_of_other_shapes_and_dtypes(s):
    outputs = returning(
        s,
        lambda x: (x.sum(), x.double(), x[:0], x.repeat(2, 2), x + 1j, x.to(torch.int32)),
        backward=lambda ctx, *grads: grads[0].expand(2),
    ).apply(s.randn(2, requires_grad=True))
    s.record("outputs", outputs)
    (outputs[0] + outputs[3].sum()).backward()


@scenario
def outputs_on_meta(s):
    y = returning(s, lambda x: x.to("meta"), backward=lambda ctx, grad: torch.ones(2)).apply(
        torch.ones(2, requires_grad=True)
    )
    s.record("output", y)
    s.outcome("backward", lambda: y.sum().backward())


@scenario
def some_outputs_used(s):
    for used in range(3):
        x = s.randn(2, requires_grad=True)
        outputs = returning(s, lambda x: (x * 2, x * 3, x * 4)).apply(x)
        outputs[used].sum().backward()
        s.record("input", x)


@scenario
def output_used_many_times(s):
    x = s.randn(2, requires_grad=True)
    y = returning(s, lambda x: x * 2).apply(x)
    (y + y * y + y.sum()).sum().backward()
    s.record("input", x)


@scenario
def output_detached_and_modified(s):
    y = returning(s, lambda x: x * 2).apply(s.randn(2, requires_grad=True))
    y.detach_()
    s.record("detached", y)


@scenario
def output_modified_in_place(s):
    x = s.randn(2, requires_grad=True)
    y = returning(s, lambda x: x * 2).apply(x)
    y.mul_(3)
    s.record("output", y)
    y.sum().backward()
    s.record("input", x)


@scenario
def one_of_several_outputs_modified_in_place(s):
    x = s.randn(2, requires_grad=True)
    a, b = returning(s, lambda x: (x * 2, x * 3), backward=lambda ctx, a, b: a + b).apply(x)
    a.mul_(3)
    s.record("outputs", a, b)
    (a + b).sum().backward()
    s.record("input", x)


@scenario
def outputs_that_share_memory(s):
    def make(x):
        y = x * 2
        return y, y.view(2)

    a, b = returning(s, make, backward=lambda ctx, a, b: a + b).apply(s.randn(2, requires_grad=True))
    s.record("outputs", a, b, a.data_ptr() == b.data_ptr())
    s.outcome("in place", b.add_, 1)
    s.outcome("backward", lambda: (a + b).sum().backward())


@scenario
def chunks_as_outputs(s):
    outputs = returning(s, lambda x: (x * 2).chunk(2), backward=lambda ctx, *grads: torch.cat(grads)).apply(
        s.randn(4, requires_grad=True)
    )
    s.record("outputs", outputs)
    s.outcome("in place", outputs[0].add_, 1)
    s.outcome("backward", lambda: sum(y.sum() for y in outputs).backward())


@scenario
def output_kept_in_forward(s):
    kept = []

    def make(x):
        kept.append(x * 2)
        return kept[0]

    y = returning(s, make).apply(s.randn(2, requires_grad=True))
    s.record("same", y is kept[0], kept[0])


@scenario
def output_with_python_attributes(s):
    def make(x):
        y = x * 2
        y.marker = "marker"
        return y

    s.record("marker", returning(s, make).apply(s.randn(2, requires_grad=True)).marker)
