# SPDX-License-Identifier: BSD-3-Clause
"""Train a spiking network on handwritten digits, on stock torch and on torch_ext.

A spiking network shows the cost of a custom autograd Function: every layer calls one in every time
step, on small tensors. The network is written for stock torch and knows nothing of torch_ext. Two
copies of it, created from the same seed, take turns of one epoch each: one on stock torch, one inside
``torch_ext.installed()``. All losses and all weights have to agree bit for bit; if they do not, the
exit status is 1.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import time
from argparse import Namespace
from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain

import numpy
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import torch_ext

from .options import STYLES, parse_options

DECAY = 0.9  # share of the membrane potential that is left after one time step
THRESHOLD = 1  # potential at which a neuron fires; a spike subtracts this much, its own height


# --- The model: plain PyTorch ---------------------------------------------------------------------


def surrogate(grad, excess, slope):
    """Multiply grad by the derivative of a fast sigmoid, which stands in for that of the step."""
    return grad / (excess.abs() * slope + 1).square()


class Spike(torch.autograd.Function):
    """1 where a membrane is over its threshold, else 0, with a surrogate gradient."""

    @staticmethod
    def forward(excess, slope=10.0):
        return (excess > 0).to(excess.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        excess, ctx.slope = inputs
        ctx.save_for_backward(excess)

    @staticmethod
    def backward(ctx, grad):
        (excess,) = ctx.saved_tensors
        return surrogate(grad, excess, ctx.slope), None


class SpikeWithCtx(torch.autograd.Function):
    """The same as Spike in the older style, in which forward itself takes ctx."""

    @staticmethod
    def forward(ctx, excess, slope=10.0):
        ctx.slope = slope
        ctx.save_for_backward(excess)
        return (excess > 0).to(excess.dtype)

    @staticmethod
    def backward(ctx, grad):
        (excess,) = ctx.saved_tensors
        return surrogate(grad, excess, ctx.slope), None


SPIKES = dict(zip(STYLES, (Spike, SpikeWithCtx), strict=True))


class SpikingLayer(nn.Module):
    """Leaky integrate-and-fire neurons behind a linear layer, over (time, batch, features)."""

    def __init__(self, inputs, outputs, spike):
        super().__init__()
        self.synapses = nn.Linear(inputs, outputs)
        self.spike = spike
        self.calls = 0

    def forward(self, spikes):
        currents = self.synapses(spikes)
        membrane = torch.zeros_like(currents[0])
        fired = []
        for current in currents.unbind():
            membrane = torch.add(current, membrane, alpha=DECAY)
            spike = self.spike.apply(membrane - THRESHOLD)
            membrane = membrane - spike
            fired.append(spike)
        self.calls += len(fired)
        return torch.stack(fired)


class SpikingNetwork(nn.Module):
    """Two spiking layers; the class scores are a linear function of the last one's spike rates."""

    def __init__(self, hidden, spike):
        super().__init__()
        self.layers = nn.Sequential(SpikingLayer(64, hidden, spike), SpikingLayer(hidden, hidden, spike))
        self.readout = nn.Linear(hidden, 10)

    def forward(self, spikes):
        return self.readout(self.layers(spikes).mean(0))


# --- The data: scikit-learn's digits as spike trains ----------------------------------------------


@dataclass
class Digits:
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    @classmethod
    def load(cls, seed, device):
        """1797 images of 8 x 8 pixels, brightness 0 to 1, one in five kept for the test."""
        images, labels = load_digits(return_X_y=True)
        train_images, test_images, train_labels, test_labels = train_test_split(
            (images / 16).astype("float32"),
            labels,
            test_size=0.2,
            random_state=seed,
            stratify=labels,
        )
        parts = train_images, train_labels, test_images, test_labels
        return cls(*(torch.tensor(part, device=device) for part in parts))


def encode(images, steps, generator):
    """Rate coding: in each time step a pixel spikes with its brightness as the probability."""
    return torch.bernoulli(images.expand(steps, *images.shape), generator=generator)


# --- Training -------------------------------------------------------------------------------------


