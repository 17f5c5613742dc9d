# SPDX-License-Identifier: BSD-3-Clause
"""Small wrong programs, and the lines that the report on each has to name: those with its words in a comment.

``node``: where the failing node was made; ``maker``: where the tensor that it needs was made; ``change``: each change
of it since it was saved, in order; ``freed``: the backward that freed the node; ``crossing`` and ``later``: the nodes
between which the new graph leads into the earlier one; ``cut``: where the values of the loss left the graph.
"""

import threading

import pytest
import torch
from harness.marked_lines import line, marked
from torch import nn

import torch_ext
from torch_ext import anomaly


@pytest.fixture(autouse=True)
def nothing_compiled():
    """Where something was compiled, operators are not observed."""
    if torch_ext._compat.has_compiled():
        torch._dynamo.reset()
    torch_ext._C.observe_operators(False)  # torch's own mode leaves that to the next operator
    yield
    assert not torch_ext._C.observes_operators()
    assert not torch.is_anomaly_enabled()


def leaf(*shape):
    return torch.ones(*(shape or (3,)), requires_grad=True)


class Product(torch_ext.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        return grad * y, grad * x


class TorchProduct(torch.autograd.Function):
    forward, backward = Product.forward, Product.backward


class Marked(torch_ext.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)  # by a kernel that torch knows nothing of
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad


# --- A tensor that was changed in place --------------------------------------------------------------


def in_place_with_grad():
    y = leaf() * 2  # maker
    z = y * y  # node
    y.add_(1)  # change
    z.sum().backward()


def in_place_without_grad():
    y = leaf() * 2  # maker
    z = y**2  # node
    with torch.no_grad():
        y.mul_(3)  # change
    z.sum().backward()


def augmented_assignment():
    y = leaf().exp()  # maker, node
    y += 1  # change
    y.sum().backward()


def assignment_to_elements():
    y = leaf() * 2  # maker
    z = y.sin()  # node
    y[0] = 5  # change
    z.sum().backward()


def assignment_by_index():
    y = leaf() * 2  # maker
    z = y.cos()  # node
    y[torch.tensor([0, 2])] = 0.0  # change
    z.sum().backward()


def through_a_view():
    y = leaf() * 2  # maker
    z = y * y  # node
    part = y[:2]
    part.zero_()  # change
    z.sum().backward()


def through_the_base():
    base = leaf(2, 3) * 2
    row = base[0]  # maker
    z = row * row  # node
    base.mul_(2)  # change
    z.sum().backward()


def through_detach():
    y = leaf() * 2  # maker
    z = y * y  # node
    y.detach().fill_(0)  # change
    z.sum().backward()


def by_out():
    y = leaf() * 2  # maker
    z = y * y  # node
    torch.add(torch.ones(3), 1, out=y.detach())  # change
    z.sum().backward()


def by_a_foreach_operator():
    y = leaf() * 2  # maker
    z = y * y  # node
    torch._foreach_mul_([torch.ones(2), y.detach()], 2.0)  # change
    z.sum().backward()


def by_copy():
    y = leaf() * 2  # maker
    z = y.tanh() * y  # node
    y.detach().copy_(torch.zeros(3))  # change
    z.sum().backward()


def by_masked_fill():
    scores = leaf() * 2  # maker
    z = scores * scores  # node
    scores.masked_fill_(torch.tensor([True, False, False]), 0.0)  # change
    z.sum().backward()


def by_an_optimizer():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(leaf()[None]).sum()  # node
    loss.backward(retain_graph=True)
    optimizer.step()  # change
    loss.backward()


def by_an_optimizer_of_foreach():
    weight = leaf()
    optimizer = torch.optim.Adam([weight], foreach=True)
    loss = (weight * weight).sum()  # node
    loss.backward(retain_graph=True)
    optimizer.step()  # change
    loss.backward()


def by_two_optimizers():
    generator, critic = nn.Linear(3, 3), nn.Linear(3, 1)
    optimizer = torch.optim.Adam(critic.parameters())
    fake = generator(torch.ones(2, 3))
    judged = critic(fake).mean()  # node
    critic(fake.detach()).mean().backward()
    optimizer.step()  # change
    judged.backward()


def by_a_module_in_place():
    y = leaf().sigmoid()  # maker, node
    z = nn.ReLU(inplace=True)(y)  # change
    z.sum().backward()


def by_a_function_of_nn_in_place():
    x = nn.Linear(3, 3)(leaf()[None]).exp()  # maker, node
    x = nn.functional.dropout(x, 0.5, inplace=True)  # change
    x.sum().backward()


def by_a_dirty_function():
    class Doubled(torch_ext.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.mul_(2)  # change

    y = leaf() * 2  # maker
    z = y * y  # node
    with torch.no_grad():
        Doubled.apply(y)  # change
    z.sum().backward()


def by_a_kernel_in_a_dirty_function():
    y = leaf() * 2  # maker
    z = y * y  # node
    Marked.apply(y)  # change
    z.sum().backward()


def several_times():
    y = leaf() * 2  # maker
    z = y * y  # node
    for _ in range(3):
        y.detach().add_(1)  # change, change, change
    y.detach().sub_(1)  # change
    z.sum().backward()


def before_and_after_it_was_saved():
    y = leaf() * 2
    y.add_(1)  # maker
    z = y * y  # node
    y.add_(2)  # change
    z.sum().backward()


def saved_by_a_function():
    y = leaf() * 2  # maker
    other = leaf() * 3
    z = Product.apply(y, other)  # node
    y.add_(1)  # change
    z.sum().backward()


def saved_by_a_function_of_torch():
    y = leaf() * 2  # maker
    other = leaf() * 3
    z = TorchProduct.apply(other, y)  # node
    y.detach().add_(1)  # change
    z.sum().backward()


def a_leaf_without_grad():
    scale = torch.ones(3)
    z = leaf() * scale  # node
    scale.mul_(2)  # change
    z.sum().backward()


def on_another_thread():
    y = leaf() * 2  # maker
    z = y * y  # node

    def change():
        w = leaf() * 1  # so that nodes are made on this thread too
        y.detach().add_(w.detach())  # change

    thread = threading.Thread(target=change)
    thread.start()
    thread.join()
    z.sum().backward()


def in_double_backward():
    x = leaf()
    z = x.exp()  # maker, node
    (first,) = torch.autograd.grad(z.sum(), x, create_graph=True)
    z.detach().add_(1)  # change
    first.sum().backward()


def in_a_loop_over_time():
    state = torch.zeros(5, 3)
    x = leaf()
    outputs = []
    for step in range(2):
        row = state[step]
        outputs.append((x * row).sum())  # node
        state[step + 1] = x.detach() * step  # change
    sum(outputs).backward()


# --- A graph that was freed already ------------------------------------------------------------------


def the_same_loss_twice():
    loss = (leaf() ** 2).sum()  # node, crossing
    loss.backward()  # freed
    loss.backward()


def a_hidden_state():
    weight, hidden = leaf(), torch.zeros(3)
    for _ in range(2):
        hidden = torch.tanh(hidden + weight)  # node, crossing, later
        hidden.sum().backward()  # freed


def a_hidden_state_of_a_module():
    cell, hidden = nn.GRUCell(3, 3), torch.zeros(1, 3)
    for _ in range(2):
        hidden = cell(torch.ones(1, 3), hidden)  # node, crossing, later
        loss = hidden.sum()
        loss.backward()  # freed


def losses_that_add_up():
    weight = leaf()
    total = torch.zeros(())
    for _ in range(2):
        loss = (weight * weight).sum()  # node
        total = total + loss  # crossing, later
        total.backward()  # freed


def a_shared_trunk():
    trunk = leaf().exp()  # node, crossing
    (trunk * 2).sum().backward()  # freed
    (trunk * 3).sum().backward()  # later


def a_trunk_used_again_later():
    features = leaf().exp()  # node, crossing
    (features * 2).sum().backward()  # freed
    again = features * 3  # later
    again.sum().backward()


def a_gradient_before_a_backward():
    x = leaf()
    loss = (x**3).sum()  # node, crossing
    torch.autograd.grad(loss, x)  # freed
    loss.backward()


def retained_only_the_first_time():
    loss = leaf().exp().sum()  # node, crossing
    loss.backward(retain_graph=True)
    loss.backward()  # freed
    loss.backward()


def a_function_that_was_freed():
    out = Product.apply(leaf() * 2, leaf() * 3)  # node, crossing
    out.sum().backward()  # freed
    (out * 2).sum().backward()  # later


def a_value_kept_from_the_last_step():
    weight, kept = leaf(), []
    for _ in range(2):
        value = weight.exp()  # node, crossing
        kept.append(value)
        loss = torch.stack(kept).sum()  # later
        loss.backward()  # freed


def a_regulariser_made_once():
    weight = leaf()
    penalty = weight.pow(2).sum()  # node, crossing
    for _ in range(2):
        loss = (weight * 2).sum() + penalty  # later
        loss.backward()  # freed


# --- A loss that is in no graph ----------------------------------------------------------------------


def detached():
    loss = (leaf() * 2).sum().detach()  # cut
    loss.backward()


def detached_in_place():
    loss = (leaf() * 2).sum()
    loss.detach_()  # cut
    loss.backward()


def under_no_grad():
    model = nn.Linear(3, 3)
    with torch.no_grad():
        loss = model(torch.ones(1, 3)).sum()  # cut
    loss.backward()


def in_a_function_under_no_grad():
    @torch.no_grad()
    def evaluate(model):
        return model(torch.ones(1, 3)).sum()  # cut

    evaluate(nn.Linear(3, 3)).backward()


def under_set_grad_enabled():
    weight = leaf()
    with torch.set_grad_enabled(False):
        loss = weight.exp().sum()  # cut
    loss.backward()


def with_grad_switched_off():
    weight = leaf()
    torch.set_grad_enabled(False)
    loss = weight.exp().sum()  # cut
    torch.set_grad_enabled(True)
    loss.backward()


def in_inference_mode():
    weight = leaf()
    with torch.inference_mode():
        loss = weight.exp().sum()  # cut
    loss.backward()


def by_argmax():
    predicted = (leaf() * 2).argmax().float()  # cut
    predicted.backward()


def by_a_comparison():
    hits = (leaf() * 2 > 1).float()  # cut
    hits.mean().backward()


def by_a_conversion_to_integers():
    counts = (leaf() * 2).long()  # cut
    (counts.float() * 2).sum().backward()


def by_item():
    loss = torch.tensor((leaf() * 2).sum().item())  # cut
    loss.backward()


# --- The test ----------------------------------------------------------------------------------------

MODIFIED = [
    in_place_with_grad,
    in_place_without_grad,
    augmented_assignment,
    assignment_to_elements,
    assignment_by_index,
    through_a_view,
    through_the_base,
    through_detach,
    by_out,
    by_a_foreach_operator,
    by_copy,
    by_masked_fill,
    by_an_optimizer,
    by_an_optimizer_of_foreach,
    by_two_optimizers,
    by_a_module_in_place,
    by_a_function_of_nn_in_place,
    by_a_dirty_function,
    by_a_kernel_in_a_dirty_function,
    several_times,
    before_and_after_it_was_saved,
    saved_by_a_function,
    saved_by_a_function_of_torch,
    a_leaf_without_grad,
    on_another_thread,
    in_double_backward,
    in_a_loop_over_time,
]
FREED = [
    the_same_loss_twice,
    a_hidden_state,
    a_hidden_state_of_a_module,
    losses_that_add_up,
    a_shared_trunk,
    a_trunk_used_again_later,
    a_gradient_before_a_backward,
    retained_only_the_first_time,
    a_function_that_was_freed,
    a_value_kept_from_the_last_step,
    a_regulariser_made_once,
]
IN_NO_GRAPH = [
    detached,
    detached_in_place,
    under_no_grad,
    in_a_function_under_no_grad,
    under_set_grad_enabled,
    with_grad_switched_off,
    in_inference_mode,
    by_argmax,
    by_a_comparison,
    by_a_conversion_to_integers,
    by_item,
]


def fail(program, message):
    with torch_ext.set_detect_anomaly(True, check_nan=False):
        leaf().sum().backward()  # what other tests have cut off lies before it
        with pytest.raises(RuntimeError, match=message) as raised:
            program()
    return raised.value, anomaly.last_report()


def check(program, named):
    named = {word: [number for number in numbers if number] for word, numbers in named.items()}
    assert {word: numbers for word, numbers in named.items() if numbers} == marked(program)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", MODIFIED)
def test_changes_are_named(program):
    _, report = fail(program, "modified by an inplace operation")
    modified = report.modified
    maker = modified.maker
    named = {
        "node": [line(modified.origin.frames)],
        "maker": [] if maker is None else [line(maker.frames)],
        "change": [line(change.frames) for change in modified.changes],
    }
    check(program, named)
    assert [(each.before, each.after) for each in modified.changes] == [
        (version, version + 1) for version in range(modified.expected, modified.version)
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", FREED)
def test_the_backward_that_freed_is_named(program):
    _, report = fail(program, "backward through the graph a second time")
    freed = report.freed
    named = {
        "node": [line(freed.origin.frames)],
        "freed": [line(freed.backward)],
        "crossing": [] if freed.crossing is None else [line(freed.crossing.frames)],
        "later": [] if freed.later is None else [line(freed.later.frames)],
    }
    check(program, named)
    assert freed.path[-1] == freed.origin


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", IN_NO_GRAPH)
def test_cuts_are_named(program):
    _, report = fail(program, "does not require grad and does not have a grad_fn")
    assert report.found == "no_grad"
    lines = [line(cut.frames) for cut in report.cuts]
    check(program, {"cut": sorted(set(lines))})
