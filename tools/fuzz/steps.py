# SPDX-License-Identifier: BSD-3-Clause
"""Draws what a program does.

Kinds of places in the code: {x} a tensor, the latest ones first, {leaf} one of the program's inputs, {leaves} all of
them, {function} the apply of a Function, {call} a call of it, {inputs} what that call would be given.
"""

from hypothesis import strategies as st

from .choices import Table, chance, some
from .functions import functions
from .program import Program, Step

INPUTS = Table(
    (30, "", "s.randn(2, 3, requires_grad=True)"),
    (8, "", "s.randn(3, requires_grad=True)"),
    (8, "", "s.randn(2, 3)"),
    (10, "non-leaf input", "s.randn(2, 3, requires_grad=True) * 2"),
    (4, "0-d input", "s.randn((), requires_grad=True)"),
    (2, "empty input", "s.randn(0, 3, requires_grad=True)"),
    (4, "float64 input", "s.randn(2, 3, dtype=torch.float64, requires_grad=True)"),
    (4, "complex input", "s.randn(2, 3, dtype=torch.complex64, requires_grad=True)"),
    (2, "float16 input", "s.randn(2, 3).to(torch.float16).requires_grad_()"),
    (2, "bfloat16 input", "s.randn(2, 3).to(torch.bfloat16).requires_grad_()"),
    (2, "integer input", "s.tensor([[1, 2, 3], [4, 5, 6]])"),
    (1, "bool input", "s.tensor([[True, False, True]])"),
    (3, "non-contiguous input", "s.randn(3, 2).t().requires_grad_()"),
    (2, "expanded input", "s.randn(3).requires_grad_().expand(2, 3)"),
    (4, "view as input", "(s.randn(2, 2, 3, requires_grad=True) * 2)[0]"),
    (1, "multi-output view as input", "(s.randn(2, 2, 3, requires_grad=True) * 2).unbind()[0]"),
    (2, "view of a leaf as input", "s.randn(2, 2, 3, requires_grad=True)[1]"),
    (2, "view made under no_grad as input", "without_grad(lambda: (s.randn(2, 2, 3, requires_grad=True) * 2)[0])"),
    (2, "Parameter", "torch.nn.Parameter(s.randn(2, 3))"),
    (2, "subclass as input", "s.randn(2, 3).as_subclass(Marked).requires_grad_()"),
    (1, "wrapper subclass as input", "Wrapper(s.randn(2, 3)).requires_grad_()"),
    (1, "sparse input", "s.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 4.0]]).to_sparse().requires_grad_()"),
    (1, "inference tensor as input", "in_inference_mode(torch.sin, s.randn(2, 3))"),
    (1, "conjugated input", "s.randn(2, 3, dtype=torch.complex64, requires_grad=True).conj()"),
    (1, "negated view as input", "torch._neg_view(s.randn(2, 3, requires_grad=True))"),
    (1, "retains_grad", "retaining(s.randn(2, 3, requires_grad=True) * 2)"),
    (1, "dead functorch wrapper", "dead_wrapper(s.randn(2, 3))"),
    (1, "meta tensor", 's.randn(2, 3, requires_grad=True).to("meta")'),
)

ARGUMENTS = Table(
    (40, "", "{x}"),
    (30, "", "{leaf}"),
    (1, "None as argument", "None"),
    (1, "number as argument", "2.0"),
    (1, "text as argument", "'text'"),
    (1, "list as argument", "[{x}]"),
    (1, "detached argument", "{x}.detach()"),
    (1, "view as argument", "{x}[:1]"),
    (1, "tensor made in the call", "({x} * 2)"),
)

EXTRA_ARGUMENTS = Table(
    (30, "", "3.0"),
    (15, "keyword", "scale=3.0"),
    (10, "", "{x}"),
    (2, "keyword of a tensor", "scale={x}"),
    (2, "keyword that is unknown", "unknown=3.0"),
    (2, "keyword given twice", "a=3.0"),
)

