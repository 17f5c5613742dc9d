# SPDX-License-Identifier: BSD-3-Clause
"""Runs a scenario, and compares what two runs of it wrote down."""

import contextlib
import difflib
import functools
import gc
import inspect
import pathlib
import sys
import warnings
from collections import Counter

import torch

from .describe import Describer, normalise, render, type_name
from .engine import settle
from .levels import grows
from .variants import STOCK, VARIANTS


class Scenario:
    """The argument of a scenario: an implementation, a device, and a transcript to write to.

    Attributes:
        Function, FunctionCtx, InplaceFunction, NestedIOFunction, once_differentiable, detect_anomaly,
            set_detect_anomaly: of the implementation under test.
        device: where tensors are created.
        device_module: what torch has for devices of this type: ``torch.cuda``, say.
        role: "oracle" if the scenario has to hold: stock torch runs it, and has what it is about. Else "subject".
            Not a bool: what stock torch leaks may hold this, and references to True and False are counted.
        lines: the transcript so far.
        overlooked: names of types whose instances may be alive at the end.
    """

    def __init__(self, api, device, role):
        self.Function = api.Function
        self.FunctionCtx = api.FunctionCtx
        self.InplaceFunction = api.InplaceFunction
        self.NestedIOFunction = api.NestedIOFunction
        self.once_differentiable = api.once_differentiable
        self.detect_anomaly = api.detect_anomaly
        self.set_detect_anomaly = api.set_detect_anomaly
        self.device = device
        self.device_module = torch.get_device_module(device)
        self.lines = []
        self.overlooked = set()
        self._kept = []
        self.role = role
        self._describe = Describer(device)
        self._generator = torch.Generator().manual_seed(0)

    def tensor(self, data, **options):
        """``torch.tensor(data, **options)`` on the scenario's device."""
        return torch.tensor(data, device=self.device, **options)

    def randn(self, *shape, dtype=None, requires_grad=False):
        """A leaf with normally distributed values, the same in every run and on every device."""
        values = torch.randn(*shape, dtype=dtype, generator=self._generator)
        return values.to(self.device).requires_grad_(requires_grad)

    def keep(self, output):
        """Return ``output``, kept alive to the end of the scenario: before torch 2.13 its node dies with it."""
        self._kept.append(output)
        return output

    def drop_kept(self):
        self._kept.clear()

    def record(self, label, *values):
        """Write down everything that can be seen of ``values`` now. Called from hooks it records their order."""
        described = [self._describe(value) for value in values]
        self.lines.extend(render(label, described[0] if len(described) == 1 else described))

    def sequence_nr(self, number):
        """A node's sequence number as it is written down, counted from the scenario's first."""
        return self._describe.sequence_nr(number)

    def outcome(self, label, call, *args, **kwargs):
        """Record what ``call(*args, **kwargs)`` returns or raises; returns what it returned, or None."""
        try:
            result = call(*args, **kwargs)
        except BaseException as error:
            self.record(f"{label} raised", error)
            return None
        self.record(f"{label} returned", result)
        return result

    def raises(self, label, call, *args, **kwargs):
        """Record the exception of ``call(*args, **kwargs)``.

        Raises:
            AssertionError: stock torch raised nothing, so the scenario is wrong.
        """
        try:
            result = call(*args, **kwargs)
        except BaseException as error:
            self.record(f"{label} raised", error)
            return
        assert self.role != "oracle", f"{label}: stock torch raises nothing"
        self.record(f"{label} returned", result)

    def differentiate(self, label, function, *inputs):
        """Record the outputs of ``function(*inputs)``, their gradients and the gradients of those.

        Every floating point or complex output that requires grad is contracted with fixed weights. Inputs
        that are no tensors requiring grad are passed on as they are. Returns the outputs.
        """
        outputs = function(*inputs)
        self.record(f"{label}: outputs", outputs)
        leaves = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
        grads = self._gradients(outputs, leaves)
        self.record(f"{label}: gradients", grads)
        if any(isinstance(grad, torch.Tensor) and grad.requires_grad for grad in grads):
            self.record(f"{label}: double gradients", self._gradients(grads, leaves))
        return outputs

    def _gradients(self, outputs, leaves):
        outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        outputs = [y for y in outputs if isinstance(y, torch.Tensor) and y.requires_grad]
        weights = [torch.linspace(1, 2, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape) for y in outputs]
        return torch.autograd.grad(outputs, leaves, weights, create_graph=True, allow_unused=True)

    def alive(self, label, ref):
        """Record whether the target of a weak reference is alive, before and after a garbage collection."""
        settle(self.device)
        before = ref() is not None
        gc.collect()
        self.record(label, f"{'alive' if before else 'dead'}, after gc {'alive' if ref() is not None else 'dead'}")

    def references(self, label, call, *objects, repeat=20):
        """Record by how much ``repeat`` calls of ``call()`` raise the reference counts of ``objects``.

        What a call raises is dropped. A first call, not counted, fills caches.
        """

        def count():
            settle(self.device)
            gc.collect()
            # By map(): a call in a loop sees one less once Python has specialised it (3.14 without the GIL).
            return list(map(sys.getrefcount, objects))

        with contextlib.suppress(BaseException):
            call()
        before = count()
        for _ in range(repeat):
            with contextlib.suppress(BaseException):
                call()
        self.record(label, [after - first for first, after in zip(before, count(), strict=True)])


