# SPDX-License-Identifier: BSD-3-Clause
"""Copies and pickles of classes, tensors with a grad_fn, and nodes."""

import copy
import io
import pickle
import weakref

import torch
from backported_names import BACKPORTS
from harness import scenario
from harness.small_functions import make_identity, make_product, make_square


class StockAtTop(torch.autograd.Function):
    """A class that pickle finds by name."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


@scenario
def deepcopy_of_an_output(s):
    y = make_square(s.Function).apply(s.randn(2, requires_grad=True))
    s.raises("deepcopy", copy.deepcopy, y)
    s.record("detached", copy.deepcopy(y.detach()))


@scenario
def shallow_copy_of_an_output(s):
    y = make_square(s.Function).apply(s.randn(2, requires_grad=True))
    s.outcome("copy", copy.copy, y)


@scenario
def deepcopy_of_a_leaf_with_gradient(s):
    x = s.randn(2, requires_grad=True)
    make_square(s.Function).apply(x).sum().backward()
    s.record("copy", copy.deepcopy(x))


@scenario
def pickle_of_an_output(s):
    y = make_square(s.Function).apply(s.randn(2, requires_grad=True))
    s.outcome("dumps", lambda: pickle.loads(pickle.dumps(y)))
    buffer = io.BytesIO()
    torch.save(y, buffer)
    buffer.seek(0)
    s.record("loaded", torch.load(buffer))


@scenario
def pickle_and_copy_of_a_node(s):
    node = make_square(s.Function).apply(s.randn(2, requires_grad=True)).grad_fn
    s.outcome("dumps", pickle.dumps, node)
    s.outcome("reduce", lambda: node.__reduce_ex__(2)[0])
    s.outcome("copy", lambda: type(copy.copy(node)).__name__)
    s.outcome("deepcopy", lambda: type(copy.deepcopy(node)).__name__)


def dumps_less_notes(value):
    """pickle.dumps() without the notes of Python 3.14 and newer, which name torch_ext's object: differences.md."""
    try:
        return pickle.dumps(value)
    except Exception as error:
        vars(error).pop("__notes__", None)
        raise


@scenario
def pickle_and_copy_of_a_class(s):
    s.record("class", pickle.loads(pickle.dumps(StockAtTop)) is StockAtTop)
    s.record("apply", pickle.loads(pickle.dumps(StockAtTop.apply)) == StockAtTop.apply)
    x = s.randn(2, requires_grad=True)
    s.record("call", pickle.loads(pickle.dumps(StockAtTop.apply))(x))
    s.record("copies", copy.copy(StockAtTop) is StockAtTop, copy.deepcopy(StockAtTop) is StockAtTop)
    s.raises("local class", pickle.dumps, make_square(s.Function))
    StockAtTop.apply(x)
    s.record("a class that was used", pickle.loads(pickle.dumps(StockAtTop)) is StockAtTop)
    s.raises("function of apply", dumps_less_notes, getattr(StockAtTop.apply, "__func__", StockAtTop._backward_cls))
    s.raises("backward class", pickle.dumps, StockAtTop._backward_cls)


@scenario
def copies_of_apply(s):
    apply = make_square(s.Function).apply
    s.record("copy", copy.copy(apply) == apply)
    s.record("deepcopy", copy.deepcopy({"f": apply})["f"] == apply)
    s.differentiate("copied", copy.deepcopy(apply), s.randn(2, requires_grad=True))


@scenario
def module_that_holds_apply(s):
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(s.randn(3))
            self.function = make_product(s.Function).apply

        def forward(self, x):
            return self.function(x, self.weight)

    layer = copy.deepcopy(Layer())
    s.differentiate("copied", layer, s.randn(3, requires_grad=True))


@scenario
def comparing_and_hashing(s):
    square = make_square(s.Function)
    x = s.randn(2, requires_grad=True)
    a, b = square.apply(x), square.apply(x)
    s.record("apply", square.apply == square.apply, hash(square.apply) == hash(square.apply))
    s.record("a new method each time", square.apply is square.apply)
    s.record("nodes", a.grad_fn == a.grad_fn, a.grad_fn == b.grad_fn, a.grad_fn is a.grad_fn)
    s.record("in a set", len({a.grad_fn, b.grad_fn, a.grad_fn}))
    s.record("as keys", {a.grad_fn: 1}[a.grad_fn])


@scenario
def text_of_outputs_and_nodes(s):
    x = s.randn(2, requires_grad=True)
    y = make_product(s.Function).apply(x, x)
    s.record("repr", repr(y), repr(y.grad_fn), str(y.grad_fn), y.grad_fn.name())
    s.record("class", repr(make_product(s.Function)), repr(type(y.grad_fn)))
    s.record("dir of a node", [name for name in dir(y.grad_fn) if name not in {*dir(object), *BACKPORTS}])


@scenario
def tensor_attributes_through_a_function(s):
    x = s.randn(2, requires_grad=True)
    x.note = "kept"
    y = make_identity(s.Function).apply(x)
    s.record("output", vars(y), vars(x))


@scenario
def weak_references_to_everything(s):
    square = make_square(s.Function)
    x = s.randn(2, requires_grad=True)
    y = square.apply(x)
    refs = {
        "output": weakref.ref(y),
        "node": weakref.ref(y.grad_fn),
        "class": weakref.ref(square),
        "backward class": weakref.ref(square._backward_cls),
    }
    node = y.grad_fn
    del y
    for name, ref in refs.items():
        s.alive(f"{name}, node held", ref)
    del node
    for name, ref in refs.items():
        s.alive(f"{name}, node dropped", ref)
    del square
    for name, ref in refs.items():
        s.alive(f"{name}, class dropped", ref)


@scenario
def node_dictionary_as_a_weak_key(s):
    notes = weakref.WeakKeyDictionary()
    y = make_square(s.Function).apply(s.randn(2, requires_grad=True))
    notes[y.grad_fn] = "note"
    s.record("there", len(notes), notes[y.grad_fn])
    del y
    s.record("gone", len(notes))