@dataclass
class Run:
    """One copy of the network on one implementation, and the figures of its training."""

    name: str
    context: Callable[[], AbstractContextManager]  # in it, Functions run on the implementation
    options: Namespace
    losses: list[list[float]] = field(default_factory=list)  # for each epoch, those of its steps
    accuracies: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # one per training step
    calls: int = 0  # of the custom Function, in training steps

    def __post_init__(self):
        options = self.options
        torch.manual_seed(options.seed)
        self.model = SpikingNetwork(options.hidden, SPIKES[options.style]).to(options.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=options.rate, fused=True)
        self.generator = torch.Generator(options.device).manual_seed(options.seed)

    def train_epoch(self, digits):
        device, count = self.options.device, len(digits.train_images)
        order = torch.randperm(count, generator=self.generator, device=device)
        with self.context(), collector_off():
            losses = [self.train_step(digits, batch) for batch in order.split(self.options.batch)]
        self.losses.append(losses)
        self.accuracies.append(self.accuracy(digits))

    def train_step(self, digits, batch):
        """Take one step and its time: gradients to zero, forward, backward, optimizer."""
        spikes = encode(digits.train_images[batch], self.options.steps, self.generator)
        labels = digits.train_labels[batch]
        calls_before = self.count_calls()
        start = clock(self.options.device)
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(spikes), labels)
        loss.backward()
        self.optimizer.step()
        self.seconds.append(clock(self.options.device) - start)
        self.calls += self.count_calls() - calls_before
        return loss.item()

    @torch.no_grad()
    def accuracy(self, digits):
        generator = torch.Generator(self.options.device).manual_seed(self.options.seed)
        scores = self.model(encode(digits.test_images, self.options.steps, generator))
        return (scores.argmax(1) == digits.test_labels).float().mean().item()

    def count_calls(self):
        return sum(layer.calls for layer in self.model.layers)

    def epoch_loss(self, epoch):
        return statistics.fmean(self.losses[epoch])

    def milliseconds(self):
        return [1e3 * second for second in self.seconds]


