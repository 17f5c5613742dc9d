# SPDX-License-Identifier: BSD-3-Clause
"""Every attribute of ctx and grad_fn set to values of every kind, and deleted: in forward, before and in backward."""

from . import ODD_VALUES, case, leaf, make_function, run

ATTRIBUTES = (
    "to_save",
    "non_differentiable",
    "dirty_tensors",
    "saved_for_forward",
    "needs_input_grad",
    "requires_grad",
    "materialize_grads",
    "_is_pure_view",
    "_materialize_non_diff_grads",
    "saved_tensors",
    "saved_variables",
    "_raw_saved_tensors",
    "next_functions",
    "metadata",
    "_input_metadata",
    "_compiled_autograd_backward_state",
    "_forward_cls",
    "__class__",
    "__dict__",
    "apply",
)

MOMENTS = {
    "in forward": lambda api, do: run(make_function(api, in_forward=lambda ctx, x: do(ctx)), leaf()),
    "in backward": lambda api, do: run(make_function(api, in_backward=lambda ctx, grad: do(ctx)), leaf()),
    "on grad_fn": lambda api, do: on_grad_fn(api, do),
}


def on_grad_fn(api, do):
    x = leaf()
    y = make_function(api).apply(x)
    do(y.grad_fn)
    y.sum().backward()
    return y, x.grad


def set_case(attribute, value_name, make_value, moment):
    @case(f"{moment}: {attribute} = {value_name}")
    def _(api):
        return MOMENTS[moment](api, lambda ctx: setattr(ctx, attribute, make_value()))


def delete_case(attribute, moment):
    @case(f"{moment}: del {attribute}")
    def _(api):
        return MOMENTS[moment](api, lambda ctx: delattr(ctx, attribute))


def read_case(attribute, moment):
    @case(f"{moment}: {attribute}")
    def _(api):
        seen = []
        return MOMENTS[moment](api, lambda ctx: seen.append(getattr(ctx, attribute))), seen


for attribute in ATTRIBUTES:
    for value_name, make_value in ODD_VALUES.items():
        set_case(attribute, value_name, make_value, "in forward")
    for value_name in "a number", "a tuple of tensors", "an object that raises":
        set_case(attribute, value_name, ODD_VALUES[value_name], "in backward")
        set_case(attribute, value_name, ODD_VALUES[value_name], "on grad_fn")
    for moment in MOMENTS:
        delete_case(attribute, moment)
        read_case(attribute, moment)
