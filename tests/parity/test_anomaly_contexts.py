# SPDX-License-Identifier: BSD-3-Clause
"""detect_anomaly and set_detect_anomaly as contexts: what is enabled when."""

import threading

import torch
from harness import scenario
from harness.anomaly_text import attempt, printing, under


def enabled(s, label):
    s.record(label, torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())


@scenario
def inside_and_after(s):
    def body():
        enabled(s, "before")
        with s.detect_anomaly() as value:
            s.record("value", value)
            enabled(s, "detect")
        enabled(s, "after")
        with s.set_detect_anomaly(True, check_nan=False) as value:
            s.record("value", value)
            enabled(s, "set")
        enabled(s, "after")
        with s.set_detect_anomaly(False):
            enabled(s, "off")

    attempt(s, "contexts", body)


@scenario
def nested(s):
    def body():
        with s.detect_anomaly(check_nan=False):
            with s.detect_anomaly():
                enabled(s, "inner")
            enabled(s, "outer")
            with s.set_detect_anomaly(False):
                enabled(s, "off")
                with s.detect_anomaly():
                    enabled(s, "on in off")
                enabled(s, "off again")
            enabled(s, "outer again")
        enabled(s, "end")

    attempt(s, "contexts", body)


@scenario
def mixed_with_those_of_torch(s):
    x = s.tensor([0.0], requires_grad=True)

    def fail():
        (x.sqrt() * 0).sum().backward()

    def body():
        with s.set_detect_anomaly(True):
            with torch.autograd.set_detect_anomaly(False):
                enabled(s, "off")
                fail()
            with torch.autograd.detect_anomaly(check_nan=True):
                attempt(s, "inner", fail)
            enabled(s, "outer")
            attempt(s, "outer", fail)
        with torch.autograd.set_detect_anomaly(True):
            with s.set_detect_anomaly(False):
                fail()
            enabled(s, "torch's")
            attempt(s, "torch's", fail)
        enabled(s, "end")

    attempt(s, "contexts", body)


@scenario
def left_by_an_exception(s):
    def body():
        with s.detect_anomaly():
            raise KeyError("inside")

    attempt(s, "context", body)
    enabled(s, "after")


@scenario
def as_a_function(s):
    s.set_detect_anomaly(True, check_nan=False)
    enabled(s, "on")
    s.set_detect_anomaly(True)
    enabled(s, "with the check")
    s.set_detect_anomaly(False)
    enabled(s, "off")


@scenario
def one_object_entered_twice(s):
    context = attempt(s, "detect", s.detect_anomaly)
    for _ in range(2):
        with context:
            enabled(s, "detect")
        enabled(s, "after")
    context = s.set_detect_anomaly(True)
    for _ in range(2):
        with context:
            enabled(s, "set")
        enabled(s, "after")


@scenario
def made_and_entered_in_different_states(s):
    context = attempt(s, "made while off", s.detect_anomaly)
    with s.set_detect_anomaly(True, check_nan=False):
        with context:
            enabled(s, "inside")
        enabled(s, "torch forgets the outer one")
    enabled(s, "end")


@scenario
def arguments(s):
    for name in ("detect_anomaly", "set_detect_anomaly"):
        make = getattr(s, name)
        for args, kwargs in (
            ((), {"mode": 1}),
            ((1, 2, 3), {}),
            (("yes",), {}),
            ((None,), {}),
            ((), {"chek_nan": True}),
        ):

            def body():
                with make(*args, **kwargs):
                    enabled(s, "inside")

            attempt(s, f"{name} {args} {kwargs}", body)
            torch.set_anomaly_enabled(False)
    s.record("attributes", vars(s.set_detect_anomaly(False))["prev"], s.set_detect_anomaly(False).prev_check_nan)


@scenario
def seen_from_forward_and_backward(s):
    class Looks(s.Function):
        @staticmethod
        def forward(ctx, x):
            enabled(s, "forward")
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            enabled(s, "backward")
            return grad

    x = s.randn(2, requires_grad=True)
    with s.set_detect_anomaly(True, check_nan=False):
        Looks.apply(x).sum().backward()
    enabled(s, "after")


@scenario
def other_threads(s):
    x = s.tensor([0.0], requires_grad=True)
    made = []

    def run(call):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    def forward():
        enabled(s, "in the thread")
        made.append((x.sqrt() * 0).sum())

    def backward():
        attempt(s, "backward in another thread", made.pop().backward)

    def body():
        run(forward)
        run(backward)
        run(forward)
        made.pop().backward()

    under(s, "body", body)


@scenario
def several_threads_fail(s):
    start = threading.Barrier(3)
    raised = {}

    def fail(number):
        x = torch.zeros(number + 1, device=s.device, requires_grad=True)
        start.wait()
        y = (x.sqrt() * 0).sum()
        node = y.grad_fn.next_functions[0][0]
        try:
            y.backward()
        except RuntimeError as error:
            raised[number] = str(error), "in fail" in "".join(node.metadata["traceback_"])

    threads = [threading.Thread(target=fail, args=(number,)) for number in range(3)]
    with s.set_detect_anomaly(True), printing(s):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    s.record("raised", sorted(raised.items()))
