# SPDX-License-Identifier: BSD-3-Clause
"""Hooks that can't be called, that return what they should not, that raise and that change other hooks."""

import gc
import sys
import types

import torch

from . import ODD_VALUES, case, leaf, make_function

# How torch's methods register each kind. torch_ext.hooks has cases of its own.
WAYS = {
    "tensor hook": lambda x, y, hook: y.register_hook(hook),
    "hook of a leaf": lambda x, y, hook: x.register_hook(hook),
    "prehook": lambda x, y, hook: y.grad_fn.register_prehook(hook),
    "posthook": lambda x, y, hook: y.grad_fn.register_hook(hook),
    "post accumulate hook": lambda x, y, hook: x.register_post_accumulate_grad_hook(hook),
}


def with_hook(api, way, hook):
    x = leaf()
    y = make_function(api).apply(x)
    handle = WAYS[way](x, y, hook)
    y.sum().backward()
    return handle, x.grad


def value_cases(way, label, make_value):
    @case(f"{way} is {label}")
    def _(api):
        return with_hook(api, way, make_value())

    @case(f"{way} returns {label}")
    def _(api):
        return with_hook(api, way, lambda *args: make_value())


for way in WAYS:  # noqa: PLC0206 (with_hook() takes the name)
    for label, make_value in ODD_VALUES.items():
        value_cases(way, label, make_value)

    for label, make_hook in {
        "of no arguments": lambda: lambda: None,
        "of many arguments": lambda: lambda a, b, c: None,
        "that raises": lambda: lambda *args: 1 / 0,
        "that exits": lambda: lambda *args: sys.exit(3),
        "that is interrupted": lambda: lambda *args: (_ for _ in ()).throw(KeyboardInterrupt),
        "that collects garbage": lambda: lambda *args: gc.collect() and None,
        "that changes its argument": lambda: lambda *args: args[0][0].mul_(3) and None,
    }.items():

        @case(f"{way} {label}")
        def _(api, way=way, make_hook=make_hook):
            return with_hook(api, way, make_hook())

    @case(f"{way} that removes itself")
    def _(api, way=way):
        handles = []
        result = with_hook(api, way, lambda *args: handles[0].remove() if handles else None)
        handles.append(result[0])
        return result[1]

    @case(f"{way}: the dict of hooks is cleared by a hook")
    def _(api, way=way):
        handles = []

        def hook(*args):
            handles[0].hooks_dict_ref().clear()

        x = leaf()
        y = make_function(api).apply(x)
        handles.append(WAYS[way](x, y, hook))
        WAYS[way](x, y, lambda *args: 1 / 0)
        y.sum().backward()
        return x.grad

    @case(f"{way}: the dict of hooks holds odd values")
    def _(api, way=way):
        x = leaf()
        y = make_function(api).apply(x)
        handle = WAYS[way](x, y, lambda *args: None)
        handle.hooks_dict_ref()["odd"] = 3
        y.sum().backward()


for label, make_value in ODD_VALUES.items():

    @case(f"_backward_hooks = {label}")
    def _(api, make_value=make_value):
        x = leaf()
        y = make_function(api).apply(x)
        y._backward_hooks = make_value()
        y.sum().backward()
        return x.grad

    @case(f"_register_hook_dict of a tensor whose _backward_hooks is {label}")
    def _(api, make_value=make_value):
        x = leaf()
        y = make_function(api).apply(x)
        hooked = torch.ones(2, requires_grad=True)
        hooked.register_hook(lambda grad: None)
        return y.grad_fn._register_hook_dict(make_value())


@case("node's register_hook twice with one hook")
def _(api):
    seen = []
    hook = types.MethodType(lambda self, *args: seen.append(self), 5)
    x = leaf()
    y = make_function(api).apply(x)
    y.grad_fn.register_hook(hook)
    y.grad_fn.register_hook(hook)
    y.sum().backward()
    return seen
