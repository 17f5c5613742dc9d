# SPDX-License-Identifier: BSD-3-Clause
"""Every method of ctx and grad_fn called with values of every kind, and with too few and too many."""

from . import ODD_VALUES, case, leaf, make_function
from .ctx_attributes import MOMENTS

# How many arguments each takes; the methods of FunctionCtx take any number.
METHODS = {
    "name": 0,
    "_sequence_nr": 0,
    "_set_sequence_nr": 1,
    "maybe_clear_saved_tensors": 0,
    "register_hook": 1,
    "register_prehook": 1,
    "_register_hook_dict": 1,
    "_get_compiled_autograd_symints": 0,
    "save_for_backward": 1,
    "save_for_forward": 1,
    "mark_dirty": 1,
    "mark_non_differentiable": 1,
    "set_materialize_grads": 1,
    "mark_shared_storage": 1,
    "apply": 1,
    "apply_jvp": 1,
    "apply_boxed": 1,
    "_get_user_fn": 0,
    "__getattribute__": 1,
    "__init__": 1,
    "__reduce_ex__": 1,
    "__sizeof__": 0,
}


def call_case(name, label, make_arguments, moment):
    @case(f"{moment}: {name}({label})")
    def _(api):
        seen = []

        def call(ctx):
            result = getattr(ctx, name)(*make_arguments())
            seen.append(None if name in ("_sequence_nr", "__sizeof__") else result)

        return MOMENTS[moment](api, call), seen


for name, count in METHODS.items():
    for moment in MOMENTS:
        call_case(name, "", lambda: (), moment)
        call_case(name, "two numbers too many", lambda count=count: (None,) * count + (1, 2), moment)
        if count and moment != "in backward":
            for label, make_value in ODD_VALUES.items():
                call_case(name, label, lambda make_value=make_value: (make_value(),), moment)


def unbound_case(name, label, make_self):
    @case(f"unbound {name}({label})")
    def _(api):
        method = getattr(type(make_function(api).apply(leaf()).grad_fn), name)
        return method(make_self())


OTHER_SELVES = {
    "a number": lambda: 3,
    "a node of torch's own": lambda: (leaf() * 2).grad_fn,
    "a tensor": leaf,
}

for name in METHODS:
    for label, make_self in OTHER_SELVES.items():
        if not name.startswith("__"):
            unbound_case(name, label, make_self)
