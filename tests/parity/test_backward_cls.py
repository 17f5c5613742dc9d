# SPDX-License-Identifier: BSD-3-Clause
"""Classes that decide about ``_backward_cls`` themselves: where it is kept, how it is computed, how ctx is created.

| kept | computed | creating a ctx |
| --- | --- | --- |
| in the class's dict, or a base's | not at all | does nothing special; attributes are overridden |
| elsewhere, by a property of the metaclass | once, or each time | runs an ``__init__`` that sets attributes |
| nowhere | by ``__getattribute__``, or a descriptor in the class | runs a ``__new__``, which may return a used one |
"""

import gc

import torch
from harness import scenario
from torch.autograd.function import BackwardCFunction, FunctionMeta


def make_double(s, metaclass=FunctionMeta, **attributes):
    """A Function that multiplies by 2, and shows what its backward sees of ctx."""

    class Double(s.Function, metaclass=metaclass):
        @staticmethod
        def forward(ctx, *tensors):
            ctx.seen_in_forward = ctx.needs_input_grad
            return tensors[0] * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("flags", ctx.seen_in_forward, ctx.needs_input_grad)
            return grad * 2, *[None] * (len(ctx.needs_input_grad) - 1)

    for name, value in attributes.items():
        setattr(Double, name, value)
    return Double


def make_backward_cls(cls, **attributes):
    return type("DoubleBackward", (BackwardCFunction,), {"_forward_cls": cls, **attributes})


def use(s, label, cls, inputs=2, calls=3):
    """Calls ``cls`` some times and runs backward."""
    for call in range(calls):
        tensors = [s.randn(2, requires_grad=i % 2 == 0 or call == 1) for i in range(inputs)]
        y = cls.apply(*tensors)
        s.record(f"{label}, call {call}", y.detach(), y.grad_fn.name(), isinstance(y.grad_fn, BackwardCFunction))
        s.record("next", y.grad_fn.next_functions, y.grad_fn._forward_cls, type(y.grad_fn).__name__)
        y.sum().backward()
        s.record("gradients", [x.grad for x in tensors])


# --- Where it is kept, and how it is computed -----------------------------------------------------


def remembering(anew):
    """A metaclass whose property keeps the class out of every class's dict, or creates another one each time."""
    kept = {}

    class Meta(FunctionMeta):
        @property
        def _backward_cls(cls):
            return make_backward_cls(cls) if anew else kept[cls]

        @_backward_cls.setter
        def _backward_cls(cls, value):
            kept[cls] = value

    return Meta


@scenario
def kept_by_the_metaclass(s):
    Double = make_double(s, remembering(anew=False))
    use(s, "constant", Double)
    nodes = [Double.apply(s.randn(2, requires_grad=True)).grad_fn for _ in range(2)]
    s.record("instances", [isinstance(node, Double._backward_cls) for node in nodes], type(nodes[0]) is type(nodes[1]))


@scenario
def computed_by_the_metaclass(s):
    use(s, "anew", make_double(s, remembering(anew=True)))


@scenario
def torchs_own_class_stays_whose_metaclass_keeps_it(s):
    before = torch.autograd.Function._backward_cls
    use(s, "constant", make_double(s, remembering(anew=False)))
    s.record("of Function", torch.autograd.Function._backward_cls is before)


@scenario
def computed_by_getattribute(s):
    class Meta(FunctionMeta):
        def __getattribute__(cls, name):
            return make_backward_cls(cls) if name == "_backward_cls" else super().__getattribute__(name)

    use(s, "anew", make_double(s, Meta))


@scenario
def property_that_reads_the_dict(s):
    class Meta(FunctionMeta):
        @property
        def _backward_cls(cls):
            return vars(cls)["_backward_cls"]

    Double = make_double(s)
    Double.__class__ = Meta  # afterwards: a property without a setter can't be set
    use(s, "read", Double)


