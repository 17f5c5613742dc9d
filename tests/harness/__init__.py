# SPDX-License-Identifier: BSD-3-Clause
"""Parity scenarios: one piece of code, run on stock torch and on torch_ext, that must look the same.

A scenario is a function of one argument, written in any ``tests/parity/test_*.py`` or
``tests/integrations/test_*.py``::

    from harness import scenario

    @scenario
    def double_of_a_leaf(s):
        class Double(s.Function):
            @staticmethod
            def forward(ctx, x):
                s.record("ctx in forward", ctx)
                return x * 2

            @staticmethod
            def backward(ctx, grad):
                return grad * 2

        x = s.randn(3, requires_grad=True)
        y = Double.apply(x)
        s.record("output", y)
        y.sum().backward()
        s.record("input", x)
        s.raises("no arguments", Double.apply)

pytest runs it as ``double_of_a_leaf[ours]`` (``s.Function`` is ``torch_ext.Function``) and
``double_of_a_leaf[installed]`` (``s.Function`` is ``torch.autograd.Function`` under
``torch_ext.installed()``), each time next to a run on stock torch. Every run writes a transcript: what
the scenario records, in order, and without being asked every warning, every exception that Python could
only report, and what is still alive at the end. The two transcripts must be equal; the test fails with
their difference.

What a scenario can use is the public part of :class:`harness.scenario.Scenario`; what is seen of an object
is decided in :mod:`harness.describe`. ``@scenario(since="2.14")`` is for what stock Functions of older releases of
torch lack: on those it runs as ``installed`` alone. ``@scenario(not_before="2.13")`` is for what torch_ext does better
than older releases.
``pytest --variant stock`` compares stock with itself, which shows that a scenario is valid and deterministic;
``--device`` chooses where the tensors are. ``pytest --leaks 1000`` runs each scenario a thousand times instead, and
fails if objects, references or memory grow with each run.

One difference is documented and ignored: ``type(grad_fn)`` is a subclass of ``MyFn._backward_cls``, and not that class
itself. Name, module and every ``isinstance`` are compared.
"""

from .scenario import Scenario, assert_same, compare, scenario, torch_is_since, transcript
from .variants import VARIANTS, Variant

__all__ = ["VARIANTS", "Scenario", "Variant", "assert_same", "compare", "scenario", "torch_is_since", "transcript"]
