# SPDX-License-Identifier: BSD-3-Clause
"""What can be read from, assigned to and deleted from ctx."""

import copy
import pickle

import pytest
import torch
from backported_names import BACKPORTS
from harness import scenario

import torch_ext


def make_double(s, *, forward=lambda ctx: None, backward=lambda ctx: None):
    """A Function that doubles x and calls ``forward`` and ``backward`` with its ctx."""

    class Double(s.Function):
        @staticmethod
        def forward(ctx, x):
            forward(ctx)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            backward(ctx)
            return grad * 2

    return Double


def node_of(s, **callbacks):
    return s.keep(make_double(s, **callbacks).apply(s.randn(2, requires_grad=True))).grad_fn


def run(node):
    """Run backward through ``node`` with ones."""
    edge = torch.autograd.graph.GradientEdge(node, 0)
    torch.autograd.backward(edge, torch.ones(2, device=node._input_metadata[0].device))


FLAGS = ("materialize_grads", "_is_pure_view", "_materialize_non_diff_grads")
TUPLES = ("to_save", "non_differentiable", "dirty_tensors", "saved_for_forward", "needs_input_grad")
READ_ONLY = (
    "next_functions",
    "metadata",
    "requires_grad",
    "_input_metadata",
    "saved_tensors",
    "saved_variables",
    "_raw_saved_tensors",
)
CLASS_ATTRIBUTES = ("boxed_grads_call", "clear_saved_tensors_on_access")
STATE = ("_compiled_autograd_backward_state",)
ALL = FLAGS + TUPLES + READ_ONLY + CLASS_ATTRIBUTES + STATE
# Deleting these crashes torch.
CANNOT_BE_DELETED = FLAGS + STATE


@scenario
def ctx_itself(s):
    seen = []

    def look(ctx):
        s.record("ctx", ctx, type(ctx).__name__, str(ctx), bool(ctx), callable(ctx))
        s.record("is a FunctionCtx", isinstance(ctx, s.FunctionCtx))
        seen.append(ctx)

    node = node_of(s, forward=look, backward=look)
    run(node)
    s.record("is the node", seen[0] is node, seen[1] is node, hash(node) == hash(seen[0]), node == seen[0])


@scenario
def type_of_ctx(s):
    cls = type(node_of(s))
    s.record("names", cls.__name__, cls.__qualname__, cls.__module__, repr(cls))
    s.record("has dict", hasattr(cls, "__dict__"), cls.__doc__, cls.__weakrefoffset__ != 0)
    autograd = torch.autograd
    bases = (autograd.function.BackwardCFunction, torch._C._FunctionBase, s.FunctionCtx, autograd.graph.Node)
    s.record("is subclass of", [issubclass(cls, base) for base in bases])


def names_in(obj):
    return [name for name in dir(obj) if not name.startswith("__") and name not in BACKPORTS]


@scenario
def dir_of_ctx(s):
    s.record("dir", names_in(node_of(s)))


@scenario
def dir_of_the_function(s):
    Double = make_double(s)
    Double.apply(s.randn(2, requires_grad=True))
    s.record("dir", names_in(Double))
    s.record("own", sorted(vars(Double)))


@scenario
def backward_class_before_and_after_use(s):
    Double = make_double(s)
    before = Double._backward_cls
    node = Double.apply(s.randn(2, requires_grad=True)).grad_fn
    for cls in (before, Double._backward_cls):
        s.record("class", cls.__name__, cls.__qualname__, cls.__module__, cls._forward_cls is Double)
        s.record("node", isinstance(node, cls), node._autograd_function_id == cls._autograd_function_id)
    s.record("exact", node.__class__ is Double._backward_cls, type(node).__name__)
    s.record("it stays", Double._backward_cls is before)


@scenario
def compiled_autograd_keys(s):
    node = node_of(s)
    s.record("key", node._compiled_autograd_key() == (node._autograd_function_id,))
    s.record("symints", node._get_compiled_autograd_symints())
    s.outcome("with an argument", node._get_compiled_autograd_symints, 1)


