# SPDX-License-Identifier: BSD-3-Clause
"""What Python's own profilers show of a call: ``sys.setprofile``, cProfile and ``sys.monitoring``.

Only what they say of ``apply`` is compared: torch's runs a few Python functions more.
"""

import cProfile
import os
import pstats
import sys
import threading

from harness import scenario
from harness.small_functions import make_product, make_square


def make_failing(s):
    class Fails(s.Function):
        @staticmethod
        def forward(ctx, x):
            raise KeyError("forward")

    return Fails


def is_of_apply(code, event, function):
    """Whether an event is about Function.apply, not that of ctx, nor what the Python function calls besides C++."""
    if event.startswith("c_"):
        return function.__name__ == "apply"
    return code.co_name == "apply" and "cls" in code.co_varnames


class Watching:
    """``sys.setprofile`` with a function that records what is about apply."""

    def __init__(self, s, also=None):
        self.events = []
        self.also = also

    def __call__(self, frame, event, function):
        code = frame.f_code
        if is_of_apply(code, event, function):
            file = os.path.basename(code.co_filename)
            called = event.startswith("c_") and (type(function).__name__, function.__name__, function.__self__)
            self.events.append((event, code.co_name, file, frame.f_lineno, called))
        if self.also:
            self.also(event)

    def __enter__(self):
        sys.setprofile(self)
        return self.events

    def __exit__(self, *args):
        sys.setprofile(None)


def rows(profile):
    """What cProfile says of apply: file, line, name and number of calls."""
    return sorted(
        (os.path.basename(file), line, name, calls)
        for (file, line, name), (calls, *_) in pstats.Stats(profile).stats.items()
        if "apply" in name
    )


@scenario
def calls_seen_by_setprofile(s):
    x = s.randn(2, requires_grad=True)
    for cls in make_square(s.Function), make_product(s.Function):
        arguments = (x,) * (1 if "Square" in cls.__name__ else 2)
        with Watching(s) as events:
            cls.apply(*arguments)
            getattr(cls, "apply")(*arguments)  # noqa: B009 (another instruction of Python's)
            apply = cls.apply
            apply(*arguments)
        s.record(cls.__name__, events)


@scenario
def a_call_that_raises(s):
    cls = make_failing(s)
    with Watching(s) as events:
        s.raises("apply", cls.apply, s.randn(2, requires_grad=True))
    s.record("events", events)


@scenario
def calls_in_backward_and_on_another_thread(s):
    square = make_square(s.Function)

    class Outer(s.Function):
        @staticmethod
        def forward(ctx, x):
            return square.apply(x)

        @staticmethod
        def backward(ctx, grad):
            return square.apply(grad)

    y = Outer.apply(s.randn(2, requires_grad=True))
    with Watching(s) as events:
        y.sum().backward()
    s.record("backward", events)
    watching = Watching(s)
    threading.setprofile(watching)
    try:
        thread = threading.Thread(target=square.apply, args=(s.randn(2, requires_grad=True),))
        thread.start()
        thread.join()
    finally:
        threading.setprofile(None)
    s.record("thread", watching.events)


@scenario
def a_profile_function_that_calls_apply(s):
    square = make_square(s.Function)
    x = s.randn(2, requires_grad=True)
    seen = []
    with Watching(s, also=lambda event: seen.append(square.apply(x).tolist())) as events:
        square.apply(x)
    s.record("events", events, seen[0])


@scenario
def a_profile_function_that_raises(s):
    square = make_square(s.Function)
    x = s.randn(2, requires_grad=True)

    def fails(event):
        raise ArithmeticError(event)

    def call():
        with Watching(s, also=fails):
            square.apply(x)

    s.raises("apply", call)
    s.record("off", sys.getprofile())
    s.record("afterwards", square.apply(x))


@scenario
def rows_of_cprofile(s):
    square, fails = make_square(s.Function), make_failing(s)
    x = s.randn(2, requires_grad=True)
    for number in range(2):
        profile = cProfile.Profile()
        profile.enable()
        square.apply(x)
        square.apply(x).sum()
        s.raises("apply", fails.apply, x)
        profile.disable()
        s.record(f"profile {number}", rows(profile))
    square.apply(x)
    s.record("after", rows(profile))


@scenario
def attributes_set_on_the_function(s):
    function = getattr(make_square(s.Function).apply, "__func__", None)
    if function is None:  # torch 2.14 and newer
        return
    function.note = "mine"
    try:
        s.record("there", function.note, make_product(s.Function).apply.__func__.note, "note" in vars(function))
    finally:
        del function.note
    s.record("gone", hasattr(function, "note"))
    s.raises("again", lambda: delattr(function, "note"))
    s.raises("name", lambda: setattr(function, "__name__", 3))


if sys.version_info >= (3, 12):

    @scenario
    def events_of_a_monitoring_tool(s):
        square = make_square(s.Function)
        x = s.randn(2, requires_grad=True)
        seen = []
        monitoring, tool = sys.monitoring, sys.monitoring.DEBUGGER_ID

        def see(event):
            return lambda code, offset, function, *rest: seen.append(event) if is_method(function) else None

        def is_method(function):
            return getattr(function, "__name__", None) == "apply" and type(function).__name__.startswith("builtin")

        monitoring.use_tool_id(tool, "scenario")
        events = {
            "call": monitoring.events.CALL,
            "return": monitoring.events.C_RETURN,
            "raise": monitoring.events.C_RAISE,
        }
        try:
            for name, event in events.items():
                monitoring.register_callback(tool, event, see(name))
            monitoring.set_events(tool, monitoring.events.CALL)
            square.apply(x)
            s.raises("apply", make_failing(s).apply, x)
        finally:
            monitoring.set_events(tool, 0)
            monitoring.free_tool_id(tool)
        s.record("events", seen)