CONTEXTS = Table(
    (6, "no_grad", "with torch.no_grad():"),
    (4, "enable_grad", "with torch.enable_grad():"),
    (4, "inference_mode", "with torch.inference_mode():"),
    (2, "set_grad_enabled", "with torch.set_grad_enabled(False):"),
    (6, "saved_tensors_hooks", "with packing(s):"),
    (2, "saved_tensors_hooks: pack raises", "with packing(s, pack_raises=True):"),
    (2, "saved_tensors_hooks: unpack raises", "with packing(s, unpack_raises=True):"),
    (2, "saved_tensors_hooks: unpack gives something wrong", "with packing(s, unpacked='text'):"),
    (1, "saved_tensors_hooks: unpack gives another tensor", "with packing(s, unpacked=torch.ones(2, 3)):"),
    (2, "saved_tensors_hooks: in place", "with packing(s, in_place=True):"),
    (2, "save_on_cpu", "with torch.autograd.graph.save_on_cpu():"),
    (2, "disable_saved_tensors_hooks", "with torch.autograd.graph.disable_saved_tensors_hooks('disabled'):"),
    (2, "allow_mutation_on_saved_tensors", "with torch.autograd.graph.allow_mutation_on_saved_tensors():"),
    (5, "anomaly mode", "with anomaly(s):"),
    (2, "anomaly mode without NaN checks", "with anomaly(s, check_nan=False):"),
    (4, "autocast", "with torch.autocast('cpu', dtype=torch.bfloat16):"),
    (2, "autocast off", "with torch.autocast('cpu', enabled=False):"),
    (8, "dual_level", "with torch.autograd.forward_ad.dual_level():"),
    (1, "fwAD disabled", "with torch.autograd.forward_ad._set_fwd_grad_enabled(False):"),
    (4, "torch function mode", "with LogFunctions(s):"),
    (3, "dispatch mode", "with LogDispatch(s):"),
    (2, "multithreading off", "with torch.autograd.set_multithreading_enabled(False):"),
    (1, "default dtype", "with default_dtype(torch.float64):"),
    (1, "deterministic", "with deterministic():"),
    (1, "node creation hook", "with torch.autograd.graph.node_creation_hook(hook(s)):"),
    (1, "view replay", "with torch.autograd._force_original_view_tracking(True):"),
    (1, "skip data", "with torch.autograd.profiler.record_function('step'):"),
)