@scenario
def compiled_autograd_backward_state(s):
    node = node_of(s)
    s.outcome("read", lambda: node._compiled_autograd_backward_state)
    node._compiled_autograd_backward_state = [1]
    s.outcome("assigned", lambda: node._compiled_autograd_backward_state)
    try:
        node._compiled_autograd_backward_state = [2]
    except RuntimeError:  # torch's message is an internal assertion's, with a path
        s.record("assigned only once", node._compiled_autograd_backward_state)


@scenario
def every_attribute_read_in_forward(s):
    def look(ctx):
        for name in ALL:
            s.outcome(name, getattr, ctx, name)

    node_of(s, forward=look)


@scenario
def every_attribute_read_in_backward(s):
    def look(ctx):
        for name in ALL:
            s.outcome(name, getattr, ctx, name)

    run(node_of(s, backward=look))


@scenario
def every_attribute_read_afterwards(s):
    node = node_of(s)
    for name in ALL:
        s.outcome(name, getattr, node, name)


@scenario
def every_attribute_deleted_in_forward(s):
    def delete(ctx):
        for name in TUPLES + READ_ONLY + CLASS_ATTRIBUTES:
            s.outcome(f"delete {name}", delattr, ctx, name)
            s.outcome(name, getattr, ctx, name)

    node = node_of(s, forward=delete)
    s.outcome("backward", run, node)


@scenario
def every_attribute_deleted_in_backward(s):
    def delete(ctx):
        for name in TUPLES + READ_ONLY + CLASS_ATTRIBUTES:
            s.outcome(f"delete {name}", delattr, ctx, name)

    node = node_of(s, backward=delete)
    s.outcome("backward", run, node)


