# SPDX-License-Identifier: BSD-3-Clause
"""Instances of Functions, InplaceFunction, NestedIOFunction and FunctionCtx."""

import pickle

import torch
from harness import scenario
from torch.autograd.function import BackwardCFunction, _ContextMethodMixin


class Double(torch.autograd.Function):
    """A class that pickle finds by name."""

    @staticmethod
    def forward(ctx, x):
        return x * 2


@scenario
def function_instantiated(s):
    class Plain(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    instance = Plain()
    s.record("instance", isinstance(instance, s.Function), isinstance(instance, torch._C._FunctionBase))
    s.raises("called", instance, s.randn(2))
    s.record("apply", instance.apply(s.randn(2, requires_grad=True)))


@scenario
def function_instantiated_with_arguments(s):
    class Plain(s.Function):
        pass

    s.outcome("arguments", lambda: bool(Plain(1, 2, key=3)))


@scenario
def attributes_of_an_instance(s):
    class Plain(s.Function):
        pass

    instance = Plain()
    for name in ("needs_input_grad", "to_save", "saved_tensors", "next_functions", "metadata", "requires_grad"):
        s.outcome(name, getattr, instance, name)
    s.outcome("name", instance.name)
    s.outcome("register_hook", instance.register_hook, print)
    instance.to_save = (1,)
    s.record("to_save", instance.to_save)


@scenario
def instance_with_an_init_of_its_own(s):
    class WithInit(s.Function):
        def __init__(self, scale):
            self.scale = scale

        @staticmethod
        def forward(ctx, x):
            return x * 2

    instance = WithInit(3)
    s.record("scale", instance.scale, instance.apply(s.randn(2)))


@scenario
def function_itself_instantiated(s):
    s.outcome("instance", lambda: type(s.Function()).__qualname__)


@scenario
def inplace_function(s):
    class AddOne(s.InplaceFunction):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.add_(1)

        @staticmethod
        def backward(ctx, grad):
            return grad * 3

    x = s.randn(2, requires_grad=True)
    y = AddOne.apply(x.clone())
    s.record("output", y)
    y.sum().backward()
    s.record("input", x)
    instance = AddOne(inplace=True)
    s.record("inplace", instance.inplace, AddOne().inplace)


@scenario
def classes_among_each_other(s):
    for cls in (s.Function, s.InplaceFunction, s.NestedIOFunction):
        s.record(
            cls.__name__,
            issubclass(cls, torch.autograd.Function),
            issubclass(cls, s.FunctionCtx),
            issubclass(cls, torch._C._FunctionBase),
            type(cls),
            cls._backward_cls.__name__,
        )
    s.record("ctx", s.FunctionCtx is torch.autograd.function.FunctionCtx, _ContextMethodMixin is s.FunctionCtx)
    s.record("once_differentiable", s.once_differentiable is torch.autograd.function.once_differentiable)


@scenario
def nested_io_function(s):
    class Nested(s.NestedIOFunction):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    s.differentiate("static rules", Nested.apply, s.randn(2, requires_grad=True))


@scenario
def nested_io_function_extended(s):
    class Nested(s.NestedIOFunction):
        def forward_extended(self, pair):
            s.record("inputs", pair)
            return {"unused": None}, pair[0] * 2

        def backward_extended(self, *grads):
            return grads

    s.outcome("apply", Nested.apply, s.randn(2, requires_grad=True))


@scenario
def nested_io_function_by_hand(s):
    class Nested(s.NestedIOFunction):
        def forward_extended(self, pair):
            return [pair[0] * 2, (pair[1], pair[0])]

        def backward_extended(self, first, rest):
            return first, rest

    instance = Nested()
    x, y = s.randn(2), s.randn(2)
    instance._nested_input = ((x, y),)
    s.outcome("forward", instance.forward)
    s.outcome("backward", instance.backward, x, y, x)
    instance.save_for_backward(x, [y, (x,)])
    s.record("to_save", instance.to_save)
    s.outcome("saved_tensors", lambda: instance.saved_tensors)
    instance.mark_dirty(x, [y])
    instance.mark_non_differentiable([x], y)
    s.record("marked", instance.dirty_tensors, instance.non_differentiable)
    s.raises("called", instance, x)
    instance.dirty_tensors = instance.non_differentiable = instance.to_save = None


@scenario
def nested_io_function_not_extended(s):
    class Nested(s.NestedIOFunction):
        pass

    instance = Nested()
    s.raises("forward", instance.forward_extended)
    s.raises("backward", instance.backward_extended)
    s.raises("apply", Nested.apply, s.randn(2))


@scenario
def function_ctx_by_itself(s):
    ctx = s.FunctionCtx()
    x = s.randn(2)
    ctx.save_for_backward(x)
    ctx.save_for_forward(x)
    ctx.mark_dirty(x)
    ctx.mark_non_differentiable(x)
    ctx.set_materialize_grads(False)
    s.record("attributes", vars(ctx))


@scenario
def function_ctx_as_a_base(s):
    class Ctx(s.FunctionCtx):
        pass

    class Function(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

    ctx = Ctx()
    s.record("forward", Function.forward(ctx, s.randn(2)))
    s.record("to_save", ctx.to_save)


@scenario
def backward_c_function(s):
    s.record("class", BackwardCFunction.__name__, issubclass(s.Function._backward_cls, BackwardCFunction))
    instance = BackwardCFunction()
    s.raises("apply", instance.apply, 1)
    s.raises("name", lambda: instance._forward_cls)


@scenario
def module_level_class_is_pickled(s):
    s.record("same", pickle.loads(pickle.dumps(Double)) is Double)
    Double.apply(s.randn(2, requires_grad=True))
    s.record("same after use", pickle.loads(pickle.dumps(Double)) is Double)


@scenario
def output_is_pickled(s):
    class Twice(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    y = Twice.apply(s.randn(2, requires_grad=True))
    s.outcome("pickle", lambda: pickle.loads(pickle.dumps(y)))
    s.record("pickled when detached", pickle.loads(pickle.dumps(y.detach())))


@scenario
def legacy_names(s):
    s.record("traceable", hasattr(torch.autograd.function, "traceable"))
    s.record("private", [hasattr(s.Function, name) for name in ("_backward_cls", "is_traceable", "_is_legacy")])
