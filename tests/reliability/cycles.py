# SPDX-License-Identifier: BSD-3-Clause
"""Cycles through a node: what is kept, where, and what has run. ``test_leaks.py`` says which of them are collected."""

import contextlib
import gc
import warnings

import torch
from torch.autograd.graph import saved_tensors_hooks


class Raised(Exception):
    pass


class Box:
    """An object with attributes, and what a pack hook makes of a tensor."""


class Tagged(torch.Tensor):
    pass


def make_function(base, outputs=1, fails=False):
    class Scaled(base):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            if outputs == "view":
                return x.view(2, 2), x * 2
            return tuple(x * (2 + i) for i in range(outputs))

        @staticmethod
        def backward(ctx, *grads):
            if fails:
                raise Raised
            return sum(grad.reshape(4) for grad in grads)

    return Scaled


def called(base, outputs=1, fails=False):
    """The outputs of a call, whose input is the output of an operation."""
    return make_function(base, outputs, fails).apply(torch.ones(4, requires_grad=True) * 1)


def later(y):
    return type(y.grad_fn)._forward_cls.apply(y)


# What is kept: how many outputs the Function has, and what is made of them.
KEPT = {
    "an output": (1, lambda y: [y]),
    "an output of two": (2, lambda y, z: [y]),
    "two outputs": (2, lambda y, z: [y, z]),
    "two outputs of three": (3, lambda y, z, u: [y, u]),
    "two outputs, one twice": (2, lambda y, z: [y, z, [y]]),
    "two outputs, one of them a view of an input": ("view", lambda y, z: [y, z]),
    "two outputs and the node": (2, lambda y, z: [y, z, z.grad_fn]),
    "an output and its gradient": (1, lambda y: [y, y.retain_grad()]),
    "a detached output": (1, lambda y: [y.detach()]),
    "a view": (1, lambda y: [y.view(2, 2)]),
    "a view and its base": (1, lambda y: [y.view(2, 2), y]),
    "two views of one output": (1, lambda y: list(y.chunk(2))),
    "views of two outputs": (2, lambda y, z: [y.view(2, 2), z.view(2, 2)]),
    "a view of a view": (1, lambda y: [y.view(2, 2)[0]]),
    "an output as a subclass": (1, lambda y: [y.as_subclass(Tagged)]),
    "a later tensor": (1, lambda y: [y * 2 + 1]),
    "a later tensor and an output": (1, lambda y: [y * 2, y]),
    "a later tensor of two outputs": (2, lambda y, z: [y + z]),
    "an output of a later Function": (1, lambda y: list(later(y))),
    "the node of a later Function": (1, lambda y: [later(y)[0].grad_fn]),
    "the node": (1, lambda y: [y.grad_fn]),
    "the node before": (1, lambda y: [y.grad_fn.next_functions[0][0]]),
}


def holding(*things):
    return lambda *args, things=things: None


def in_attributes(node, y, things):
    for i, thing in enumerate(things):
        setattr(node, f"kept{i}", thing)


def in_a_list(node, y, things):
    node.kept = things


def in_a_tuple_of_a_dict(node, y, things):
    node.kept = {"things": tuple(things)}


def in_a_list_in_itself(node, y, things):
    node.kept = things
    things.append(things)


def in_an_object(node, y, things):
    node.kept = Box()
    node.kept.things = things


def in_a_closure(node, y, things):
    node.kept = lambda: things


def in_what_forward_saved(node, y, things):
    node.saved_for_forward = tuple(things)


def in_an_attribute_of_the_saved_input(node, y, things):
    node.saved_tensors[0].kept = things


def in_what_a_pack_hook_made(node, y, things):
    box = Box()
    box.things = things

    def pack(tensor):
        box.tensor = tensor
        return box

    node._raw_saved_tensors[0].register_hooks(pack, lambda box: box.tensor)


def in_metadata(node, y, things):
    node.metadata["kept"] = things


def in_a_prehook(node, y, things):
    node.register_prehook(holding(*things))


def in_a_posthook(node, y, things):
    node.register_hook(holding(*things))


def in_a_tensor_hook(node, y, things):
    y.register_hook(holding(*things))


PLACES = [value for name, value in list(globals().items()) if name.startswith("in_")]

# What has run: whether backward fails, and a backward of the outputs or nothing.
STATES = {
    "before backward": (False, None),
    "after backward": (False, {"retain_graph": False}),
    "after backward that retains the graph": (False, {"retain_graph": True}),
    "after backward that failed": (True, {"retain_graph": False}),
}


def make_cycle(base, kept, place, state):
    outputs, keep = KEPT[kept]
    fails, options = STATES[state]
    ys = called(base, outputs, fails)
    node = ys[0].grad_fn
    place(node, ys[0], keep(*ys))
    if options is not None:
        with contextlib.suppress(Raised):
            sum(y.sum() for y in ys).backward(**options)


def is_kept_by_the_base(kept, place):
    """Whether the tensor that has the place is the base of what is kept. A view holds its base in torch's own C++."""
    if place is in_an_attribute_of_the_saved_input:
        return kept == "two outputs, one of them a view of an input"
    views = "a view", "a view and its base", "two views of one output", "views of two outputs", "a view of a view"
    return place is in_a_tensor_hook and kept in (*views, "an output as a subclass")


# --- With pack hooks ---------------------------------------------------------