def clock(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextlib.contextmanager
def collector_off():
    """Collect garbage before, not during: a step should not pay for that of others."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def pair(options):
    stock = Run("stock torch", contextlib.nullcontext, options)
    return stock, Run("torch_ext", torch_ext.installed, options)


def train(options, digits, console):
    """Train on both by turns of one epoch, each beginning every other time: neither gets the warmer machine."""
    for run in pair(options):
        run.train_epoch(digits)  # thrown away: it warms the process up, at the cost of neither
    stock, ours = pair(options)
    text, unit = TextColumn("{task.description}"), TextColumn("epochs")
    columns = text, BarColumn(), MofNCompleteColumn(), unit, TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        bars = {run.name: progress.add_task(run.name, total=options.epochs) for run in (stock, ours)}
        for epoch in range(options.epochs):
            for run in (stock, ours) if epoch % 2 == 0 else (ours, stock):
                run.train_epoch(digits)
                description = f"{run.name:<11} loss {run.epoch_loss(epoch):.4f}"
                progress.update(bars[run.name], advance=1, description=description)
    return stock, ours


# --- The report -----------------------------------------------------------------------------------


def same_bits(left, right):
    """Whether two lists of numbers are the same float64 bytes (0.0 is not -0.0, NaN is NaN)."""
    return array("d", left).tobytes() == array("d", right).tobytes()


def same_weights(stock, ours):
    pairs = zip(stock.model.parameters(), ours.model.parameters(), strict=True)
    return all(torch.equal(left.view(torch.int32), right.view(torch.int32)) for left, right in pairs)


def loss_table(stock, ours):
    table = Table(title="After each epoch (loss: mean of its training steps)")
    table.add_column("epoch", justify="right")
    for run in (stock, ours):
        table.add_column(f"loss\n{run.name}", justify="right")
    table.add_column("losses equal\nbit for bit")
    for run in (stock, ours):
        table.add_column(f"accuracy\n{run.name}", justify="right")
    for epoch in range(len(stock.losses)):
        table.add_row(
            str(epoch + 1),
            *(f"{run.epoch_loss(epoch):.10f}" for run in (stock, ours)),
            "yes" if same_bits(stock.losses[epoch], ours.losses[epoch]) else "[bold red]NO[/]",
            *(f"{run.accuracies[epoch]:.1%}" for run in (stock, ours)),
        )
    return table


def time_table(stock, ours):
    table = Table(title="Time of a training step (forward, backward, optimizer)")
    table.add_column("")
    headings = "median\nms", "quartiles\nms", "steps", "Function\ncalls", "calls\nper step"
    for heading in headings:
        table.add_column(heading, justify="right")
    for run in (stock, ours):
        low, median, high = quartiles(run.milliseconds())
        steps = len(run.seconds)
        times = f"{median:.2f}", f"{low:.2f} to {high:.2f}"
        table.add_row(run.name, *times, f"{steps}", f"{run.calls:,}", f"{run.calls / steps:.0f}")
    return table


def quartiles(numbers):
    return numpy.quantile(numbers, (0.25, 0.5, 0.75))


def draw(stock, ours, path):
    """Write a picture of both loss curves and both distributions of step times to path (PNG)."""
    colours = {stock.name: "#E69F00", ours.name: "#0072B2"}  # distinct to the colour-blind too
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    loss_axes, time_axes = figure.subplots(1, 2)

    # The thin line lies on the wide one, so that both can be seen if they are equal.
    draw_losses(loss_axes, stock, color=colours[stock.name], linewidth=7, alpha=0.6)
    draw_losses(loss_axes, ours, color=colours[ours.name], linewidth=1.8, marker=".")
    loss_axes.set(xlabel="epoch", ylabel="mean cross-entropy (nats)", title="Training loss")
    loss_axes.xaxis.get_major_locator().set_params(integer=True)
    loss_axes.set_ylim(bottom=0)
    loss_axes.legend(frameon=False)

    slowest = 1.5 * max(statistics.median(run.milliseconds()) for run in (stock, ours))
    for run in (stock, ours):
        draw_times(time_axes, run, slowest, colours[run.name])
    time_axes.set(
        xlabel="milliseconds (the last bin holds all slower steps)",
        ylabel="number of steps",
        title="Time of a training step",
        xlim=(0, slowest),
        ylim=(0, 1.3 * time_axes.get_ylim()[1]),  # room for the legend
    )
    time_axes.legend(edgecolor="none", framealpha=1, loc="upper left")  # over the median lines

    for axes in (loss_axes, time_axes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")


def draw_losses(axes, run, **style):
    epochs = range(len(run.losses))
    losses = [run.epoch_loss(epoch) for epoch in epochs]
    axes.plot([epoch + 1 for epoch in epochs], losses, label=run.name, **style)


def draw_times(axes, run, slowest, colour):
    times = [min(time, slowest) for time in run.milliseconds()]
    median = statistics.median(run.milliseconds())
    label = f"{run.name}, median {median:.2f} ms"
    axes.hist(times, bins=80, range=(0, slowest), color=colour, alpha=0.75, label=label)
    axes.axvline(median, color=colour, linestyle="--", linewidth=1)


def main(arguments=None, program=None):
    """Run the comparison; return the exit status: 0 if all is equal bit for bit, else 1."""
    return compare(parse_options(arguments, program))


def compare(options: Namespace) -> int:
    """The same with the options parsed."""
    torch.set_num_threads(options.threads)
    # cuBLAS is deterministic only with a workspace of fixed size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    console = Console()
    console.print(
        f"torch {torch.__version__}, torch_ext {torch_ext.__version__}, "
        f"device {options.device}, CPU threads {options.threads}",
        highlight=False,
    )

    stock, ours = train(options, Digits.load(options.seed, options.device), console)
    equal_losses = same_bits(chain(*stock.losses), chain(*ours.losses))
    equal_weights = same_weights(stock, ours)
    draw(stock, ours, options.output)

    console.print(loss_table(stock, ours), time_table(stock, ours))
    verdict = {True: "[green]equal bit for bit[/]", False: "[bold red]DIFFERENT[/]"}
    console.print(f"Losses of all {len(stock.seconds)} steps: {verdict[equal_losses]}")
    console.print(f"Trained weights: {verdict[equal_weights]}")
    speedup = statistics.median(stock.seconds) / statistics.median(ours.seconds)
    console.print(f"Training speed of torch_ext: {speedup:.2f} times that of stock torch")
    console.print(f"Picture: {options.output}", soft_wrap=True)
    return 0 if equal_losses and equal_weights else 1