ACTIONS = Table(
    (50, "apply", "return {call}"),
    (40, "apply and differentiate", "y = pick({call})\ns.record('output', y)\nreturn differentiate(s, y, {leaves})"),
    (40, "differentiate", "return differentiate(s, {x}, {leaves})"),
    (10, "backward", "return weighed({x}).backward()"),
    (5, "backward with retain_graph", "return weighed({x}).backward(retain_graph=True)"),
    (4, "backward with create_graph", "return weighed({x}).backward(create_graph=True)"),
    (3, "backward with inputs", "return weighed({x}).backward(inputs=[{x}])"),
    (3, "backward of several", "return torch.autograd.backward([weighed({x}), weighed({x})])"),
    (2, "backward with gradient", "return {x}.backward(torch.ones_like({x}))"),
    (2, "backward twice", "y = {x}\ny.backward(torch.ones_like(y))\nreturn y.backward(torch.ones_like(y))"),
    (
        2,
        "backward twice, graph retained",
        "y = weighed({x})\ny.backward(retain_graph=True)\n{leaf}.grad = None\nreturn y.backward()",
    ),
    (4, "grad", "return torch.autograd.grad(weighed({x}), [{x}])"),
    (4, "grad allow_unused", "return torch.autograd.grad(weighed({x}), [{x}, {x}], allow_unused=True)"),
    (4, "grad create_graph", "return torch.autograd.grad(weighed({x}), [{x}], create_graph=True)"),
    (3, "grad materialize_grads", "return torch.autograd.grad(weighed({x}), [{leaf}, {x}], materialize_grads=True)"),
    (
        4,
        "grad is_grads_batched",
        "y = {x}\n"
        "grads = torch.stack([torch.ones_like(y), torch.ones_like(y) * 2])\n"
        "return torch.autograd.grad(y, [{leaf}], grads, is_grads_batched=True, allow_unused=True)",
    ),
    (
        3,
        "gradient edge",
        "edge = torch.autograd.graph.get_gradient_edge({x})\n"
        "return torch.autograd.grad(weighed({x}), [edge], allow_unused=True)",
    ),
    (
        2,
        "backward from a gradient edge",
        "y = {x}\nedge = torch.autograd.graph.get_gradient_edge(y)\n"
        "return torch.autograd.backward([edge], [torch.ones_like(y)])",
    ),
    (6, "arithmetic", "return {x} * {x}"),
    (3, "arithmetic", "return {x} + 1"),
    (2, "view", "return {x}.view_as({x})"),
    (2, "view", "return {x}[0]"),
    (1, "detach", "return {x}.detach()"),
    (1, "detach_", "return {x}.detach_()"),
    (2, "requires_grad_", "return {x}.detach().requires_grad_()"),
    (1, "clone", "return {x}.clone()"),
    (8, "in place", "return {x}.mul_(2)"),
    (2, "in place", "return {x}.add_({x})"),
    (2, "in place under no_grad", "with torch.no_grad():\n    return {x}.mul_(2)"),
    (2, "in place on a view", "return {x}[:1].mul_(2)"),
    (1, "copy_", "return {x}.copy_({x})"),
    (1, "set data", "x = {x}\nx.data = torch.ones_like(x) * 2\nreturn x"),
    (1, "resize_", "return {x}.resize_(0)"),
    (1, "zero grad", "{leaf}.grad = None"),
    (6, "tensor hook", "hooks_of(s).register_tensor_hook({x}, hook(s))"),
    (2, "tensor hook returns", "hooks_of(s).register_tensor_hook({x}, hook(s, lambda grad: grad * 2))"),
    (1, "tensor hook returns something wrong", "hooks_of(s).register_tensor_hook({x}, hook(s, lambda grad: 'text'))"),
    (1, "tensor hook returns a wrong shape", "hooks_of(s).register_tensor_hook({x}, lambda grad: torch.ones(7))"),
    (1, "tensor hook raises", "hooks_of(s).register_tensor_hook({x}, raising)"),
    (2, "tensor hook removes itself", "removes_itself(s, hooks_of(s).register_tensor_hook, {x})"),
    (1, "tensor hook in place", "hooks_of(s).register_tensor_hook({x}, lambda grad: grad.mul_(2))"),
    (1, "tensor hook runs backward", "hooks_of(s).register_tensor_hook({x}, lambda grad: reentrant({function}))"),
    (1, "retain_grad", "{x}.retain_grad()"),
    (4, "node hook", "hooks_of(s).register_node_posthook(node_of({x}), hook(s))"),
    (2, "node hook returns", "hooks_of(s).register_node_posthook(node_of({x}), hook(s, doubled))"),
    (1, "node hook returns something wrong", "hooks_of(s).register_node_posthook(node_of({x}), hook(s, lambda *a: 3))"),
    (1, "node hook raises", "hooks_of(s).register_node_posthook(node_of({x}), raising)"),
    (1, "node hook removes itself", "removes_itself(s, hooks_of(s).register_node_posthook, node_of({x}))"),
    (3, "node prehook", "hooks_of(s).register_node_prehook(node_of({x}), hook(s))"),
    (2, "node prehook returns", "hooks_of(s).register_node_prehook(node_of({x}), hook(s, doubled))"),
    (1, "node prehook returns None", "hooks_of(s).register_node_prehook(node_of({x}), lambda grads: (None,))"),
    (1, "node prehook raises", "hooks_of(s).register_node_prehook(node_of({x}), raising)"),
    (1, "hook on a next node", "hooks_of(s).register_node_posthook(next_node({x}), hook(s))"),
    (2, "post-accumulate hook", "hooks_of(s).register_post_accumulate_grad_hook({leaf}, hook(s))"),
    (1, "post-accumulate hook raises", "hooks_of(s).register_post_accumulate_grad_hook({leaf}, raising)"),
    (2, "multi-grad hook", "torch.autograd.graph.register_multi_grad_hook([{x}, {x}], hook(s))"),
    (1, "multi-grad hook, any", "torch.autograd.graph.register_multi_grad_hook([{x}, {x}], hook(s), mode='any')"),
    (4, "node looked at", "return {x}.grad_fn"),
    (2, "node's saved tensors", "return {x}.grad_fn.saved_tensors"),
    (1, "node's raw saved tensors", "return {x}.grad_fn._raw_saved_tensors"),
    (1, "raw saved tensor unpacked", "return [raw.data for raw in {x}.grad_fn._raw_saved_tensors]"),
    (1, "raw saved tensor hooked", "{x}.grad_fn._raw_saved_tensors[0].register_hooks(hook(s, same), hook(s, same))"),
    (2, "node called", "return {x}.grad_fn(torch.ones(2, 3))"),
    (1, "node called with None", "return {x}.grad_fn(None)"),
    (1, "node's apply called", "return {x}.grad_fn.apply(torch.ones(2, 3))"),
    (1, "node's metadata of gradients", "return metadata_of({x}.grad_fn)"),
    (1, "node's sequence number set", "return order(s, {x}.grad_fn)"),
    (1, "weak reference to a node", "return weak_node(s, {x}.grad_fn)"),
    (1, "node's metadata set", "{x}.grad_fn.metadata['key'] = {x}"),
    (1, "node's attribute set", "{x}.grad_fn.extra = {x}"),
    (1, "node's attribute read", "return {x}.grad_fn.kept"),
    (1, "node kept", "s.kept = {x}.grad_fn"),
    (1, "node copied", "return copy.copy({x}.grad_fn)"),
    (1, "ctx used after forward", "s.record('kept ctx', s.kept_ctx)\nreturn s.kept_ctx.saved_tensors"),
    (1, "ctx saves after forward", "return s.kept_ctx.save_for_backward({x})"),
    (2, "Function's attributes", "return {function}.__self__.__name__, {function}.__self__._backward_cls.__mro__[-3:]"),
    (1, "Function called", "return {function}.__self__()({inputs})"),
    (1, "class changed", "{function}.__self__.slope = 5.0"),
    (1, "class given another forward", "cls = {function}.__self__\ncls.forward = staticmethod(cls.forward)"),
    (1, "apply without arguments", "return {function}()"),
    (2, "sequence", "return [{call} for _ in range(3)]"),
    (2, "chain", "x = {x}\nfor _ in range(3):\n    x = pick({function}(x))\nreturn x"),
    (3, "dual numbers", "return with_duals({function}, {inputs})"),
    (2, "dual numbers and gradients", "return with_duals({function}, {inputs}, s=s, leaves={leaves})"),
    (2, "dual input", "return torch.autograd.forward_ad.make_dual({x}, torch.ones_like({x}))"),
    (3, "torch.func.grad", "return torch.func.grad(summed({function}))({inputs})"),
    (2, "torch.func.grad of grad", "return torch.func.grad(summed(torch.func.grad(summed({function}))))({inputs})"),
    (3, "torch.func.vjp", "y, back = torch.func.vjp({function}, {inputs})\nreturn y, back(ones_like(y))"),
    (3, "torch.func.jvp", "return torch.func.jvp({function}, ({inputs},), ones_like(({inputs},)))"),
    (4, "torch.func.vmap", "return torch.func.vmap({function})({inputs})"),
    (1, "torch.func.vmap out_dims", "return torch.func.vmap({function}, out_dims=-1)({inputs})"),
    (
        2,
        "torch.func.vmap of one input",
        "inputs = ({inputs},)\n"
        "in_dims = tuple(0 if i == 0 else None for i in range(len(inputs)))\n"
        "return torch.func.vmap({function}, in_dims=in_dims)(*inputs)",
    ),
    (1, "torch.func.vmap of vmap", "return torch.func.vmap(torch.func.vmap({function}))({inputs})"),
    (2, "torch.func.vmap of grad", "return torch.func.vmap(torch.func.grad(summed({function})))({inputs})"),
    (1, "torch.func.grad of vmap", "return torch.func.grad(summed(torch.func.vmap({function})))({inputs})"),
    (2, "torch.func.jacrev", "return torch.func.jacrev({function})({inputs})"),
    (1, "torch.func.jacfwd", "return torch.func.jacfwd({function})({inputs})"),
    (1, "torch.func.hessian", "return torch.func.hessian(summed({function}))({inputs})"),
    (1, "torch.func.functionalize", "return torch.func.functionalize({function})({inputs})"),
    (1, "autograd.functional.jacobian", "return torch.autograd.functional.jacobian({function}, ({inputs},))"),
    (1, "autograd.functional.vjp", "return torch.autograd.functional.vjp(summed({function}), ({inputs},))"),
    (3, "checkpoint", "return checkpoint({function}, {inputs}, use_reentrant=False)"),
    (2, "checkpoint, re-entrant", "return checkpoint({function}, {inputs}, use_reentrant=True)"),
    (2, "in a thread", "return in_thread(lambda: {call})"),
    (1, "backward in a thread", "return in_thread(lambda: weighed({x}).backward())"),
    (1, "pickled", "return pickle.dumps({x}.grad_fn)"),
    (1, "deepcopy of an output", "return copy.deepcopy({x})"),
    (1, "garbage collected", "return gc.collect() * 0"),
    (2, "torch.jit.trace", "return str(torch.jit.trace({function}, ({inputs},), check_trace=False).graph)"),
    (1, "make_fx", "return make_fx({function})({inputs}).code"),
    (1, "hook on an output", "y = pick({call})\ny.register_hook(hook(s))\nreturn weighed(y).backward()"),
    (1, "call in a hook", "hooks_of(s).register_tensor_hook({x}, lambda grad: pick({function}(grad)))"),
    (
        2,
        "in place between call and backward",
        "y = pick({call})\n{x}.detach().mul_(2)\nreturn weighed(y).backward()",
    ),
    (
        2,
        "dual numbers in place",
        "with torch.autograd.forward_ad.dual_level():\n"
        "    x = torch.autograd.forward_ad.make_dual({x}, torch.ones_like({x}))\n"
        "    y = pick({function}(x * 1))\n"
        "    y.mul_(2)\n"
        "    return tuple(torch.autograd.forward_ad.unpack_dual(y))",
    ),
    (1, "profiler", "return profiled(s, lambda: {call})"),
    (1, "gradient accumulated", "{leaf}.grad = torch.ones_like({leaf})"),
)


@st.composite
def steps(draw):
    """Something that a program does."""
    action = ACTIONS.draw(draw)
    calls = any(place in action.code for place in ("{call}", "{function}", "{inputs}"))
    return Step(
        contexts=some(draw, CONTEXTS, (20, 15)),
        action=action,
        function=draw(st.integers(0, 2)) if calls else 0,
        arguments=tuple(
            [ARGUMENTS.draw(draw) for _ in range(3)] + [EXTRA_ARGUMENTS.draw(draw)] * chance(draw, 50) if calls else []
        ),
    )


@st.composite
def inputs(draw):
    """A tensor to begin with."""
    return INPUTS.draw(draw)


@st.composite
def programs(draw):
    """A whole program."""
    return Program(
        installed=draw(st.booleans()),
        inputs=tuple(draw(st.lists(inputs(), min_size=1, max_size=3))),
        functions=tuple(draw(st.lists(functions(), min_size=1, max_size=3))),
        steps=tuple(draw(st.lists(steps(), min_size=1, max_size=9))),
    )
