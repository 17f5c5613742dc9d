# SPDX-License-Identifier: BSD-3-Clause
"""Exported models with custom Functions: the same programs, errors, values and gradients."""

import io

import torch
from compiling import comparable, compiling
from harness import scenario


def scaled(Function):
    class Scaled(Function):
        @staticmethod
        def forward(ctx, x, factor=2.0):
            ctx.factor = factor
            ctx.save_for_backward(x)
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * ctx.factor + 0 * x, None

    return Scaled


def layer(s):
    function = scaled(s.Function)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(s.randn(3))

        def forward(self, x):
            return function.apply(self.weight * x, 3.0).sin()

    return Layer()


def program(s, label, export, *args, **options):
    """Record the program that ``export(*args, **options)`` returns, or why it returns none. Returns the program."""
    try:
        exported = export(*args, **options)
    except Exception as error:
        s.record(label, type(error), comparable(str(error)))
        return None
    s.lines.extend(f"{label}: {line}" for line in comparable(str(exported)).splitlines())
    return exported


@scenario
def strict_and_not(s):
    with compiling(s):
        for strict in (True, False):
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    model, x = layer(s), s.randn(2, 3)
                    exported = program(s, f"{strict} {grad}", torch.export.export, model, (x,), strict=strict)
                    s.record("values", exported.module()(x).detach(), model(x).detach())


@scenario
def trained_after_export(s):
    with compiling(s):
        model, x = layer(s), s.randn(2, 3)
        for strict in (True, False):
            module = torch.export.export(model, (x,), strict=strict).module()
            output = module(x)
            s.record("output", output)
            s.outcome("backward", lambda: output.sum().backward())
            s.record("gradients", [parameter.grad for parameter in module.parameters()])


@scenario
def sizes_left_open(s):
    with compiling(s):
        rows = torch.export.Dim("rows", min=2)
        for strict in (True, False):
            shapes = {"x": {0: rows}}
            exported = program(
                s, f"{strict}", torch.export.export, layer(s), (s.randn(2, 3),), dynamic_shapes=shapes, strict=strict
            )
            s.record("more rows", exported.module()(s.randn(5, 3)).detach())


@scenario
def decomposed_and_saved(s):
    with compiling(s):
        exported = torch.export.export(layer(s), (s.randn(2, 3),))
        program(s, "decomposed", exported.run_decompositions)
        file = io.BytesIO()
        torch.export.save(exported, file)
        file.seek(0)
        program(s, "loaded", torch.export.load, file)


@scenario
def what_export_refuses(s):
    class Broken(scaled(s.Function)):
        @staticmethod
        def forward(ctx, x):
            return x * 2 if x.sum() > 0 else x * 3

    class Model(torch.nn.Module):
        def forward(self, x):
            return Broken.apply(x)

    with compiling(s):
        for strict in (True, False):
            x = s.randn(3, requires_grad=True)
            program(s, f"strict {strict}", torch.export.export, Model(), (x,), strict=strict)