@contextlib.contextmanager
def packed(box, unpack=lambda box: box.tensor):
    """Saved tensors become ``box``."""

    def pack(tensor):
        box.tensor = tensor
        return box

    with saved_tensors_hooks(pack, unpack):
        yield


def packed_with_the_node(base):
    with packed(box := Box()):
        ys = called(base)
    box.kept = ys[0].grad_fn


def packed_with_the_output(base):
    with packed(box := Box()):
        ys = called(base)
    box.kept = ys


def packed_with_two_outputs(base):
    with packed(box := Box()):
        ys = called(base, 2)
    box.kept = ys


def packed_in_a_tuple(base):
    """Python's tuples can't be cleared."""
    running = []

    class Keeps(base):
        @staticmethod
        def forward(ctx, x):
            running.append(ctx)
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    with saved_tensors_hooks(lambda tensor: (*running, tensor), lambda items: items[-1]):
        Keeps.apply(torch.ones(4, requires_grad=True) * 1)
    running.clear()


def packing_function(base):
    kept = []
    with saved_tensors_hooks(lambda tensor: (kept, tensor)[1], lambda tensor: tensor):
        ys = called(base)
    kept.append(ys[0].grad_fn)


def unpacking_function(base):
    kept = []
    with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: (kept, tensor)[1]):
        ys = called(base)
    kept.append(ys)


PACKED = [packed_with_the_node, packed_with_the_output, packed_with_two_outputs, packed_in_a_tuple]
PACKED += [packing_function, unpacking_function]


# --- Other ways --------------------------------------------------------------


def an_output_in_the_class(base):
    function = make_function(base)
    function.kept = function.apply(torch.ones(4, requires_grad=True))


def a_tensor_marked_dirty(base):
    class Doubled(base):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            ctx.changed = x
            return x.mul_(2)

    Doubled.apply(torch.ones(4, requires_grad=True) * 1)


def an_output_of_a_call_that_failed(base):
    class Fails(base):
        @staticmethod
        def forward(ctx, x):
            ctx.kept = [x * 2, x * 3]
            ctx.itself = ctx
            raise Raised

    with contextlib.suppress(Raised):
        Fails.apply(torch.ones(4, requires_grad=True) * 1)


def a_gradient_hook_of_a_leaf(base):
    x = torch.ones(4, requires_grad=True)
    x.register_hook(holding(x, *called(base)))


OTHER_WAYS = [an_output_in_the_class, a_tensor_marked_dirty, an_output_of_a_call_that_failed, a_gradient_hook_of_a_leaf]


# --- What is not collected ---------------------------------------------------


def a_tensor_from_an_operation_that_saved_an_output(base):
    (y,) = called(base)
    y.grad_fn.kept = y.sin()


def a_node_of_torch(base):
    (y,) = called(base)
    y.grad_fn.kept = (y * 2).grad_fn


def outputs_of_each_other(base):
    (y, z), (u, v) = called(base, 2), called(base, 2)
    y.grad_fn.kept, u.grad_fn.kept = (u, v), (y, z)


def a_view_in_an_attribute_of_its_base(base):
    (y,) = called(base)
    y.grad_fn.kept = y
    y.kept = y.view(2, 2)


def a_view_in_a_hook_of_its_base(base):
    (y,) = called(base)
    y.register_hook(holding(y.view(2, 2)))


def a_gradient_with_a_graph(base):
    (y,) = called(base)
    y.retain_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of such a cycle
        y.sum().backward(create_graph=True)
    y.grad.kept = y


def two_outputs_in_the_class(base):
    function = make_function(base, 2)
    function.kept = function.apply(torch.ones(4, requires_grad=True))


def two_outputs_and_many_objects(base):
    y, z = called(base, 2)
    y.grad_fn.kept = [y, z, [[] for _ in range(70)]]


def two_outputs_with_many_references(base):
    y, z = called(base, 2)
    y.grad_fn.kept = [y, z] * 5


def packed_in_a_node_of_torch(base):
    (y,) = called(base)
    with packed(box := Box()):
        z = y.sin()
    box.kept = z


def a_view_marked_dirty(base):
    class Doubled(base):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            ctx.changed = x
            return x.mul_(2)

    x = torch.ones(4, requires_grad=True) * 1
    x.result = Doubled.apply(x.view(2, 2))


def a_hook_of_a_leaf(base):
    x = torch.ones(4, requires_grad=True)
    x.register_post_accumulate_grad_hook(holding(x))


NOT_COLLECTED = [
    a_tensor_from_an_operation_that_saved_an_output,
    a_node_of_torch,
    outputs_of_each_other,
    a_view_in_an_attribute_of_its_base,
    a_view_in_a_hook_of_its_base,
    a_gradient_with_a_graph,
    two_outputs_in_the_class,
    two_outputs_and_many_objects,
    two_outputs_with_many_references,
    packed_in_a_node_of_torch,
    a_view_marked_dirty,
    a_hook_of_a_leaf,
]


# --- Measuring ---------------------------------------------------------------


def living():
    gc.collect()
    kinds = torch.Tensor, torch._C._FunctionBase, Box
    return sum(issubclass(type(obj), kinds) for obj in gc.get_objects())


def outlives(make, *arguments):
    """Whether what make(*arguments) creates outlives a garbage collection.

    A weak reference doesn't tell: the collector clears it before it calls finalisers, which may keep the object alive.
    """
    before = living()
    make(*arguments)
    return living() > before
