# SPDX-License-Identifier: BSD-3-Clause
"""The program that test_pickling.py runs: it sends Functions to other processes, and receives them.

``send FOLDER SETTING`` pickles each thing in each way, before and after the first call, into a file each.
``receive FOLDER SETTING`` calls what it finds in the folders there. Both print a JSON object with the outcomes. The
classes belong to ``__main__``, as those of a script or a notebook do.
"""

import copy
import functools
import json
import pathlib
import pickle
import pickletools
import sys
import warnings

import cloudpickle
import dill
import torch
from torch.autograd.function import BackwardCFunction
from torch.utils.checkpoint import CheckpointFunction


def use(setting):
    """Makes this process what ``setting`` says; returns the base of its Functions, and what is done to each."""
    if setting == "stock":
        sys.modules["torch_ext"] = None  # importing it fails
        return torch.autograd.Function, lambda cls: cls
    import torch_ext

    if setting == "installed":
        torch_ext.install()
    base = torch_ext.Function if setting == "ours" else torch.autograd.Function
    return base, torch_ext.accelerate if setting == "accelerated" else lambda cls: cls


# --- What is sent: all of them triple their argument ------------------------------------------------


def make_things(base, prepare, moment):
    factor = torch.tensor(3.0)

    @prepare
    class Triple(base):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 3 + 0 * x

    @prepare
    class WithSetup(base):
        generate_vmap_rule = True

        @staticmethod
        def forward(x, times=1):
            return x * factor * times

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.times = inputs[1]

        @staticmethod
        def backward(ctx, grad):
            return grad * factor * ctx.times, None

    class Derived(Triple):
        pass

    class WithApply(base):
        @staticmethod
        def forward(ctx, x):
            return x * 3

        @staticmethod
        def backward(ctx, grad):
            return grad * 3

        @classmethod
        def apply(cls, x):
            return super().apply(x)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.function = Triple.apply
            self.cls = Triple
            self.weight = torch.nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.function(x * self.weight)

    def closure(x):
        return WithSetup.apply(x, 1)

    class Other(Triple):
        pass

    node_type = (
        Other._backward_cls if moment == "before" else type(Other.apply(torch.ones(2, requires_grad=True)).grad_fn)
    )

    return {
        "class": Triple,
        "bound apply": Triple.apply,
        "class with setup_context": WithSetup,
        "derived class": Derived,
        "derived class's apply": Derived.apply,
        "class with an apply of its own": WithApply,
        "backward class": Triple._backward_cls,
        "type of a node": node_type,
        "module": Layer(),
        "partial": functools.partial(WithSetup.apply),
        "partial in a partial": functools.partial(functools.partial(Triple.apply)),
        "closure": closure,
        "list": [Triple, Triple.apply],
        "importable apply": CheckpointFunction.apply,
        "importable class": CheckpointFunction,
        "partial of an importable apply": functools.partial(CheckpointFunction.apply, times_three, False),
    }


def times_three(x):
    return x * 3


# --- How ------------------------------------------------------------------------------------------

SENDING = {
    "pickle": pickle.dumps,
    "cloudpickle": cloudpickle.dumps,
    "dill": dill.dumps,
    "dill, recurse": functools.partial(dill.dumps, recurse=True),
}
COPYING = {"copy": copy.copy, "deepcopy": copy.deepcopy}


def call(thing):
    """What a call gives: values, gradient, and the name of the node."""
    if isinstance(thing, list):
        return [call(each) for each in thing]
    if isinstance(thing, type) and issubclass(thing, BackwardCFunction):
        return call(thing._forward_cls)
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    function = thing.apply if isinstance(thing, type) else thing
    if getattr(thing, "__self__", thing) is CheckpointFunction:
        function = functools.partial(CheckpointFunction.apply, times_three, False)
    y = function(x)
    name = y.grad_fn.name()
    y.sum().backward()
    return [y.tolist(), x.grad.tolist(), name]


def runs_on_ours(thing):
    """Whether a class's calls run on torch_ext; None for what is no class of the sender's."""
    if not (isinstance(thing, type) and issubclass(thing, torch.autograd.Function)) or thing is CheckpointFunction:
        return None
    torch_ext = sys.modules["torch_ext"]
    node = thing.apply(torch.ones(2, requires_grad=True)).grad_fn
    return torch_ext is not None and isinstance(node, torch_ext._C.Ctx)


def outcome(function, *args):
    try:
        return function(*args)
    except Exception as error:
        return type(error).__name__


def names_of_ours(data):
    """What of torch_ext's own a pickle mentions."""
    texts = [str(argument) for _, argument, _ in pickletools.genops(data)]
    return sorted({text for text in texts if "torch_ext" in text or "CtxMeta" in text})


# --- The two programs -------------------------------------------------------------------------------


def send(folder, setting):
    base, prepare = use(setting)
    outcomes = {}
    for moment in "before", "after":
        for name, thing in make_things(base, prepare, moment).items():
            if moment == "after":
                call(thing)
            for way, dumps in SENDING.items():
                data = outcome(dumps, thing)
                key = f"{name}, {way}, {moment}"
                if isinstance(data, str):
                    outcomes[key] = data
                    continue
                (folder / f"{key}.pickle").write_bytes(data)
                outcomes[key] = [names_of_ours(data), outcome(lambda: call(pickle.loads(data)))]
            for way, make_copy in COPYING.items():
                outcomes[f"{name}, {way}, {moment}"] = outcome(lambda: call(make_copy(thing)))
    return outcomes


def receive(folder, setting):
    use(setting)
    outcomes = {}
    for path in folder.glob("*/*.pickle"):
        thing = outcome(pickle.loads, path.read_bytes())
        key = f"{path.parent.name}/{path.stem}"
        outcomes[key] = thing if isinstance(thing, str) else [outcome(call, thing), runs_on_ours(thing)]
    return outcomes


def send_to_oneself(folder, setting):
    base, prepare = use(setting)
    cls = make_things(base, prepare, "before")["class"]
    apply = vars(cls)["apply"]
    return {
        "the same class": cloudpickle.loads(cloudpickle.dumps(cls)) is cls,
        "accelerated": vars(cls)["apply"] is apply,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    program, folder, setting = sys.argv[1:]
    print(json.dumps(globals()[program](pathlib.Path(folder), setting)))
