# SPDX-License-Identifier: BSD-3-Clause
"""What a call skips where nobody could tell, each time with somebody who can.

What is skipped, and what leaves it for the long way:

- The dispatcher, for the view that a returned input becomes: another kernel at any of the four steps, a mode, a
  profiler, inference mode, autocast, keys that are not plain.
- The lookups of a class's backward: the class, a base, its metaclass or torch's own class has changed since; a
  descriptor that answers anew each time.
- Asking for a tangent: a tensor has its own, its base's, or one of an earlier level.
- Asking for the edge: a view whose base was changed in place, a leaf without grad, a tensor moved by ``.data``.
- Lists and tuples of flags, for bits: more than 64 arguments, and exactly as many.
- A tuple for one output: None, a list, a tuple of one, a subclass of tuple, the tracer.
- A tuple for one gradient: None, a tuple of one, a tensor of another class, gradients too many.
- inspect.signature, for keyword arguments: parameters of other kinds, names that do not fit, defaults changed since.
"""

import collections
import contextlib

import torch
from harness import scenario
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

TENSOR = torch.Tensor


def make_identity(s, outputs=1):
    class Identity(s.Function):
        @staticmethod
        def forward(ctx, *tensors):
            return tensors[0] if outputs == 1 else tensors[:outputs]

        @staticmethod
        def backward(ctx, *grads):
            return *(grad * 2 for grad in grads), *[None] * (len(ctx.needs_input_grad) - len(grads))

    return Identity


def use(s, label, cls, *tensors):
    tensors = tensors or (s.randn(2, 3, requires_grad=True),)
    output = cls.apply(*tensors)
    s.record(label, output, output._is_view(), output._base is tensors[0], output.grad_fn and output.grad_fn.name())
    if output.requires_grad:
        s.outcome(f"{label}: gradients", torch.autograd.grad, output.sum(), tensors[0])
        s.outcome(f"{label}: in place", lambda: output.mul_(2))


# --- The view that a returned input becomes -----------------------------------------------------------


@contextlib.contextmanager
def kernel(s, name, key):
    """Another kernel for ``aten::<name>`` under ``key``; gives what it was called with."""
    calls = []

    def view(tensor, size):
        calls.append((key, list(tensor.shape)))
        sizes = list(size.shape if name == "view_as" else size)
        strides = [1]
        for length in sizes[:0:-1]:
            strides.insert(0, strides[0] * length)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.aten.as_strided.default(tensor, sizes, strides[: len(sizes)])

    library = torch.library.Library("aten", "IMPL")
    try:
        library.impl(name, view, key)
        yield calls
    finally:
        library._destroy()


@scenario
def replaced_kernels(s):
    Identity, backend = make_identity(s), torch._C._dispatch_key_for_device(torch.device(s.device).type)
    use(s, "before", Identity)
    for name, key in (
        ("view", backend),
        ("view", f"Autograd{backend}"),
        ("view", "ADInplaceOrView"),
        ("view_as", backend),
        ("view_as", f"Autograd{backend}"),
    ):
        x = s.randn(2, 3, requires_grad=True)
        with kernel(s, name, key) as calls:
            y = s.keep(Identity.apply(x))
            seen = list(calls)
        s.record(f"{name}, {key}", seen, y.detach().clone(), y.requires_grad)
        use(s, f"after {name}, {key}", Identity)