@pytest.mark.parametrize("name", CANNOT_BE_DELETED)
def test_deleting_raises_where_torch_crashes(name):
    class Deletes(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            delattr(ctx, name)

    with pytest.raises(TypeError, match="can't be deleted"):
        Deletes.apply(torch.ones(2, requires_grad=True))


@scenario
def flags_take_bools_only(s):
    def assign(ctx):
        for name in FLAGS:
            for value in (True, False, 1, 0, None, "yes", [], torch.tensor(True)):
                s.outcome(f"{name} = {value!r}", setattr, ctx, name, value)

    s.outcome("backward", run, node_of(s, forward=assign))


@scenario
def tuples_take_anything(s):
    def assign(ctx):
        for name in TUPLES:
            for value in ((1, 2), [1], None, 1, "text"):
                s.outcome(f"{name} = {value!r}", setattr, ctx, name, value)
                s.outcome(name, getattr, ctx, name)
            setattr(ctx, name, ())

    s.outcome("backward", run, node_of(s, forward=assign))


@scenario
def read_only_attributes(s):
    node = node_of(s)
    for name in READ_ONLY:
        s.raises(f"{name} = ()", setattr, node, name, ())


@scenario
def metadata_is_a_dict(s):
    def look(ctx):
        s.record("in forward", ctx.metadata)
        ctx.metadata["from forward"] = 1

    node = node_of(s, forward=look)
    s.record("afterwards", node.metadata, node.metadata is node.metadata)
    node.metadata["key"] = [1]
    s.record("changed", node.metadata)
    s.raises("assign", setattr, node, "metadata", {})


@scenario
def needs_input_grad_of_every_kind_of_input(s):
    class Many(s.Function):
        @staticmethod
        def forward(ctx, *inputs):
            s.record("in forward", ctx.needs_input_grad)
            return inputs[0] * 2

        @staticmethod
        def backward(ctx, grad):
            s.record("in backward", ctx.needs_input_grad)
            return (grad * 2,) + (None,) * 6

    x = s.randn(2, requires_grad=True)
    frozen = s.randn(2)
    y = Many.apply(x, frozen, 1, None, "text", [x], s.tensor([1, 2]))
    s.record("afterwards", y.grad_fn.needs_input_grad)
    y.sum().backward()
    Many.apply(frozen, x, 1, None, x * 1, [x], s.tensor([1, 2]))
    Many.apply(frozen)
    with torch.no_grad():
        Many.apply(x, x)


@scenario
def needs_input_grad_without_inputs(s):
    class Constant(s.Function):
        @staticmethod
        def forward(ctx):
            s.record("in forward", ctx.needs_input_grad)
            return torch.ones(1, device=s.device)

    s.record("output", Constant.apply())


@scenario
def needs_input_grad_narrowed_by_the_engine(s):
    class Product(s.Function):
        @staticmethod
        def forward(ctx, x, y, z):
            return x * y * z

        @staticmethod
        def backward(ctx, grad):
            s.record("needs", ctx.needs_input_grad)
            return grad, grad, grad

    x, y, z = (s.randn(2, requires_grad=True) for _ in range(3))
    out = Product.apply(x, y, z * 1)
    for inputs in ([x], [y], [z], [x, z], [x, y, z]):
        s.record("gradients", torch.autograd.grad(out.sum(), inputs, retain_graph=True))
    out.sum().backward(inputs=[y])
    s.record("outside backward", out.grad_fn.needs_input_grad)


@scenario
def needs_input_grad_assigned(s):
    def assign(ctx):
        ctx.needs_input_grad = (False, "anything")

    node = node_of(s, forward=assign, backward=lambda ctx: s.record("in backward", ctx.needs_input_grad))
    s.record("after", node.needs_input_grad)
    x = s.randn(2, requires_grad=True)
    make_double(s, forward=assign, backward=lambda ctx: s.record("by the engine", ctx.needs_input_grad)).apply(
        x
    ).sum().backward()
    s.record("gradient", x.grad)
    del node.needs_input_grad
    s.outcome("deleted", lambda: node.needs_input_grad)


@scenario
def attributes_of_any_kind(s):
    things = (1, "text", [1, 2], {"a": 1}, None, s.randn(2), lambda: 1, object)

    def assign(ctx):
        for number, thing in enumerate(things):
            setattr(ctx, f"thing_{number}", thing)

    def check(ctx):
        s.record("same", [getattr(ctx, f"thing_{number}") is thing for number, thing in enumerate(things)])

    node = node_of(s, forward=assign, backward=check)
    s.record("dict", sorted(vars(node)))
    run(node)


@scenario
def attribute_that_is_missing(s):
    node = node_of(s, backward=lambda ctx: ctx.missing)
    s.raises("read", lambda: node.missing)
    s.raises("delete", delattr, node, "missing")
    s.raises("in backward", run, node)
    s.record("hasattr", hasattr(node, "missing"))


@scenario
def attribute_deleted_and_set_again(s):
    node = node_of(s)
    node.a = 1
    del node.a
    s.record("gone", hasattr(node, "a"), vars(node))
    node.a = 2
    s.record("back", node.a, vars(node))


@scenario
def attributes_survive_backward(s):
    def assign(ctx):
        ctx.a = 1

    def change(ctx):
        ctx.a += 1

    node = node_of(s, forward=assign, backward=change)
    run(node)
    run(node)
    s.record("counted", node.a)


@scenario
def attribute_that_hides_a_method(s):
    def assign(ctx):
        ctx.mark_dirty = 1
        ctx.name = "hidden"
        s.record("hidden", ctx.mark_dirty, ctx.name)

    node = node_of(s, forward=assign)
    s.record("afterwards", node.name, node.mark_dirty)


@scenario
def attribute_named_as_one_of_the_class(s):
    def assign(ctx):
        for name in ("_forward_cls", "apply", "_autograd_function_id", "saved", "__class__"):
            s.outcome(f"assign {name}", setattr, ctx, name, 1)

    s.outcome("apply", lambda: node_of(s, forward=assign).apply)


@scenario
def dict_of_ctx_replaced(s):
    node = node_of(s)
    node.a = 1
    s.outcome("replace", setattr, node, "__dict__", {"b": 2})
    s.record("now", vars(node), hasattr(node, "a"), node.b)
    s.outcome("delete", delattr, node, "__dict__")


@scenario
def ctx_is_not_copied(s):
    node = node_of(s)
    s.outcome("copy", copy.copy, node)
    s.outcome("deepcopy", copy.deepcopy, node)
    s.outcome("pickle", pickle.dumps, node)


@scenario
def ctx_compared_and_hashed(s):
    one, other = node_of(s), node_of(s)
    s.record("equal", one == one, one == other, one != other, len({one, one, other}))  # noqa: PLR0124 (on purpose)
    s.raises("ordered", lambda: one < other)


@scenario
def mark_shared_storage_is_deprecated(s):
    node_of(s, forward=lambda ctx: ctx.mark_shared_storage((1, 2)))


@scenario
def set_materialize_grads_takes_a_bool(s):
    for value in (True, False, 1, None, "yes"):
        s.outcome(f"{value!r}", lambda value=value: node_of(s, forward=lambda ctx: ctx.set_materialize_grads(value)))


@scenario
def methods_of_ctx_called_outside_forward(s):
    x = s.randn(2, requires_grad=True)
    y = make_double(s).apply(x)
    node = y.grad_fn
    s.outcome("save_for_backward", node.save_for_backward, x)
    s.outcome("mark_dirty", node.mark_dirty, x)
    s.outcome("mark_non_differentiable", node.mark_non_differentiable, y)
    s.outcome("set_materialize_grads", node.set_materialize_grads, False)
    s.record("node", node.to_save, node.dirty_tensors, node.non_differentiable, node.saved_tensors)
    s.outcome("backward", lambda: y.sum().backward())
    s.record("gradient", x.grad)
    del node.to_save, node.dirty_tensors, node.non_differentiable


@scenario
def attributes_after_forward(s):
    class Everything(s.Function):
        @staticmethod
        def forward(ctx, x, y):
            out, aux = x * 2, x > 0
            ctx.save_for_backward(x)
            ctx.mark_dirty(y)
            ctx.mark_non_differentiable(aux)
            s.record("in forward", ctx.to_save, ctx.dirty_tensors, ctx.non_differentiable)
            return out, aux, y.add_(1)

        @staticmethod
        def backward(ctx, *grads):
            return grads[0], grads[2]

    out, aux, y = Everything.apply(s.randn(2, requires_grad=True), s.randn(2))
    node = out.grad_fn
    s.record("afterwards", node.to_save, node.dirty_tensors, node.non_differentiable)


# A ctx created by hand


@scenario
def backward_class_instantiated(s):
    Double = make_double(s)
    for used in (False, True):
        if used:
            Double.apply(s.randn(2, requires_grad=True))
        ctx = Double._backward_cls()
        s.record("ctx", isinstance(ctx, torch._C._FunctionBase), type(ctx).__name__)
        for name in ("needs_input_grad", "to_save", "next_functions", "saved_tensors", "metadata"):
            s.outcome(name, getattr, ctx, name)
        s.outcome("name", ctx.name)
        s.outcome("requires_grad", lambda ctx=ctx: ctx.requires_grad)


@scenario
def ctx_type_instantiated(s):
    cls = type(node_of(s))
    ctx = cls()
    for name in ("needs_input_grad", "to_save", "next_functions", "saved_tensors", "metadata"):
        s.outcome(name, getattr, ctx, name)
    s.outcome("name", ctx.name)
    s.outcome("with arguments", cls, 1, 2)


@scenario
def rules_called_by_hand(s):
    class Double(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    class Ctx:
        def save_for_backward(self, *tensors):
            self.tensors = tensors

    x = s.randn(2, requires_grad=True)
    ctx = Ctx()
    s.record("forward", Double.forward(ctx, x))
    s.record("backward", Double.backward(ctx, x))
    s.record("saved", ctx.tensors)
