# SPDX-License-Identifier: BSD-3-Clause
"""Exceptions at every step of a call: type, text, cause, context and the user's lines in the traceback."""

import warnings

import torch
import torch._decomp.decompositions_for_jvp  # torch does so at the first dual level, with warnings
import torch.autograd.forward_ad as fwAD
from harness import scenario
from harness.small_functions import make_identity, make_product, make_square

STEPS = "forward", "setup_context", "backward", "jvp", "vmap"


class OddError(Exception):
    """Its text can't be had, and it takes an argument that pickle and copy don't know of."""

    def __init__(self, first, *, second):
        super().__init__(first)
        self.second = second

    def __str__(self):
        return f"{self.args[0]} and {self.second}\nin two lines, with a NUL \0 and a ü"


class UnprintableError(Exception):
    def __str__(self):
        raise ValueError("no text")


def fail(kind):
    """Raises an exception of this kind, through a few frames of the user."""

    def inner():
        if kind == "from":
            raise RuntimeError("effect") from KeyError("cause")
        if kind == "during":
            try:
                raise KeyError("first")
            except KeyError:
                raise RuntimeError("second")  # noqa: B904 (the context is compared)
        if kind == "from None":
            try:
                raise KeyError("hidden")
            except KeyError:
                raise RuntimeError("alone") from None
        if kind == "note":
            error = ValueError("with a note")
            error.__notes__ = ["the note"]  # as add_note() does, from Python 3.11 on
            raise error
        if kind == "odd":
            raise OddError("first", second="second")
        if kind == "no arguments":
            raise KeyError
        if kind == "number":
            return 1 / 0
        if kind == "torch":
            return torch.ones(2) @ torch.ones(3)
        if kind == "recursion":
            return inner()
        if kind == "stop":
            raise StopIteration("stop")
        raise kind("raised")

    inner()


KINDS = [
    "from",
    "during",
    "from None",
    "note",
    "odd",
    "no arguments",
    "number",
    "torch",
    "stop",
    KeyError,
    RuntimeError,
    TypeError,
    NotImplementedError,
    AttributeError,
    MemoryError,
    OSError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    StopAsyncIteration,
    torch.OutOfMemoryError,
    torch.cuda.OutOfMemoryError,
]


def make_failing(s, step, kind):
    """A Function that fails in this step only."""

    def maybe(name):
        if name == step:
            fail(kind)

    class Failing(s.Function):
        @staticmethod
        def forward(x):
            maybe("forward")
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            maybe("setup_context")

        @staticmethod
        def backward(ctx, grad):
            maybe("backward")
            return grad * 2

        @staticmethod
        def jvp(ctx, tangent):
            maybe("jvp")
            return tangent * 2

        @staticmethod
        def vmap(info, in_dims, x):
            maybe("vmap")
            return Failing.apply(x), in_dims[0]

    return Failing.apply


def run_to(s, step, call):
    """Use the Function in such a way that ``step`` runs."""
    x = s.randn(2, requires_grad=True)
    if step == "backward":
        call(x).sum().backward()
    elif step == "jvp":
        with fwAD.dual_level():
            call(fwAD.make_dual(x.detach(), torch.ones_like(x)))
    elif step == "vmap":
        torch.func.vmap(call)(x)
    else:
        call(x)


def step_scenario(step):
    def errors(s):
        for kind in KINDS:
            name = kind if isinstance(kind, str) else kind.__name__
            s.raises(name, run_to, s, step, make_failing(s, step, kind))
        s.differentiate("still works", make_square(s.Function).apply, s.randn(2, requires_grad=True))

    errors.__name__ = errors.__qualname__ = f"errors_in_{step}"
    globals()[errors.__name__] = scenario(errors)


for _step in STEPS:
    step_scenario(_step)


@scenario
def error_whose_text_cannot_be_had(s):
    for step in "forward", "backward":
        try:
            run_to(s, step, make_failing(s, step, UnprintableError))
        except UnprintableError as error:
            s.record(step, type(error), error.args)


