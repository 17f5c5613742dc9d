# SPDX-License-Identifier: BSD-3-Clause
"""The Functions that AOTAutograd creates for compiled models; under install() they run on torch_ext."""

import torch
from compiling import compiling
from harness import scenario
from harness.anomaly_text import printing
from torch._functorch.aot_autograd import aot_function

import torch_ext


def model(x, weight):
    return (x @ weight).relu().sum(-1)


def leaves(s, rows=2):
    return s.randn(rows, 3, requires_grad=True), s.randn(3, 3, requires_grad=True)


@scenario
def a_model(s):
    with compiling(s) as c:
        compiled = c(model, backend="aot_eager", fullgraph=True)
        c.differentiate("first", compiled, *leaves(s))
        c.differentiate("again", compiled, *leaves(s))
        x, weight = leaves(s)
        c.differentiate("no gradient for x", compiled, x.detach(), weight)


@scenario(since="2.13")
def the_node(s):
    with compiling(s) as c:
        y = c(model, backend="aot_eager")(*leaves(s))
        node, cls = y.grad_fn, y.grad_fn._forward_cls
        s.record("node", node)
        s.record("saved", node.saved_tensors, len(node._raw_saved_tensors), node.saved_tensors[0].requires_grad)
        s.record("symints", node._get_compiled_autograd_symints(), node.symints)
        s.record("key", len(node._compiled_autograd_key()), node._compiled_autograd_key()[1:])
        s.record("flags", cls.boxed_grads_call, cls.clear_saved_tensors_on_access, cls.metadata.num_outputs)
        s.record("state", node._compiled_autograd_backward_state)


@scenario
def backward_twice(s):
    with compiling(s) as c:
        x, weight = leaves(s)
        y = c(model, backend="aot_eager")(x, weight)
        y.sum().backward(retain_graph=True)
        y.sum().backward()
        s.record("two gradients", x.grad)
        c.raises("a third time", y.sum().backward)
        c.raises("saved", lambda: y.grad_fn.saved_tensors)


@scenario
def gradients_of_gradients(s):
    with compiling(s) as c:
        x, weight = leaves(s)
        y = c(model, backend="aot_eager")(x, weight)
        (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        s.record("gradient", grad)
        c.raises("its backward", grad.sum().backward)


@scenario
def sizes_that_change(s):
    with compiling(s) as c:
        compiled = c(model, backend="aot_eager", dynamic=True)
        for rows in (2, 3, 5):
            c.differentiate(f"{rows} rows", compiled, *leaves(s, rows))
            y = compiled(*leaves(s, rows))
            s.record("symints", y.grad_fn._get_compiled_autograd_symints(), y.grad_fn.symints)


@scenario
def inputs_changed_and_outputs_aliased(s):
    def changing(x, y, index):
        y.mul_(2)
        y.t_()
        return x.view(-1), y.sin(), x * 2, index + 1, (x + 1)[0]

    with compiling(s) as c:
        x, y = s.randn(2, 3, requires_grad=True), s.randn(2, 3, requires_grad=True) * 1
        outputs = c(changing, backend="aot_eager")(x, y, torch.arange(3))
        s.record("outputs", outputs)
        s.record("changed", y)
        sum(output.sum() for output in outputs if output.requires_grad).backward()
        s.record("gradient", x.grad)


@scenario
def random_numbers(s):
    with compiling(s) as c:
        compiled = c(lambda x: torch.nn.functional.dropout(x, 0.5).cos(), backend="aot_eager")
        torch.manual_seed(1)
        c.differentiate("dropout", compiled, s.randn(8, requires_grad=True))


@scenario
def hooks_on_its_node(s):
    with compiling(s) as c:
        x, weight = leaves(s)
        y = c(model, backend="aot_eager")(x, weight)
        y.grad_fn.register_prehook(lambda grads: s.record("prehook", grads))
        y.grad_fn.register_hook(lambda grad_inputs, grad_outputs: s.record("hook", grad_inputs, grad_outputs))
        y.register_hook(lambda grad: grad * 3)
        y.sum().backward()
        s.record("gradients", x.grad, weight.grad)


@scenario
def saved_tensors_hooks(s):
    packed = []

    def pack(tensor):
        packed.append(tuple(tensor.shape))
        return tensor.clone()

    with compiling(s) as c:
        compiled = c(model, backend="aot_eager")
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor * 2):
            x, weight = leaves(s)
            compiled(x, weight).sum().backward()
        s.record("packed", packed, x.grad, weight.grad)


@scenario
def what_backward_releases(s):
    with compiling(s) as c:
        x, weight = leaves(s)
        y = c(lambda x, weight: (x @ weight).exp().sum(), backend="aot_eager")(x, weight)
        inside = y.grad_fn.saved_tensors[-1].untyped_storage()._weak_ref()
        y.backward()
        s.record("storage released", torch.UntypedStorage._expired(inside))
        torch.UntypedStorage._free_weak_ref(inside)


@scenario
def an_error_in_backward(s):
    class Failing(s.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("no gradient today")

    with compiling(s) as c:
        outer = c(lambda x: x.sin() * 2, backend="aot_eager")
        c.raises("backward", outer(Failing.apply(s.randn(3, requires_grad=True))).sum().backward)


@scenario
def around_an_allowed_function(s):
    class Twice(s.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 2 + 0 * x

    with compiling(s) as c:
        graphs = []

        def noting(graph, inputs):
            graphs.append(graph.code)
            return graph

        function = aot_function(lambda x: Twice.apply(x.cos()).sin(), fw_compiler=noting, bw_compiler=noting)
        c.differentiate("without dynamo", function, s.randn(3, requires_grad=True))
        s.record("graphs", graphs)


@scenario
def in_anomaly_mode(s):
    with compiling(s) as c, printing(s), s.detect_anomaly():
        compiled = c(lambda x: (x * 0).sqrt(), backend="aot_eager")
        c.raises("nan", lambda: (compiled(s.randn(3, requires_grad=True)) * 0).sum().backward())


def node_of_a_compiled_model():
    torch._dynamo.reset()
    y = torch.compile(model, backend="aot_eager")(*(torch.ones(3, 3, requires_grad=True) for _ in range(2)))
    torch._dynamo.reset()
    return y.grad_fn


def test_its_node_is_ours_under_install():
    assert not isinstance(node_of_a_compiled_model(), torch_ext._C.Ctx)
    with torch_ext.installed():
        assert isinstance(node_of_a_compiled_model(), torch_ext._C.Ctx)