@scenario
def descriptor_in_the_class(s):
    class Descriptor:
        def __init__(self, anew):
            self.anew = anew
            self.made = None

        def __get__(self, instance, cls):
            if self.made is None or self.anew:
                self.made = make_backward_cls(cls)
            return self.made

    for anew in (False, True):
        Double = make_double(s, _backward_cls=Descriptor(anew))
        use(s, f"anew: {anew}", Double)
        s.record("the descriptor stays", type(vars(Double)["_backward_cls"]).__name__)


@scenario(not_before="2.13")
def class_of_c(s):
    class Meta(FunctionMeta):
        @property
        def _backward_cls(cls):
            return torch._C._FunctionBase

    for computed in (False, True):
        Double = make_double(s, _backward_cls=torch._C._FunctionBase)
        Double.forward = staticmethod(lambda ctx, x: x * 2)
        if computed:
            Double.__class__ = Meta
        for _ in range(2):
            y = Double.apply(s.randn(2, requires_grad=True))
            s.record("output", y.detach(), y.grad_fn.name())
            s.raises("backward", y.sum().backward)


@scenario
def one_class_for_two_functions(s):
    First, Second = make_double(s), make_double(s)
    Second._backward_cls = First._backward_cls
    use(s, "second", Second)
    use(s, "first", First)
    s.record("shared", Second._backward_cls is First._backward_cls)


@scenario
def classes_made_at_each_call_are_collected(s):
    Double = make_double(s, remembering(anew=True))
    use(s, "warm", Double)

    def count():
        gc.collect()
        return sum(cls.__name__ == "DoubleBackward" for cls in gc.get_objects() if type(cls) is type)

    before = count()
    use(s, "used", Double, calls=5)
    s.record("left over", count() - before)


# --- What creating one does -------------------------------------------------------------------------


@scenario
def init_that_sets_flags(s):
    for inputs in (1, 2, 64, 65, 80):
        for value in (("made", "up"), (), None, (False,) * inputs):

            def __init__(self, value=value):
                self.needs_input_grad = value

            Double = make_double(s)
            Double._backward_cls = make_backward_cls(Double, __init__=__init__)
            use(s, f"{inputs} inputs, {value}", Double, inputs, calls=2)


@scenario
def init_that_sets_other_attributes(s):
    def setter(name, value):
        def __init__(self):
            setattr(self, name, value)

        return __init__

    odd = {
        "materialize_grads": False,
        "_materialize_non_diff_grads": False,
        "_is_pure_view": True,
        "non_differentiable": (),
        "dirty_tensors": (),
        "to_save": (s.randn(2),),
        "saved_for_forward": (s.randn(2),),
        "own": 3,
    }
    for name, value in odd.items():
        Double = make_double(s)
        Double._backward_cls = make_backward_cls(Double, __init__=setter(name, value))
        s.outcome(name, use, s, name, Double, calls=2)


@scenario
def init_that_raises(s):
    def __init__(self):
        raise ArithmeticError("no ctx today")

    Double = make_double(s)
    Double._backward_cls = make_backward_cls(Double, __init__=__init__)
    s.raises("apply", Double.apply, s.randn(2, requires_grad=True))


def flags_of_a_call(s, cls, inputs, call):
    tensors = [s.randn(2, requires_grad=i % 3 == call % 3) for i in range(inputs)]
    y = cls.apply(*tensors)  # from 2.14 on torch refuses a used node
    return y.grad_fn and y.grad_fn.needs_input_grad


def with_new(Double, before=lambda cls: None, made=None):
    """A class whose ``__new__`` calls ``before``; it returns the one object in ``made``, if that is a list."""

    class DoubleBackward(BackwardCFunction):
        _forward_cls = Double

        def __new__(cls):
            before(cls)
            if not made:
                new = super().__new__(cls)
                if made is None:
                    return new
                made.append(new)
            return made[0]

    return DoubleBackward