@contextlib.contextmanager
def _reports(s):
    """Write warnings, and exceptions that Python can only report, to the transcript."""

    def showwarning(message, category, filename, lineno, file=None, line=None):
        # The line counts if it is the user's, not if it is in a library.
        place = f"line {lineno}" if pathlib.Path(filename) == s.file else "library"
        s.lines.append(f"warning at {place}: {type_name(category)}: {normalise(str(message))}")

    def unraisable(report):
        s.record("unraisable", report.exc_value, report.err_msg)

    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    warn_always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = showwarning
            yield
    finally:
        torch.set_warn_always(warn_always)
        sys.unraisablehook = hook


def _look_away(device):
    """Keep what exists now out of every collection, and of :func:`_live`, so that these take no time."""
    settle(device)
    gc.collect()
    gc.freeze()


def _live(body, device):
    """How many tensors, nodes and Functions of the scenario's module live that didn't before, by type."""
    settle(device)
    gc.collect()
    live = Counter()
    for obj in gc.get_objects():
        # Not isinstance(): some objects compute their __class__, with side effects.
        if issubclass(type(obj), (torch.Tensor, torch._C._FunctionBase)):
            live[type_name(type(obj))] += 1
        elif issubclass(type(obj), torch.autograd.function.FunctionMeta) and obj.__module__ == body.__module__:
            live[f"class {obj.__qualname__}"] += 1
    return live


def transcript(body, variant, device, at_end=True):
    """The lines that ``body``, a function of a :class:`Scenario`, writes when run on ``variant``.

    Without ``at_end`` nothing is said of what is still alive at the end.
    """
    _look_away(device)
    with variant.active():
        s = Scenario(variant.api(), device, "oracle" if variant is STOCK else "subject")
        s.file = pathlib.Path(inspect.getfile(inspect.unwrap(body)))
        torch.manual_seed(0)
        with _reports(s):
            body(s)
            s.drop_kept()
            left = _live(body, device) if at_end else None
        if left is not None:
            s.record("alive at the end", {name: left[name] for name in sorted(left.keys() - s.overlooked)})
    return s.lines


def compare(body, variant, device):
    """Fail with the difference between ``variant`` and stock torch in the scenario ``body``."""
    # Both from one line: some texts show the whole Python stack.
    expected, actual = (transcript(body, each, device) for each in (STOCK, variant))
    assert_same(body, expected, actual, variant)


def assert_same(body, expected, actual, variant):
    """Fail with the difference between the transcripts of ``body`` on stock torch and on ``variant``."""
    if actual != expected:
        difference = difflib.unified_diff(expected, actual, "stock", variant.name, n=4, lineterm="")
        raise AssertionError("\n".join([f"{body.__qualname__} differs from stock torch", *difference]))


def check_leaks(body, variant, device, repeat):
    """Fail if each of ``repeat`` runs of ``body`` loses something on ``variant``, but not on stock torch."""
    lost = grows(lambda: transcript(body, variant, device), repeat)
    if lost:
        lost -= grows(lambda: transcript(body, STOCK, device), repeat)
    if lost:
        # Caches and the allocators grow too, but stop: most of them soon. Twice the longest, as CPython's table of
        # interned strings grows by some megabytes at once, however rarely.
        series = (repeat, max(repeat, 100), max(repeat, 1000), max(repeat, 1000))
        lost &= grows(lambda: transcript(body, variant, device), *series)
    assert not lost, f"{body.__qualname__}: {', '.join(sorted(lost))} grow with each run"


def torch_is_since(release):
    """Whether the installed torch is of ``release``, such as "2.14", or of a later one."""
    return torch.torch_version.TorchVersion(torch.__version__) >= release


def scenario(body=None, *, since=None, not_before=None):
    """Create a pytest test for each variant from ``body``, a function of a :class:`Scenario`.

    ``since`` names the release of torch that first has what the scenario shows. On an older one torch_ext.Function
    may have it all the same, so only ``installed`` is compared: stock Functions don't change, up to the exception
    that may end the body. ``not_before`` names the first release on which stock torch does what torch_ext does on
    all; on an older one there is no test, and None is returned.
    """
    if body is None:
        return functools.partial(scenario, since=since, not_before=not_before)
    if not_before is not None and not torch_is_since(not_before):
        return None
    lacking = since is not None and not torch_is_since(since)
    if lacking:
        body = recording_its_end(body)

    def test(variant, device, repeat):
        __tracebackhide__ = True
        if repeat:
            check_leaks(body, VARIANTS[variant], device, repeat)
        else:
            compare(body, VARIANTS[variant], device)

    test.__name__ = body.__name__
    test.__qualname__ = body.__qualname__
    test.__doc__ = body.__doc__
    test.__module__ = body.__module__
    test.__test__ = True  # collected whatever its name
    test.place_as = body  # reported at the scenario's line
    test.body = body
    test.not_for = {"ours"} if lacking else frozenset()
    return test


def recording_its_end(body):
    """``body``, whose exception is written to the transcript."""

    @functools.wraps(body)
    def recorded(s):
        s.role = "subject"
        s.outcome("the scenario", body, s)

    return recorded
