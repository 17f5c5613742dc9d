# SPDX-License-Identifier: BSD-3-Clause
"""Small Functions with one mistake each, and right ones that look like them.

Each makes a class over a base, and inputs. A comment names what is found in its line, after a letter for each that
finds it: "r" check() that reads the class, "t" check() that also tries it with the inputs, "w" watch().
"""

import dataclasses
import functools
import types

import numpy as np
import torch
from torch.autograd.function import once_differentiable


def leaf(*shape):
    return torch.linspace(0.5, 1.5, 3).expand(*shape, 3).clone().requires_grad_()


WRONG = []
RIGHT = []


def wrong(make):
    WRONG.append(make)
    return make


def right(make):
    RIGHT.append(make)
    return make


class Rules:
    """What most of them share."""

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class TwoRules:
    @staticmethod
    def backward(ctx, grad):
        return grad * 2, None


# --- Kept on ctx ----------------------------------------------------------------------------------


@wrong
def input_on_ctx(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            ctx.x = x  # rtw: kept-input
            return x * x

        @staticmethod
        def backward(ctx, grad):
            return grad * 2 * ctx.x

    return Fn, leaf()


@wrong
def input_on_ctx_in_setup_context(base):
    class Fn(base):
        @staticmethod
        def forward(x, factor=2):
            return x * x * factor

        @staticmethod
        def setup_context(ctx, inputs, output):
            x, factor = inputs
            ctx.factor = factor
            ctx.x = x  # rtw: kept-input

        @staticmethod
        def backward(ctx, grad):
            return grad * 2 * ctx.x * ctx.factor, None

    return Fn, leaf()


@wrong
def input_on_ctx_by_index(base):
    class Fn(base):
        @staticmethod
        def forward(x):
            return x * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.x = inputs[0]  # rtw: kept-input

        @staticmethod
        def backward(ctx, grad):
            return grad * 2 * ctx.x

    return Fn, leaf()


@wrong
def input_on_ctx_in_a_list(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            ctx.all = [x, 3]  # rtw: kept-input
            return x * x

        @staticmethod
        def backward(ctx, grad):
            return grad * 2 * ctx.all[0]

    return Fn, leaf()


@wrong
def input_on_ctx_in_a_dict(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            ctx.all = {"x": x}  # rtw: kept-input
            return x * x

        @staticmethod
        def backward(ctx, grad):
            return grad * 2 * ctx.all["x"]

    return Fn, leaf()


@wrong
def input_on_ctx_in_a_lambda(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            ctx.rule = lambda grad: grad * 2 * x  # rtw: kept-input
            return x * x

        @staticmethod
        def backward(ctx, grad):
            return ctx.rule(grad)

    return Fn, leaf()


@wrong
def input_on_ctx_in_a_closure(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            def rule():
                return 2 * x

            ctx.rule = rule  # rtw: kept-input
            return x * x

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.rule()

    return Fn, leaf()


@wrong
def input_on_ctx_by_setattr(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            setattr(ctx, "x", x)  # rtw: kept-input
            return x * x

        @staticmethod
        def backward(ctx, grad):
            return grad * 2 * ctx.x

    return Fn, leaf()


@wrong
def inputs_on_ctx_as_a_tuple(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, y):
            ctx.x, ctx.y = x, y  # rtw: kept-input
            return x * y

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.y, grad * ctx.x  # t: unneeded-gradient

    return Fn, leaf(), leaf()


@wrong
def output_on_ctx(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.y = y  # rtw: kept-output
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.y

    return Fn, leaf()


@wrong
def output_on_ctx_in_setup_context(base):
    class Fn(base):
        @staticmethod
        def forward(x):
            return x.exp()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.y = output  # rtw: kept-output

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.y

    return Fn, leaf()


@wrong
def output_on_ctx_in_a_list(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.all = [y]  # rtw: kept-output
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.all[0]

    return Fn, leaf()


@wrong
def dirty_input_on_ctx(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            x.exp_()
            ctx.mark_dirty(x)
            ctx.y = x  # rtw: kept-output
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.y

    return Fn, leaf() * 1


@wrong
def intermediate_on_ctx(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            half = x * x
            ctx.half = half  # tw: saved-intermediate
            ctx.save_for_backward(x)
            return half * x

        @staticmethod
        def backward(ctx, grad):
            return grad * 3 * ctx.half

    return Fn, leaf()


# --- Arguments that aren't tracked ----------------------------------------------------------------


def takes_something(base):
    class Fn(Rules, base):
        @staticmethod
        def forward(ctx, x, others):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2, None

    return Fn


@dataclasses.dataclass
class Pair:
    one: object
    two: object = 2


def module():
    return torch.nn.Linear(3, 3)


def closure():
    weight = leaf()
    return lambda x: x * weight


UNTRACKED = {
    "list": lambda: [leaf()],
    "tuple": lambda: (1, leaf()),
    "dict": lambda: {"a": leaf()},
    "nested": lambda: [{"a": (leaf(),)}],
    "dataclass": lambda: Pair(leaf()),
    "namespace": lambda: types.SimpleNamespace(a=leaf()),
    "module": module,
    "sequential": lambda: torch.nn.Sequential(module()),
    "bound method": lambda: module().forward,
    "closure": closure,
    "partial": lambda: functools.partial(torch.mul, leaf()),
}
TRACKED = {
    "list without gradients": lambda: [torch.ones(2)],
    "numbers": lambda: [1, 2.0, "a", None],
    "dataclass without gradients": lambda: Pair(torch.ones(2)),
    "frozen module": lambda: module().requires_grad_(False),
    "function": lambda: torch.mul,
}


# --- What forward does ----------------------------------------------------------------------------


@wrong
def returned_twice(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            y = x * 2
            return y, y  # rtw: returned-twice

        @staticmethod
        def backward(ctx, one, two):
            return 2 * (one + two)

    return Fn, leaf()


@wrong
def returned_twice_under_two_names(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            y = z = x * 2
            return y, z  # tw: returned-twice

        @staticmethod
        def backward(ctx, one, two):
            return 2 * (one + two)

    return Fn, leaf()


@wrong
def changed_input(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2)  # rtw: changed-input
            return x + 0

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Fn, leaf() * 1


@wrong
def changed_input_by_augmented_assignment(base):
    class Fn(Rules, base):
        @staticmethod
        def forward(ctx, x):
            x *= 2  # rtw: changed-input
            return x + 0

    return Fn, leaf() * 1


@wrong
def changed_input_by_assignment_to_an_item(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            x[..., 0] = 0  # rtw: changed-input
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            return grad * torch.tensor([0.0, 1, 1])

    return Fn, leaf() * 1


@wrong
def changed_input_by_out(base):
    class Fn(base):
        @staticmethod
        def forward(x):
            torch.mul(x, 2, out=x)  # rtw: changed-input
            return x + 0

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Fn, leaf() * 1


@wrong
def changed_input_in_a_function_that_it_calls(base):
    def change(it):
        it.mul_(2)

    class Fn(Rules, base):
        @staticmethod
        def forward(ctx, x):  # tw: changed-input
            change(x)
            return x + 0

    return Fn, leaf() * 1


@wrong
def detached_output(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x.detach()  # rtw: aliases-input

        @staticmethod
        def backward(ctx, grad):
            return grad * 1

    return Fn, leaf()


@wrong
def data_as_an_output(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            y = x.data
            return y  # rtw: aliases-input

        @staticmethod
        def backward(ctx, grad):
            return grad * 1

    return Fn, leaf()


@wrong
def output_by_numpy(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return torch.from_numpy(x.detach().numpy())  # tw: aliases-input

        @staticmethod
        def backward(ctx, grad):
            return grad * 1

    return Fn, leaf()


# --- Saving ---------------------------------------------------------------------------------------


@wrong
def saved_intermediate(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            square = x * x
            ctx.save_for_backward(x, square)  # tw: saved-intermediate
            return square * x

        @staticmethod
        def backward(ctx, grad):
            x, square = ctx.saved_tensors
            return grad * 3 * square

    return Fn, leaf()


@wrong
def saved_intermediate_in_setup_context(base):
    class Fn(base):
        @staticmethod
        def forward(x):
            return x * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(2 * inputs[0])  # tw: saved-intermediate

        @staticmethod
        def backward(ctx, grad):
            (double,) = ctx.saved_tensors
            return grad * double

    return Fn, leaf()


@wrong
def saved_twice(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x)
            ctx.save_for_backward(y)  # rtw: saved-twice
            return x + y

        @staticmethod
        def backward(ctx, grad):
            return grad * 1, grad * 1  # t: unneeded-gradient

    return Fn, leaf(), leaf()


@wrong
def saved_twice_on_one_of_two_paths(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            if x.sum() > 0:
                ctx.save_for_backward(x)
            ctx.save_for_backward(x)  # rtw: saved-twice
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Fn, leaf()


@wrong
def saved_in_backward(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            ctx.save_for_backward(grad)  # rtw: saved-outside
            return grad * 2

    return Fn, leaf()


@wrong
def not_differentiable_but_not_returned(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            index = x.argmax()
            ctx.mark_non_differentiable(index)  # rtw: not-returned
            y = x * 2
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Fn, leaf()


@wrong
def dirty_but_not_returned(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2)
            ctx.mark_dirty(x)  # rtw: not-returned
            y = x + 0
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Fn, leaf() * 1


# --- How it is declared ---------------------------------------------------------------------------


@wrong
def no_staticmethod(base):
    class Fn(Rules, base):
        def forward(ctx, x):  # rtw: not-static
            return x * 2

    return Fn, leaf()


@wrong
def both_styles(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):  # rtw: two-styles
            return ctx * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            one, two = ctx.saved_tensors
            return grad * two, grad * one  # t: unneeded-gradient

    return Fn, leaf(), leaf()


# --- Backward -------------------------------------------------------------------------------------


@wrong
def numpy_in_backward(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return torch.from_numpy(2 * x.detach().numpy() * grad.detach().numpy())  # rtw: not-differentiable

    return Fn, leaf()


@wrong
def numpys_functions_in_backward(base):
    class Fn(Rules, base):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return torch.as_tensor(np.multiply(grad.detach().numpy(), 2))  # rtw: not-differentiable

    return Fn, leaf()


@wrong
def data_in_backward(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad.data * 2  # rtw: not-differentiable

    return Fn, leaf()


@wrong
def detach_in_backward(base):
    class Fn(base):
        @staticmethod
        def forward(x):
            return x * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 2 * x.detach()  # rtw: not-differentiable

    return Fn, leaf()


@wrong
def no_grad_in_backward(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            with torch.no_grad():  # rtw: not-differentiable
                return grad * 2

    return Fn, leaf()


@wrong
def no_grad_around_backward(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @torch.no_grad()  # rtw: not-differentiable
        def backward(ctx, grad):
            return grad * 2

    return Fn, leaf()


@wrong
def item_in_backward(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sum() ** 2

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 2 * x.sum().item() * torch.ones_like(x)  # rtw: not-differentiable

    return Fn, leaf()


class Kernel:
    """Launches as Triton's kernels do."""

    def __getitem__(self, grid):
        return lambda source, target: target.data.copy_(source.data * 2)


@wrong
def kernel_in_backward(base):
    kernel = Kernel()

    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            result = torch.empty(grad.shape, dtype=grad.dtype)
            kernel[1](grad, result)  # rtw: not-differentiable
            return result

    return Fn, leaf()


@wrong
def unseen_kernel_in_backward(base):
    def kernel(source):
        return source.detach() * 2

    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return kernel(grad)  # tw: not-differentiable

    return Fn, leaf()


@wrong
def gradient_changed_in_place(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            grad *= 2  # rtw: changed-gradient
            return grad

    return Fn, leaf()


@wrong
def gradient_changed_by_an_operator(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @once_differentiable
        def backward(ctx, grad):
            return grad.mul_(2)  # rtw: changed-gradient

    return Fn, leaf()


@wrong
def zeros_never_used(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, one, two):  # rtw: unused-zeros  # t: wrong-gradient
            return one * 2

    return Fn, leaf()


@wrong
def gradient_that_nobody_needs(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            return grad * y, grad * x  # tw: unneeded-gradient

    return Fn, leaf(), leaf().detach()


@wrong
def too_few_gradients(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, grad):
            return grad * 1  # rtw: gradient-count

    return Fn, leaf(), leaf()


@wrong
def no_gradient_for_a_number(base):
    class Fn(base):
        @staticmethod
        def forward(x, factor=2):
            return x * factor

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, grad):
            return grad  # rtw: gradient-count

    return Fn, leaf()


@wrong
def too_many_gradients(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            return grad, grad  # rtw: gradient-count

    return Fn, leaf()


@wrong
def too_few_gradients_for_several(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, *xs):
            return sum(xs)

        @staticmethod
        def backward(ctx, grad):
            return grad, grad  # tw: gradient-count

    return Fn, leaf(), leaf(), leaf()


@wrong
def gradient_of_another_shape(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, grad):
            return grad.new_ones(2) * grad  # tw: gradient-form

    return Fn, leaf()


@wrong
def gradient_of_another_dtype(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad.double() * 2  # tw: gradient-form

    return Fn, leaf()


@wrong
def gradient_for_what_is_no_tensor(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, factor):
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            return grad * 2, grad  # tw: gradient-form

    return Fn, leaf(), 2


@wrong
def wrong_formula(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):  # t: wrong-gradient
            (x,) = ctx.saved_tensors
            return grad * x

    return Fn, leaf()


@wrong
def wrong_formula_of_the_second(base):
    class Fn(base):
        @staticmethod
        def forward(x, y):
            return x * y

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, grad):  # t: wrong-gradient
            x, y = ctx.saved_tensors
            first = grad * y if ctx.needs_input_grad[0] else None
            second = grad * y * y if ctx.needs_input_grad[1] else None
            return first, second

    return Fn, leaf(), leaf() * 2


@wrong
def wrong_double_gradient(base):
    class Half(base):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(y)
            return x * y * 2

        @staticmethod
        def backward(ctx, grad):
            (y,) = ctx.saved_tensors
            return grad * y * 2, None

    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):  # t: wrong-double-gradient
            (x,) = ctx.saved_tensors
            return Half.apply(grad, x)

    return Fn, leaf()


# --- Right ones, near to these --------------------------------------------------------------------


@right
def inputs_and_outputs_saved(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, factor):
            y = x.exp() * factor
            ctx.save_for_backward(x, y)
            ctx.factor = factor
            ctx.shape = x.shape
            return y

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            return grad * x.exp() * ctx.factor, None

    return Fn, leaf(), 2


@right
def index_on_ctx(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, index):
            ctx.index = index
            ctx.save_for_backward(x)
            return x[index]

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return torch.zeros_like(x).index_add(0, ctx.index, grad), None

    return Fn, leaf(), torch.tensor([0, 2])


@right
def not_differentiable_output_on_ctx(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            values, index = x.sort()
            ctx.mark_non_differentiable(index)
            ctx.index = index
            return values, index

        @staticmethod
        def backward(ctx, grad, _):
            return torch.zeros_like(grad).scatter(0, ctx.index, grad)

    return Fn, leaf()


@right
def view_of_an_input(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            return grad

    return Fn, leaf()


@right
def the_input_itself(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad

    return Fn, leaf()


@right
def dirty_and_returned(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            x.mul_(2)
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Fn, leaf() * 1


@right
def dirty_in_setup_context(base):
    class Fn(base):
        @staticmethod
        def forward(x):
            x.mul_(2)
            return x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.mark_dirty(inputs[0])

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Fn, leaf() * 1


@right
def copy_changed_in_place(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            x = x.clone()
            x *= 2
            return x.detach()

        @staticmethod
        def backward(ctx, grad):
            grad = grad.clone()
            grad *= 2
            return grad

    return Fn, leaf()


@right
def running_statistics_changed(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, running):
            running.mul_(0.9).add_(x.mean(), alpha=0.1)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2, None

    return Fn, leaf(), torch.zeros(())


@right
def saved_on_either_path(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            if x.dim() > 1:
                ctx.save_for_backward(x, x)
                return x * x
            if x.dim() == 1:
                ctx.save_for_backward(x)
            else:
                ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            x = ctx.saved_tensors[0]
            return grad * 2 * x

    return Fn, leaf()


@right
def mask_saved(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            mask = (x > 1).to(x.dtype)
            ctx.save_for_backward(mask)
            return x * mask

        @staticmethod
        def backward(ctx, grad):
            (mask,) = ctx.saved_tensors
            return grad * mask

    return Fn, leaf() * 1.1


@right
def dropout(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, p):
            mask = (torch.rand_like(x) > p).to(x.dtype) / (1 - p)
            ctx.mask = mask
            return x * mask

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.mask, None

    return Fn, leaf(), 0.5


@right
def intermediate_with_once_differentiable(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            square = x * x
            ctx.save_for_backward(square)
            return square * x

        @staticmethod
        @once_differentiable
        def backward(ctx, grad):
            (square,) = ctx.saved_tensors
            return torch.from_numpy(3 * square.numpy() * grad.numpy())

    return Fn, leaf()


@right
def intermediate_as_an_output(base):
    class Fn(base):
        @staticmethod
        def forward(x):
            square = x * x
            return square * x, square

        @staticmethod
        def setup_context(ctx, inputs, output):
            _, square = output
            ctx.save_for_backward(inputs[0], square)

        @staticmethod
        def backward(ctx, grad, grad_square):
            x, square = ctx.saved_tensors
            return grad * 3 * square + 2 * x * grad_square

    return Fn, leaf()


@right
def several_outputs_without_zeros(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, one, two):
            if one is None:
                return None if two is None else two * 3
            return one * 2 if two is None else one * 2 + two * 3

    return Fn, leaf()


@right
def only_needed_gradients(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            grad_x = grad_y = None
            if ctx.needs_input_grad[0]:
                grad_x = grad * y
            if ctx.needs_input_grad[1]:
                grad_y = grad * x
            return grad_x, grad_y

    return Fn, leaf(), leaf().detach()


@right
def gradients_passed_on(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    return Fn, leaf(), leaf().detach()


@right
def any_number_of_inputs(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, scale, *xs):
            ctx.scale, ctx.count = scale, len(xs)
            return sum(xs) * scale

        @staticmethod
        def backward(ctx, grad):
            return (None, *([grad * ctx.scale] * ctx.count))

    return Fn, 2.0, leaf(), leaf()


@right
def more_nones_than_arguments(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, factor=2):
            ctx.factor = factor
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor, None

    return Fn, leaf()


@right
def broadcast_gradient(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    return Fn, leaf(2), leaf()


@right
def half_inside(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return (x * 2).double()

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Fn, leaf()


@right
def constant_gradient(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            return x.sign()

        @staticmethod
        def backward(ctx, grad):
            return torch.zeros_like(grad)

    return Fn, leaf()


@right
def vjp_instead_of_backward(base):
    class Fn(base):
        @staticmethod
        def forward(x):
            return x * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def vjp(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 2 * x

    return Fn, leaf()


@right
def methods_of_a_base_class(base):
    class First(base):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 2 * x

    class Fn(First):
        @staticmethod
        def forward(ctx, x):
            return First.forward(ctx, x) * 1

        @staticmethod
        def backward(ctx, grad):
            return First.backward(ctx, grad) * 1

    return Fn, leaf()


@right
def rule_of_its_own_graph(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, function, x):
            ctx.function = function
            ctx.save_for_backward(x)
            return function(x)

        @staticmethod
        @once_differentiable
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                y = ctx.function(x)
            torch.autograd.backward(y, grad)
            return None, x.grad

    return Fn, module().double(), leaf().double().detach().requires_grad_()


@right
def allowed_by_a_comment(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x):
            ctx.x = x  # torch_ext: allow=kept-input
            return x * x

        @staticmethod
        def backward(ctx, grad):
            return grad * 2 * ctx.x

    return Fn, leaf()


class Doubles:
    def __call__(self, x):
        return x * 2


@right
def forward_that_is_an_object(base):
    class Fn(base):
        forward = Doubles()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Fn, leaf()


@right
def output_that_is_no_tensor(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, scale):
            ctx.scale = scale
            return x * scale, {"scale": scale}

        @staticmethod
        def backward(ctx, grad, _):
            return grad * ctx.scale, None

    return Fn, leaf(), 2


@right
def arguments_of_all_kinds(base):
    class Fn(base):
        @staticmethod
        def forward(ctx, x, /, scale=3, *others):
            ctx.scale, ctx.count = scale, len(others)
            return x * scale

        @staticmethod
        def backward(ctx, grad):
            return (grad * ctx.scale, None, *([None] * ctx.count))

    return Fn, leaf(), 2, "another"
