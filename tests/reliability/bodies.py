# SPDX-License-Identifier: BSD-3-Clause
"""Small pieces of work, one for each facility: functions without arguments whose results can be compared."""

import gc
import warnings

import torch
from harness import torch_is_since
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks

import torch_ext
from torch_ext import graph, hooks, profile

BODIES = {}


def body(function):
    BODIES[function.__name__] = function
    return function


def leaf():
    return torch.tensor([1.0, 2.0], requires_grad=True)


def gradient(y, *leaves):
    return [grad.tolist() for grad in torch.autograd.grad(y.sum(), leaves)]


class Saving(torch_ext.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, None, y)
        return x * y

    @staticmethod
    def backward(ctx, grad):
        x, _, y = ctx.saved_tensors
        return grad * y, grad * x


class Apart(torch_ext.Function):
    @staticmethod
    def forward(x, factor=3, power=1):
        return x * factor**power

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor = inputs[1]
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx, grad):
        ctx.saved_tensors
        return grad * ctx.factor, None, None


class Plain(torch_ext.Function):
    @staticmethod
    def forward(x, factor=3):
        return x * factor

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


class Many(torch_ext.Function):
    @staticmethod
    def forward(ctx, *tensors):
        ctx.mark_non_differentiable(flag := tensors[0] > 0)
        ctx.set_materialize_grads(False)
        return tensors[0] * 2, flag, "text", tensors[1]

    @staticmethod
    def backward(ctx, *grads):
        return (grads[0] * 2, *[None] * (len(ctx.needs_input_grad) - 1), None)


class Dirty(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, grad):
        return grad * 2

    @staticmethod
    def jvp(ctx, tangent):
        return tangent.mul_(2)


class Tangent(torch_ext.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_forward(x)
        return x * y, 5

    @staticmethod
    def jvp(ctx, x, y):
        ctx.saved_tensors
        return x * 3, None


class Boxed(torch_ext.Function):
    boxed_grads_call = True
    clear_saved_tensors_on_access = True

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, grads):
        ctx.saved_tensors
        return grads.pop() * 2


class Two(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2, x * 3

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * 2 + grads[1] * 3


class Wrong(Saving):
    @staticmethod
    def backward(ctx, grad):
        return grad


@body
def saved_tensors():
    x, y = leaf(), leaf()
    return gradient(Saving.apply(x, y), x, y)


@body
def double_backward():
    x, y = leaf(), leaf()
    (grad,) = torch.autograd.grad(Saving.apply(x, y).sum(), x, create_graph=True)
    return gradient(grad, y)


@body
def keywords():
    x, y = leaf(), leaf()
    return gradient(Saving.apply(x, y=y), x, y)


@body
def setup_context():
    return gradient(Plain.apply(x := leaf()), x)


@body
def setup_context_by_signature():
    return Apart.apply(leaf(), factor=2).tolist()


@body
def many_inputs_and_outputs():
    x = leaf()
    outputs = Many.apply(x, *[torch.ones(2)] * 70)
    return gradient(outputs[0], x), outputs[1].tolist(), outputs[2]


@body
def in_place():
    x = leaf()
    return gradient(Dirty.apply(x * 1), x)


@body
def forward_mode():
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.ones(2), torch.ones(2))
        output, number = Tangent.apply(dual, torch.ones(2))
        return forward_ad.unpack_dual(output).tangent.tolist(), number


@body
def boxed_gradients():
    return gradient(Boxed.apply(x := leaf()), x)


@body
def no_gradient_wanted():
    with torch.no_grad():
        return Saving.apply(leaf(), leaf()).tolist()


@body
def first_use_of_a_class():
    class Fresh(Saving):
        pass

    x, y = leaf(), leaf()
    return gradient(Fresh.apply(x, y), x, y)


@body
def wrong_number_of_gradients():
    x, y = leaf(), leaf()
    try:
        gradient(Wrong.apply(x, y), x)
    except RuntimeError as error:
        if "incorrect number" not in str(error):
            raise
        return str(error)


@body
def attributes():
    output = Saving.apply(leaf(), leaf())
    ctx = output.grad_fn
    ctx.register_hook(print).remove()
    ctx.register_prehook(print).remove()
    return (
        ctx.name(),
        [len(pair) for pair in ctx.next_functions],
        ctx.needs_input_grad,
        len(ctx.saved_tensors),
        len(ctx._input_metadata),
        ctx.metadata,
        ctx.to_save,
        ctx.maybe_clear_saved_tensors(),
        ctx._get_compiled_autograd_symints(),
    )