@scenario
def new_that_returns_a_used_one(s):
    for inputs in (2, 70):
        made = []
        Double = make_double(s)
        Double._backward_cls = with_new(Double, made=made)
        for call in range(3):
            s.outcome(f"flags of {inputs}, call {call}", flags_of_a_call, s, Double, inputs, call)


@scenario
def new_of_a_class_derived_after_the_first_call(s):
    for inputs in (2, 70):
        made = []
        Double = make_double(s)
        Double.apply(s.randn(2, requires_grad=True))

        class Derived(Double._backward_cls):
            def __new__(cls, made=made):
                if not made:
                    made.append(super().__new__(cls))
                return made[0]

        Double._backward_cls = Derived
        for call in range(3):
            s.outcome(f"flags of {inputs}, call {call}", flags_of_a_call, s, Double, inputs, call)


@scenario
def new_that_is_called_once_a_call(s):
    Double = make_double(s)
    Double._backward_cls = with_new(Double, before=lambda cls: s.record("new", cls.__name__))
    use(s, "counted", Double)


# --- What it overrides ----------------------------------------------------------------------------


def overriding(cls):
    """Attributes of a ctx that are implemented in C++, overridden."""
    return {
        "name": lambda self: "my name",
        "saved_tensors": property(lambda self: ("mine",)),
        "needs_input_grad": property(lambda self: (True, "mine")),
        "next_functions": property(lambda self: "mine"),
        "metadata": property(lambda self: {"mine": 1}),
        "register_hook": lambda self, hook: "my handle",
        "requires_grad": "mine",
        "_sequence_nr": lambda self: -1,
    }


@scenario
def attributes_of_its_own(s):
    for name, value in overriding(None).items():
        Double = make_double(s)
        Double._backward_cls = make_backward_cls(Double, **{name: value})
        y = Double.apply(s.randn(2, requires_grad=True), s.randn(2))
        found = getattr(y.grad_fn, name)
        s.record(name, found(*[None] * (name == "register_hook")) if callable(found) else found)
        s.outcome("backward", y.sum().backward)


@scenario
def attributes_patched_into_torchs_base(s):
    for name, value in overriding(None).items():
        Double = make_double(s)
        setattr(BackwardCFunction, name, value)
        try:
            y = Double.apply(s.randn(2, requires_grad=True), s.randn(2))
            found = getattr(y.grad_fn, name)
            s.record(name, found(*[None] * (name == "register_hook")) if callable(found) else found)
        finally:
            delattr(BackwardCFunction, name)


@scenario
def attributes_set_after_the_first_call(s):
    Double = make_double(s)
    use(s, "first", Double, calls=1)
    node = s.keep(Double.apply(s.randn(2, requires_grad=True))).grad_fn
    for name, value in {**overriding(None), "mine": 3, "apply": lambda self, *grads: (grads[0] * 7, None)}.items():
        setattr(Double._backward_cls, name, value)
        found = getattr(node, name)
        s.record(name, found if not callable(found) else "callable", name in dir(node))
        y = Double.apply(s.randn(2, requires_grad=True), s.randn(2))
        s.outcome("backward", y.sum().backward)
        delattr(Double._backward_cls, name)
    Double._backward_cls.__name__ = "Renamed"
    s.record("renamed", node.name(), s.keep(Double.apply(s.randn(2, requires_grad=True))).grad_fn.name())


@scenario
def it_stays_the_same_class(s):
    Double = make_double(s)
    before = Double._backward_cls, dict(vars(Double._backward_cls)), Double._backward_cls.__mro__
    use(s, "used", Double)
    s.record("same", Double._backward_cls is before[0], Double._backward_cls.__mro__ == before[2])
    s.record("attributes", sorted(vars(Double._backward_cls)), vars(Double._backward_cls) == before[1])
    s.record("of the Function", sorted(vars(Double)), type(Double._backward_cls).__name__)