@scenario
def the_exception_object_is_the_users(s):
    error = KeyError("mine")

    class Raises(s.Function):
        @staticmethod
        def forward(ctx, x, now):
            if now:
                raise error
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise error

    x = s.randn(2, requires_grad=True)
    for call in lambda: Raises.apply(x, True), lambda: Raises.apply(x, False).sum().backward():
        try:
            call()
        except KeyError as caught:
            s.record("the same object", caught is error)
        error.__traceback__ = None


@scenario
def traceback_through_nested_functions(s):
    class Inner(s.Function):
        @staticmethod
        def forward(ctx, x):
            return fail(KeyError)

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            return Inner.apply(x)

    def user_code():
        return Outer.apply(s.randn(2, requires_grad=True))

    s.raises("nested", user_code)


@scenario
def traceback_of_a_backward_of_backward(s):
    class Inner(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return fail(KeyError)

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                leaf = torch.ones(2, device=s.device, requires_grad=True)
                Inner.apply(leaf).sum().backward()

    s.raises("nested", lambda: Outer.apply(s.randn(2, requires_grad=True)).sum().backward())


@scenario
def error_while_another_is_handled(s):
    class Raises(s.Function):
        @staticmethod
        def forward(ctx, x):
            raise RuntimeError("in forward")

    def call():
        try:
            raise KeyError("before")
        except KeyError:
            Raises.apply(s.randn(2))

    s.raises("context", call)

    def backward():
        try:
            raise KeyError("before")
        except KeyError:
            run_to(s, "backward", make_failing(s, "backward", RuntimeError))

    s.raises("context in backward", backward)


@scenario
def success_while_an_exception_is_handled(s):
    try:
        raise KeyError("before")
    except KeyError as error:
        s.differentiate("works", make_product(s.Function).apply, s.randn(2, requires_grad=True), s.randn(2))
        s.record("untouched", error)


@scenario
def recursion_error_in_forward_and_backward(s):
    for step in "forward", "backward":
        try:
            run_to(s, step, make_failing(s, step, "recursion"))
        except RecursionError as error:
            s.record(step, str(error))
    s.differentiate("still works", make_square(s.Function).apply, s.randn(2, requires_grad=True))


@scenario
def a_function_that_calls_itself_forever(s):
    class Endless(s.Function):
        @staticmethod
        def forward(ctx, x):
            return Endless.apply(x)

    try:
        Endless.apply(s.randn(2, requires_grad=True))
    except RecursionError as error:
        s.record("raised", str(error).partition(" while")[0])
    # Sequence numbers show how deep it went: a call of ours takes fewer frames.
    s.record("still works", make_square(s.Function).apply(s.randn(2, requires_grad=True)).detach())


@scenario
def warnings_as_errors(s):
    class Warns(s.Function):
        @staticmethod
        def forward(ctx, x):
            warnings.warn("in forward", UserWarning, stacklevel=1)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            warnings.warn("in backward", UserWarning, stacklevel=1)
            return grad * 2

    s.differentiate("warned", Warns.apply, s.randn(2, requires_grad=True))
    y = Warns.apply(x := s.randn(2, requires_grad=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s.raises("forward", Warns.apply, x)
        s.raises("backward", lambda: y.sum().backward())


@scenario
def deprecation_warnings_as_errors(s):
    class Old(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad

    node = s.keep(Old.apply(s.randn(2, requires_grad=True))).grad_fn
    s.record("warns", node.saved_variables)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s.raises("saved_variables", lambda: node.saved_variables)
        s.raises("instance", Old)
        s.raises("mark_shared_storage", node.mark_shared_storage)


# Hooks


@scenario
def errors_in_hooks(s):
    def register(where, y, x):
        if where == "tensor hook":
            y.register_hook(lambda grad: fail(KeyError))
        elif where == "leaf hook":
            x.register_hook(lambda grad: fail(KeyError))
        elif where == "prehook":
            y.grad_fn.register_prehook(lambda grads: fail(KeyError))
        elif where == "hook":
            y.grad_fn.register_hook(lambda gin, gout: fail(KeyError))
        else:
            x.register_post_accumulate_grad_hook(lambda x: fail(KeyError))

    for where in "tensor hook", "leaf hook", "prehook", "hook", "post accumulate":
        x = s.randn(2, requires_grad=True)
        y = make_square(s.Function).apply(x)
        register(where, y, x)
        s.raises(where, lambda y=y: y.sum().backward())
        s.record("input", x)


@scenario
def hooks_that_return_wrong_things(s):
    results = {"number": 3, "text": "text", "pair of numbers": (1, 2), "list": [1], "empty": ()}
    for name, result in results.items():
        for where in "tensor hook", "prehook", "hook":
            x = s.randn(2, requires_grad=True)
            y = make_square(s.Function).apply(x)
            if where == "tensor hook":
                y.register_hook(lambda grad, result=result: result)
            elif where == "prehook":
                y.grad_fn.register_prehook(lambda grads, result=result: result)
            else:
                y.grad_fn.register_hook(lambda gin, gout, result=result: result)
            s.outcome(f"{where} returns {name}", lambda y=y: y.sum().backward())


# Looking things up on the class


def make_meta(s, name, get):
    """A metaclass that computes the class attribute ``name``."""
    return type("Meta", (type(s.Function),), {name: property(get)})


@scenario
def lookup_through_a_metaclass(s):
    for name in "forward", "setup_context", "backward", "vjp", "_compiled_autograd_key":

        def get(cls, name=name):
            s.record("looked up", name)
            fail(KeyError)

        class Plain(make_square(s.Function), metaclass=make_meta(s, name, get)):
            pass

        def call(Plain=Plain):
            Plain.apply(s.randn(2, requires_grad=True)).sum().backward()

        s.outcome(name, call)


@scenario(since="2.13")
def lookup_through_a_descriptor(s):
    class Fails:
        def __get__(self, instance, owner):
            raise KeyError(f"looked up on {owner.__name__}")

    for name in "forward", "setup_context", "backward", "vjp", "clear_saved_tensors_on_access", "boxed_grads_call":

        class Plain(make_square(s.Function)):
            pass

        setattr(Plain, name, Fails())
        s.outcome(name, lambda Plain=Plain: Plain.apply(s.randn(2, requires_grad=True)).sum().backward())


@scenario(since="2.13")
def flags_of_a_wrong_type(s):
    for name in "clear_saved_tensors_on_access", "boxed_grads_call", "generate_vmap_rule":
        for value in 1, None, "yes":

            class Flagged(make_square(s.Function)):
                pass

            setattr(Flagged, name, value)
            s.outcome(f"{name}={value!r}", lambda c=Flagged: c.apply(s.randn(2, requires_grad=True)).sum().backward())


@scenario
def steps_that_are_not_callable(s):
    for name in "forward", "setup_context", "backward", "vjp":
        for value in None, 3, "text":

            class Plain(make_square(s.Function)):
                pass

            setattr(Plain, name, value)
            s.outcome(f"{name}={value!r}", lambda c=Plain: c.apply(s.randn(2, requires_grad=True)).sum().backward())


@scenario
def steps_that_are_callable_objects(s):
    class Callable:
        def __init__(self, function):
            self.function = function

        def __call__(self, *args):
            return self.function(*args)

    class Doubles(s.Function):
        forward = Callable(lambda ctx, x: x * 2)
        backward = Callable(lambda ctx, grad: grad * 2)

    s.differentiate("objects", Doubles.apply, s.randn(2, requires_grad=True))


@scenario
def steps_that_are_not_static(s):
    class Instance(s.Function):
        def forward(ctx, x):
            return x * 2

        def backward(ctx, grad):
            return grad * 2

    class Class(s.Function):
        @classmethod
        def forward(cls, ctx, x):
            s.record("cls", cls.__name__)
            return x * 2

        @classmethod
        def backward(cls, ctx, grad):
            s.record("cls", cls.__name__)
            return grad * 2

    for cls in Instance, Class:
        s.differentiate(cls.__name__, cls.apply, s.randn(2, requires_grad=True))


@scenario
def attribute_errors_of_ctx(s):
    class Asks(s.Function):
        @staticmethod
        def forward(ctx, x):
            s.raises("missing", lambda: ctx.missing)
            s.raises("delete", lambda: delattr(ctx, "missing"))
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return ctx.missing

    x = s.randn(2, requires_grad=True)
    s.raises("backward", lambda: Asks.apply(x).sum().backward())


# Arguments and results


@scenario(since="2.13")
def wrong_calls(s):
    square, product = make_square(s.Function), make_product(s.Function)
    x = s.randn(2, requires_grad=True)
    s.raises("too few", square.apply)
    s.raises("too many", square.apply, x, x)
    s.raises("unknown keyword", square.apply, y=x)
    s.raises("too few, new style", product.apply, x)
    s.raises("too many, new style", product.apply, x, x, x)
    s.raises("unknown keyword, new style", product.apply, x, z=x)
    s.raises("twice, new style", product.apply, x, x=x)
    s.raises("no class", lambda: s.Function.apply(x))
    s.raises("call of an instance", lambda: square()(x))


@scenario
def apply_called_as_a_plain_function(s):
    attribute = s.Function.__dict__["apply"]
    function = getattr(attribute, "__func__", attribute)  # a C descriptor from torch 2.14 on
    s.record("output", function(make_square(s.Function), s.randn(2, requires_grad=True)))
    s.raises("no class", function)
    s.raises("no Function", function, int, 3)


@scenario
def wrong_results_of_forward(s):
    class Returns(s.Function):
        @staticmethod
        def forward(ctx, x, result):
            return result(x)

        @staticmethod
        def backward(ctx, *grads):
            return None, None

    x = s.randn(2, requires_grad=True)
    results = {
        "None": lambda x: None,
        "number": lambda x: 3,
        "list": lambda x: [x * 2],
        "dict": lambda x: {"y": x * 2},
        "empty tuple": lambda x: (),
        "nested tuple": lambda x: ((x * 2,), x * 3),
        "text": lambda x: ("text", x * 2),
        "generator": lambda x: (y for y in [x]).close(),
        "class": lambda x: torch.Tensor,
    }
    for name, result in results.items():
        s.outcome(name, Returns.apply, x, result)
        s.outcome(f"{name}, no gradient", Returns.apply, x.detach(), result)


@scenario
def wrong_results_of_backward(s):
    class Returns(s.Function):
        @staticmethod
        def forward(ctx, x, result):
            ctx.result = result
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return ctx.result(grad)

    results = {
        "too few": lambda g: g,
        "empty": lambda g: (),
        "too many": lambda g: (g, None, g),
        "too many None": lambda g: (g, None, None, None),
        "number": lambda g: (3, None),
        "text": lambda g: ("text", None),
        "list": lambda g: [g, None],
        "for a non-tensor": lambda g: (g, g),
        "shape": lambda g: (g.repeat(2), None),
        "expandable shape": lambda g: (g.sum(), None),
        "reducible shape": lambda g: (g.expand(3, 2), None),
        "dtype": lambda g: (g.double(), None),
        "integer": lambda g: (g.long(), None),
        "complex": lambda g: (g.to(torch.complex64), None),
        "meta": lambda g: (g.to("meta"), None),
        "sparse": lambda g: (g.to_sparse(), None),
        "raises nothing": lambda g: (g, None),
    }
    for name, result in results.items():
        x = s.randn(2, requires_grad=True)
        s.outcome(name, lambda x=x, result=result: Returns.apply(x * 1, result).sum().backward())
        s.record("gradient", x.grad)


@scenario
def missing_steps(s):
    class Nothing(s.Function):
        pass

    class OnlyForward(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    class OnlySetup(s.Function):
        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

    class Both(make_square(s.Function)):
        @staticmethod
        def vjp(ctx, grad):
            return grad

    x = s.randn(2, requires_grad=True)
    s.raises("nothing", Nothing.apply, x)
    s.raises("only forward", lambda: OnlyForward.apply(x).sum().backward())
    s.raises("only setup_context", OnlySetup.apply, x)
    s.raises("backward and vjp", lambda: Both.apply(x).sum().backward())


@scenario
def error_leaves_the_modes_as_they_were(s):
    for step in "forward", "setup_context", "backward", "jvp":
        s.raises(step, run_to, s, step, make_failing(s, step, KeyError))
        s.record(
            "modes",
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch._C._is_fwd_grad_enabled(),
            torch._C._current_autograd_node(),
            torch._C._current_graph_task_id(),
        )


@scenario
def error_in_one_of_several_branches(s):
    identity = make_identity(s.Function)
    order = []

    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            order.append("fails")
            raise KeyError("one branch")

    x = s.randn(2, requires_grad=True)
    branches = [identity.apply(x), Fails.apply(x), identity.apply(x)]
    branches[0].register_hook(lambda grad: order.append("first"))
    branches[2].register_hook(lambda grad: order.append("last"))
    s.raises("backward", lambda: sum(branches).sum().backward())
    s.record("order", order)
    s.record("input", x)
    # What the engine has queued it drops in the next backward.
    identity.apply(x).sum().backward()


@scenario
def backward_after_a_failed_backward(s):
    state = {"fail": True}

    class Once(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            if state["fail"]:
                raise KeyError("first time")
            return 2 * x * grad

    x = s.randn(2, requires_grad=True)
    y = Once.apply(x)
    s.raises("first", lambda: y.sum().backward())
    state["fail"] = False
    s.outcome("second", lambda: y.sum().backward())
    s.record("input", x)


@scenario
def torch_function_that_raises(s):
    class Refuses(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            raise KeyError(getattr(function, "__name__", "?"))

    x = s.randn(2).as_subclass(Refuses)
    s.outcome("call", lambda: type(make_identity(s.Function).apply(x)))


@scenario
def torch_dispatch_that_raises_in_wrap(s):
    class Refuses(torch.Tensor):
        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, requires_grad=inner.requires_grad)

        @classmethod
        def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
            raise KeyError(str(operator))

    class Returns(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad

    class Views(Returns):
        @staticmethod
        def forward(ctx, x):
            return x.detach()

    for cls in Returns, Views:
        s.raises(cls.__name__, cls.apply, Refuses(s.randn(2, requires_grad=True)))


@scenario
def errors_of_mark_dirty(s):
    def marking(what, result):
        class Marks(s.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.mark_dirty(*what(x))
                return result(x)

            @staticmethod
            def backward(ctx, grad):
                return grad

        return Marks.apply

    leaf = s.randn(2, requires_grad=True)
    s.raises("leaf", marking(lambda x: (x,), lambda x: x.add_(1)), leaf)
    s.outcome("not an input", marking(lambda x: (x * 2,), lambda x: x * 2), leaf * 1)
    s.outcome("not returned", marking(lambda x: (x,), lambda x: x * 2), leaf * 1)
    s.raises("no tensor", marking(lambda x: (3,), lambda x: x * 2), leaf * 1)
    s.outcome("view of a leaf", marking(lambda x: (x,), lambda x: x.add_(1)), leaf.view(2))
    s.outcome("expanded", marking(lambda x: (x,), lambda x: x), (leaf[:1] * 1).expand(2))
    s.outcome("one of split", marking(lambda x: (x,), lambda x: x.add_(1)), (leaf * 1).split(1)[0])


@scenario
def errors_of_mark_non_differentiable(s):
    def marking(what):
        class Marks(s.Function):
            @staticmethod
            def forward(ctx, x):
                y = x * 2
                ctx.mark_non_differentiable(*what(x, y))
                return y

            @staticmethod
            def backward(ctx, grad):
                return grad

        return Marks.apply

    x = s.randn(2, requires_grad=True)
    s.outcome("output", marking(lambda x, y: (y,)), x)
    s.outcome("input", marking(lambda x, y: (x,)), x)
    s.outcome("other", marking(lambda x, y: (x * 3,)), x)
    s.raises("no tensor", marking(lambda x, y: (3,)), x)
    s.raises("None", marking(lambda x, y: (None,)), x)