@body
def raw_saved_tensors():
    output = Saving.apply(leaf(), leaf())
    return len(output.grad_fn._raw_saved_tensors)


@body
def pack_and_unpack_hooks():
    x, y = leaf(), leaf()
    with saved_tensors_hooks(lambda t: [t], lambda packed: packed[0] * 1):
        output = Saving.apply(x, y)
    return gradient(output, x, y)


@body
def every_hook():
    x, y = leaf(), leaf()
    output = Saving.apply(x, y)
    seen = []
    hooks.register_tensor_hook(output, lambda grad: grad * 2)
    hooks.register_node_prehook(output.grad_fn, lambda grads: (grads[0] * 3,))
    hooks.register_node_posthook(output.grad_fn, lambda ins, outs: (ins[0] * 5, None))
    hooks.register_post_accumulate_grad_hook(x, lambda x: seen.append(x.grad.tolist()))
    x.register_hook(lambda grad: None)
    output.sum().backward()
    return x.grad.tolist(), y.grad, seen


@body
def hook_that_is_refused():
    x, y = leaf(), leaf()
    output = Saving.apply(x, y)
    hooks.register_tensor_hook(output, lambda grad: 3)
    try:
        gradient(output, x)
    except TypeError as error:
        return str(error)


@body
def anomaly_mode():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch_ext.detect_anomaly():
            x, y = leaf(), leaf()
            output = Saving.apply(x, y)
            stack = output.grad_fn.metadata["traceback_"]
            return len(stack.frames()) == len(stack), gradient(output, x, y)


@body
def failure_in_anomaly_mode():
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with torch_ext.detect_anomaly():
            x, y = leaf(), leaf()
            try:
                gradient(Wrong.apply(x, y), x)
            except RuntimeError as error:
                if "incorrect number" not in str(error):
                    raise
                return str(error), len(warned)


@body
def change_that_is_named():
    with graph.noting(follow=True):
        x, y = leaf(), leaf()
        middle = x * 2
        output = Saving.apply(middle, y)
        middle.detach().add_(1)
        Dirty.apply(middle.detach().clone())
        try:
            gradient(output, x)
        except RuntimeError:
            modified = torch_ext.anomaly.last_report().modified
            # Without memory for its stack a change stays unknown.
            return len(modified.changes), graph.explain(output.detach(), [x]).in_graph


@body
def graph_that_was_freed():
    with graph.noting():
        x, y = leaf(), leaf()
        output = Saving.apply(x, y)
        gradient(output, x)
        try:
            gradient(output, x)
        except RuntimeError as error:
            return "a second time" in str(error), torch_ext.anomaly.last_report().freed is not None


@body
def cycle_that_is_collected():
    y = Saving.apply(x := leaf(), leaf())
    y.grad_fn.cycle = y
    del y
    gc.collect()
    return x.tolist()


if torch_is_since("2.13"):  # before, the node owns its ctx, and these aren't collected

    @body
    def cycles_that_are_collected():
        def kept_packed(x):
            kept = []
            with saved_tensors_hooks(lambda t: (kept, t), lambda packed: packed[1]):
                kept.extend(Two.apply(x))

        def kept_outputs(x):
            first, second = Two.apply(x)
            first.grad_fn.cycle = first, second.view(2, 1)

        kept_packed(x := leaf())
        kept_outputs(x)
        gc.collect()
        return x.tolist()


@body
def installation():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    with torch_ext.installed():
        result = gradient(Double.apply(x := leaf()), x)
    torch_ext.accelerate(Double)
    return result, gradient(Double.apply(x), x)


@body
def timed_calls():
    with profile.record(stock=False) as recorded:
        gradient(Saving.apply(x := leaf(), leaf()), x)
        Saving.apply(x, leaf())
    (row,) = recorded.report.functions
    return row.forward.calls, row.backward.calls, row.saved


@body
def profiled_call():
    with torch.profiler.profile(record_shapes=True) as profiled:
        Many.apply(leaf(), leaf(), 1, [2.0], {"key": (None, True)})
    return "Many" in {event.name for event in profiled.events()}


@body
def view_of_an_input():
    class Identity(Saving):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, None, y)
            return x, y.view(2, 1)

        @staticmethod
        def backward(ctx, *grads):
            return grads[0], grads[1].view(2)

    x, y = leaf(), leaf()
    first, second = Identity.apply(x, y)
    return gradient(first.sum() + second.sum(), x, y)