class Functions(TorchFunctionMode):
    def __init__(self, s):
        super().__init__()
        self.s = s

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.s.record("function", getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


class Dispatched(TorchDispatchMode):
    def __init__(self, s):
        super().__init__()
        self.s = s

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.s.record("operator", str(func))
        return func(*args, **(kwargs or {}))


@scenario
def modes(s):
    Identity = make_identity(s)
    for mode in (Functions(s), Dispatched(s), torch.inference_mode(), torch.no_grad()):
        x = s.randn(2, 3, requires_grad=True)
        with mode:
            y = s.keep(Identity.apply(x))
        s.record(type(mode).__name__, y.detach().clone(), y.requires_grad, y.is_inference(), y._is_view())
    with torch.autocast(torch.device(s.device).type, dtype=torch.bfloat16):
        use(s, "autocast", Identity)
    with torch.autograd._force_original_view_tracking(True):
        use(s, "view replay", Identity)


@scenario
def operators_that_a_profiler_sees(s):
    Identity, x = make_identity(s), s.randn(2, 3, requires_grad=True)
    Identity.apply(x)
    with torch.autograd.profiler.profile() as profiled:
        s.keep(Identity.apply(x))
    s.record("operators", [event.name for event in profiled.function_events if event.name.startswith("aten::")])


@scenario
def a_profiler_that_forward_starts(s):
    profiled = torch.autograd.profiler.profile()

    class Identity(s.Function):
        @staticmethod
        def forward(ctx, x):
            profiled.__enter__()
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad

    s.keep(Identity.apply(s.randn(3, requires_grad=True)))
    profiled.__exit__(None, None, None)
    s.record("operators", [event.name for event in profiled.function_events if event.name.startswith("aten::")])


@scenario
def tensors_of_other_kinds(s):
    Identity = make_identity(s)
    base = s.randn(4, 3, requires_grad=True)
    complex_numbers = s.randn(3, dtype=torch.complex64, requires_grad=True)
    kinds = {
        "view": base[1:],
        "transposed": base.t(),
        "expanded": s.randn(1, requires_grad=True).expand(3),
        "of no size": s.randn(0, 3, requires_grad=True),
        "of no dimension": s.randn((), requires_grad=True),
        "one of several": base.unbind()[1],
        "view without grad": base.detach()[1:].requires_grad_(),
        "strided oddly where the size is 1": base.detach().as_strided((2, 1, 3), (3, 7, 1)).requires_grad_(),
        "the same without elements": base.detach().as_strided((0, 1), (5, 9)).requires_grad_(),
        "the same of one element": base.detach().as_strided((1,), (4,), 2).requires_grad_(),
        "overlapping": base.detach().as_strided((3, 3), (1, 1), 4).requires_grad_(),
        "channels last": s.randn(2, 3, 2, 2).contiguous(memory_format=torch.channels_last).requires_grad_(),
        "half": s.randn(3, dtype=torch.bfloat16, requires_grad=True),
        "conjugated": complex_numbers.conj(),
        "negative": complex_numbers.conj().imag,
        "parameter": torch.nn.Parameter(s.randn(2)),
        "meta": torch.empty(2, device="meta", requires_grad=True),
        "integers": s.tensor([1, 2]),
    }
    for kind, x in kinds.items():
        y = Identity.apply(x)
        shown = y if kind == "meta" else y.detach().resolve_conj().resolve_neg().clone()
        s.record(kind, shown, y._is_view(), y.stride(), y.grad_fn and y.grad_fn.name())
        s.record(
            f"{kind}: storage", y.storage_offset(), y.dtype, y.is_contiguous(), y.data_ptr() == x.data_ptr(), y._version
        )
        if y.requires_grad and kind != "meta":
            s.outcome(f"{kind}: in place", lambda y=y: y.mul_(2))
        s.keep(y)


@scenario
def a_view_as_of_ones_own(s):
    Identity = make_identity(s)

    class Own(torch.Tensor):
        def view_as(self, other):
            s.record("view_as of the class")
            return super().view_as(other)

    use(s, "subclass", Identity, s.randn(3).as_subclass(Own).requires_grad_())
    plain = TENSOR.view_as
    TENSOR.view_as = lambda tensor, other: (s.record("view_as"), plain(tensor, other))[1]
    try:
        use(s, "patched", Identity)
    finally:
        TENSOR.view_as = plain
    use(s, "after", Identity)


# --- The class's backward -----------------------------------------------------------------------------


def backward_times(factor):
    return staticmethod(lambda ctx, grad: grad * factor)


def gradient(s, label, cls):
    x = s.randn(2, requires_grad=True)
    s.outcome(label, lambda: torch.autograd.grad(cls.apply(x).sum(), x))


def make_scaled(s, metaclass=None, **attributes):
    bases = (s.Function,)
    attributes = {"forward": staticmethod(lambda ctx, x: x * 2), "backward": backward_times(2), **attributes}
    return (metaclass or type(s.Function))("Scaled", bases, attributes)


@scenario
def a_backward_that_changes(s):
    Scaled = make_scaled(s)

    class Derived(Scaled):
        pass

    gradient(s, "first", Scaled)
    gradient(s, "derived", Derived)
    Scaled.backward = backward_times(3)
    gradient(s, "set", Scaled)
    gradient(s, "set in the base", Derived)
    Derived.backward = classmethod(lambda cls, ctx, grad: grad * len(cls.__name__))
    gradient(s, "classmethod", Derived)
    del Derived.backward
    gradient(s, "taken away", Derived)
    Scaled.vjp = backward_times(5)
    gradient(s, "both", Scaled)
    del Scaled.backward
    gradient(s, "vjp alone", Scaled)
    del Scaled.vjp
    gradient(s, "neither", Scaled)
    Derived.__bases__ = (make_scaled(s, backward=backward_times(7)),)
    gradient(s, "another base", Derived)


@scenario
def a_node_made_before_the_change(s):
    Scaled, x = make_scaled(s), s.randn(2, requires_grad=True)
    for factor in (3, 4):
        y = Scaled.apply(x)
        Scaled.backward = backward_times(factor)
        s.record("gradient", torch.autograd.grad(y.sum(), x))


@scenario
def a_backward_that_answers_anew(s):
    factors = iter(range(2, 20))

    class Anew:
        def __get__(self, instance, owner):
            factor = next(factors)
            return lambda ctx, grad: grad * factor

    class Meta(type(s.Function)):
        @property
        def backward(cls):
            factor = next(factors)
            return lambda ctx, grad: grad * factor

    class Asking(type(s.Function)):
        def __getattribute__(cls, name):
            if name == "backward":
                s.record("asked")
            return super().__getattribute__(name)

    for label, cls in (
        ("descriptor", make_scaled(s, backward=Anew())),
        ("metaclass", make_scaled(s, Meta)),
        ("__getattribute__", make_scaled(s, Asking)),
    ):
        for call in range(3):
            gradient(s, f"{label}, call {call}", cls)


@scenario
def a_metaclass_that_changes(s):
    class Meta(type(s.Function)):
        pass

    Scaled = make_scaled(s, Meta)
    gradient(s, "before", Scaled)
    Meta.backward = property(lambda cls: lambda ctx, grad: grad * 9)
    gradient(s, "after", Scaled)
    del Meta.backward
    gradient(s, "again", Scaled)


@scenario
def torchs_own_class_changes(s):
    Scaled = make_scaled(s)
    gradient(s, "before", Scaled)
    torch.autograd.Function.backward = vars(Scaled)["backward"]
    try:
        gradient(s, "the same as torch's", Scaled)
    finally:
        del torch.autograd.Function.backward  # which it inherits
    gradient(s, "after", Scaled)


@scenario
def attributes_of_the_node(s):
    x = s.randn(2, requires_grad=True)
    Scaled, Other = make_scaled(s), make_scaled(s, backward=backward_times(11))
    for name, value in (("apply", lambda *grads: grads[0] * 13), ("_forward_cls", Other)):
        s.record("before", torch.autograd.grad(Scaled.apply(x).sum(), x))
        y = Scaled.apply(x)
        setattr(y.grad_fn, name, value)
        s.outcome(name, lambda y=y: torch.autograd.grad(y.sum(), x))


# --- Tangents -----------------------------------------------------------------------------------------


@scenario
def tangents_of_bases_and_views(s):
    class Doubled(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def jvp(ctx, tangent):
            s.record("jvp", tangent)
            return tangent * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    def tangent_of(label, x):
        y = Doubled.apply(x)
        s.record(label, forward_ad.unpack_dual(y).tangent)

    primal, tangent = s.randn(4), s.randn(4)
    before = primal[:1]
    with forward_ad.dual_level():
        tangent_of("none", primal)
        dual = forward_ad.make_dual(primal, tangent)
        tangent_of("its own", dual)
        tangent_of("the base's", dual[1:])
        tangent_of("of a view of a view", dual[1:][:2])
        tangent_of("detached", dual.detach())
        base = s.randn(4)
        view = base[2:]
        base.copy_(dual)
        tangent_of("that the base got later", view)
        part = s.randn(4)
        part[:2].copy_(dual[:2])
        tangent_of("that a view gave its base", part)
        with torch.no_grad():
            tangent_of("under no_grad", dual)
        tangent_of("not that of the view made before", before)
    tangent_of("of a level that has ended", dual)
    with forward_ad.dual_level():
        tangent_of("of an earlier level", dual)


# --- Edges --------------------------------------------------------------------------------------------


@scenario
def edges_of_all_kinds(s):
    Identity = make_identity(s)
    leaf, other = s.randn(3, requires_grad=True), s.randn(3, requires_grad=True)
    base = leaf * 1
    view = base[:2]
    view.mul_(other[:2])
    stale = (rebased := leaf * 3)[:2]
    rebased.mul_(other)
    several = torch.stack([leaf, other]).unbind()
    moved = s.randn(3, requires_grad=True)
    moved.sum()
    moved.data = s.randn(2)
    tensors = {
        "leaf": leaf,
        "no grad": s.randn(3),
        "no leaf": leaf * 2,
        "view": (leaf * 2)[1:],
        "view of a leaf": leaf[1:],
        "base changed by a view": base,
        "view that changed its base": view,
        "view whose base was changed": stale,
        "second output": several[1],
        "detached": leaf.detach(),
        "moved": moved,
        "integers": s.tensor([1]),
    }
    for kind, x in tensors.items():
        y = s.keep(Identity.apply(x, other))
        s.record(kind, y.grad_fn and [(node and node.name(), number) for node, number in y.grad_fn.next_functions])
        s.outcome(f"{kind}: gradients", lambda y=y: torch.autograd.grad(y.sum(), [leaf, other], allow_unused=True))


# --- Flags --------------------------------------------------------------------------------------------


@scenario
def as_many_arguments_as_there_are_bits(s):
    class Sum(s.Function):
        @staticmethod
        def forward(ctx, *arguments):
            s.record("in forward", sum(ctx.needs_input_grad), len(ctx.needs_input_grad))
            return sum(each for each in arguments if isinstance(each, torch.Tensor))

        @staticmethod
        def jvp(ctx, *tangents):
            s.record("tangents", [tangent is None for tangent in tangents])
            return sum(tangent for tangent in tangents if tangent is not None)

        @staticmethod
        def backward(ctx, grad):
            s.record("in backward", ctx.needs_input_grad)
            return tuple(grad * n if needed else None for n, needed in enumerate(ctx.needs_input_grad))

    class TooMany(Sum):
        @staticmethod
        def backward(ctx, grad):
            return (grad,) * len(ctx.needs_input_grad)

    for count in (0, 1, 63, 64, 65, 130):
        arguments = [(s.randn(1, requires_grad=n % 3 == 0), n, None)[n % 2 * (1 + n % 4 // 2)] for n in range(count)]
        leaves = [each for each in arguments if isinstance(each, torch.Tensor) and each.requires_grad]
        if not leaves:
            continue
        s.record(f"{count}", torch.autograd.grad(Sum.apply(*arguments).sum(), leaves))
        s.outcome(f"{count}: a gradient for a number", lambda a=arguments: TooMany.apply(*a).sum().backward())
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(each.detach(), torch.ones_like(each)) if isinstance(each, torch.Tensor) else each
                for each in arguments
            ]
            s.record(f"{count}: jvp", forward_ad.unpack_dual(Sum.apply(*duals)).tangent)


# --- One output, one gradient -------------------------------------------------------------------------


@scenario
def what_stands_for_one_output(s):
    Pair = collections.namedtuple("Pair", "a b")

    class Tuple(tuple):
        pass

    def make(result):
        class Returns(s.Function):
            @staticmethod
            def forward(ctx, x):
                return result(x)

            @staticmethod
            def backward(ctx, *grads):
                s.record("backward", grads)
                return sum(grad for grad in grads if grad is not None)

        return Returns

    results = {
        "tensor": lambda x: x * 2,
        "input": lambda x: x,
        "None": lambda x: None,
        "number": lambda x: 7,
        "list": lambda x: [x * 2],
        "no output": lambda x: (),
        "tuple of one": lambda x: (x * 2,),
        "tuple of the input": lambda x: (x,),
        "namedtuple": lambda x: Pair(x * 2, None),
        "subclass of tuple": lambda x: Tuple((x, x * 3)),
        "the same twice": lambda x: (y := x * 2, y),
        "the input twice": lambda x: (x, x),
    }
    for kind, result in results.items():
        x = s.randn(2, requires_grad=True)
        output = make(result).apply(x)
        s.record(kind, output, type(output).__name__)
        tensors = [each for each in (output if isinstance(output, tuple) else (output,)) if isinstance(each, TENSOR)]
        if tensors:
            s.record(f"{kind}: gradient", torch.autograd.grad(sum(each.sum() for each in tensors), x))


@scenario
def one_output_under_the_tracer(s):
    Identity = make_identity(s)
    for label, function in (("input", lambda x: Identity.apply(x)), ("more", lambda x: Identity.apply(x * 2, 3) + 1)):
        traced = torch.jit.trace(function, s.randn(2, requires_grad=True), check_trace=False)
        s.record(label, str(traced.graph).count("^"), [str(node.kind()) for node in traced.graph.nodes()])


@scenario
def what_stands_for_one_gradient(s):
    class Own(torch.Tensor):
        pass

    results = {
        "tensor": lambda grad: grad * 2,
        "None": lambda grad: None,
        "tuple of one": lambda grad: (grad * 2,),
        "tuple with None": lambda grad: (grad * 2, None),
        "list": lambda grad: [grad * 2],
        "number": lambda grad: 1.0,
        "two": lambda grad: (grad, grad),
        "none": lambda grad: (),
        "subclass": lambda grad: grad.as_subclass(Own),
        "parameter": lambda grad: torch.nn.Parameter(grad),
        "another shape": lambda grad: grad.sum(),
        "another dtype": lambda grad: grad.double(),
    }
    for kind, result in results.items():
        cls = make_scaled(s, backward=staticmethod(lambda ctx, grad, result=result: result(grad)))
        gradient(s, kind, cls)
    number = type(s.Function)(
        "OfANumber",
        (s.Function,),
        {"forward": staticmethod(lambda ctx, x, n: x * n), "backward": staticmethod(lambda ctx, grad: grad)},
    )
    x = s.randn(2, requires_grad=True)
    s.outcome("one for two arguments", lambda: torch.autograd.grad(number.apply(x, 2).sum(), x))


# --- Keyword arguments --------------------------------------------------------------------------------


@scenario(since="2.13")
def keyword_arguments_by_name(s):
    def make(forward):
        def setup_context(ctx, inputs, output):
            s.record("inputs", inputs)
            ctx.count = len(inputs)

        def backward(ctx, grad):
            return grad * 2, *[None] * (ctx.count - 1)

        functions = {"forward": forward, "setup_context": setup_context, "backward": backward}
        return type(s.Function)("Named", (s.Function,), {name: staticmethod(f) for name, f in functions.items()})

    def plain(x, factor=3, power=1):
        return x * factor**power

    def required(x, factor, power=1):
        return x * factor**power

    def only_by_position(x, factor=3, /, power=1):
        return x * factor**power

    def only_by_keyword(x, *, factor=3, power=1):
        return x * factor**power

    def more_by_position(x, factor=3, *more):
        return x * factor + len(more)

    def more_by_keyword(x, factor=3, **more):
        return x * factor + len(more)

    def changed(x, factor=3, power=1):
        return x * factor**power

    calls = (
        ((), {"factor": 4}),
        ((), {"power": 2}),
        ((), {"power": 2, "factor": 4}),
        ((4,), {"power": 2}),
        ((4,), {"factor": 5}),
        ((4, 2), {"power": 1}),
        ((4, 2, 7), {}),
        ((4, 2, 7), {"factor": 1}),
        ((), {"x": 1}),
        ((), {"unknown": 1}),
        ((), {}),
    )
    changed.__defaults__ = (1, 2, 3, 4)
    for forward in (plain, required, only_by_position, only_by_keyword, more_by_position, more_by_keyword, changed):
        Named = make(forward)
        for args, keywords in calls:
            x, label = s.randn(2, requires_grad=True), f"{forward.__name__}{args}{keywords}"
            y = s.outcome(label, lambda x=x, a=args, k=keywords: Named.apply(x, *a, **k))
            if y is not None:
                s.outcome(f"{label}: gradient", lambda x=x, y=y: torch.autograd.grad(y.sum(), x))
        s.outcome(f"{forward.__name__}, by name alone", lambda: Named.apply(x=s.randn(2), factor=2))
    plain.__kwdefaults__ = {"power": 7}
    s.outcome("defaults that are none of its own", lambda: make(plain).apply(s.randn(2), factor=2))
    plain.__code__ = required.__code__
    s.outcome("other code", lambda: make(plain).apply(s.randn(2), factor=2))
    plain.__defaults__ = None
    s.raises("no defaults", lambda: make(plain).apply(s.randn(2), factor=2))
