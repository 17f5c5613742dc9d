# SPDX-License-Identifier: BSD-3-Clause
"""Draws custom Functions.

Kinds of places in the code: {p} a parameter of forward, {n} any of the names there, {o} an output,
{v} a tensor of the program, {earlier} the apply of a Function above, {name} this Function's name.
"""

from hypothesis import strategies as st

from .choices import Table, chance, some
from .program import Function, Rule

BASES = Table(
    (89, "", "s.Function"),
    (3, "InplaceFunction", "s.InplaceFunction"),
    (1, "NestedIOFunction", "s.NestedIOFunction"),
    (7, "subclass of a custom Function", "{earlier}"),
)

SIGNATURES = Table(
    (80, "", ""),
    (12, "default argument", "scale=2.0"),
    (6, "varargs", "*rest"),
    (2, "default argument", "scale=2.0, *rest"),
    (2, "keyword-only argument", "*, scale=2.0"),
)

CLASSWIDE = Table(
    (8, "generate_vmap_rule", "generate_vmap_rule = True"),
    (
        5,
        "vmap staticmethod",
        "@staticmethod\ndef vmap(info, in_dims, *args):\n"
        '    s.record("vmap", info.batch_size, info.randomness, in_dims)\n'
        "    return batched({name}.apply(*to_front(args, in_dims)))\n",
    ),
    (1, "vmap staticmethod raises", "@staticmethod\ndef vmap(*args):\n    raise ValueError('in vmap')\n"),
    (2, "clear_saved_tensors_on_access", "clear_saved_tensors_on_access = True"),
    (3, "boxed_grads_call", "boxed_grads_call = True"),
    (1, "wrong class attribute", "boxed_grads_call = 'text'"),
    (1, "wrong class attribute", "clear_saved_tensors_on_access = 1"),
    (1, "class attribute", "slope = 3.0"),
    (1, "apply of its own", "@classmethod\ndef apply(cls, *args):\n    return super().apply(*args)\n"),
)

FORWARD_DECORATORS = Table(
    (92, "", ""),
    (3, "custom_fwd", '@torch.amp.custom_fwd(device_type="cpu")'),
    (2, "custom_fwd with cast_inputs", '@torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)'),
    (1, "forward under no_grad", "@torch.no_grad()"),
    (2, "forward under enable_grad", "@torch.enable_grad()"),
    (1, "forward in inference mode", "@torch.inference_mode()"),
)

VALUES = Table(
    (30, "", "{p} * 2"),
    (20, "", "{p} * {p}"),
    (10, "", "{p}.sin()"),
    (10, "", "{p} + {p}"),
    (4, "", "{p}.sum()"),
    (4, "", "{p}.clone()"),
    (4, "input in place", "{p}.mul_(2)"),
    (3, "input as is", "{p}"),
    (5, "view as output", "{p}.view_as({p})"),
    (3, "view as output", "{p}[:]"),
    (2, "view as output", "{p}.t()"),
    (2, "view as output", "{p}.reshape(-1)"),
    (2, "view as output", "{p}[0]"),
    (2, "view as output", "{p}.expand(2, *{p}.shape)"),
    (2, "view of an intermediate", "({p} * 2)[0]"),
    (2, "real view of complex", "{p}.real"),
    (3, "detached", "{p}.detach()"),
    (2, "data", "{p}.data"),
    (2, "integer output", "{p}.long()"),
    (2, "bool output", "{p} > 0"),
    (2, "other dtype", "{p}.to(torch.float64)"),
    (2, "other dtype", "{p}.to(torch.float16)"),
    (2, "complex output", "{p} * 1j"),
    (2, "empty output", "{p}.new_empty((0, 2))"),
    (1, "sparse output", "{p}.to_sparse()"),
    (2, "captured tensor", "{v} * {p}"),
    (3, "re-entrant call", "{earlier}({p})"),
    (2, "re-entrant call with grad", "with_grad({earlier}, {p})"),
    (2, "autograd inside forward", "slope_of(torch.sin, {p})"),
    (1, "inference tensor", "in_inference_mode(torch.sin, {p})"),
    (1, "matrix product", "product({p}, {p}.mT)"),
    (1, "stacked", "torch.stack([{p}, {p}])"),
    (1, "NaN", "{p} * float('nan')"),
)

LINES = Table(
    (10, "look at arguments", 's.record("{name} forward", {p}, {n})'),
    (5, "input in place", "{p}.add_(1)"),
    (3, "output in place", "{o}.mul_(3)"),
    (2, "view in place", "{p}[:1].mul_(2)"),
    (2, "in place under enable_grad", "with torch.enable_grad():\n    {p}.mul_(2)"),
    (3, "exception in forward", "raise ValueError('in forward')"),
    (2, "backward inside forward", "torch.ones(2, requires_grad=True).sum().backward()"),
    (2, "requires_grad_ inside forward", "{n}.requires_grad_()"),
    (1, "detach_ inside forward", "{n}.detach_()"),
    (1, "resize inside forward", "{o}.resize_(0)"),
    (1, "set inside forward", "{p}.set_(torch.ones(2))"),
    (1, "hook inside forward", "{n}.requires_grad_().register_hook(lambda grad: s.record('hook of forward', grad))"),
    (2, "warning", "warnings.warn('in forward')"),
    (1, "class changed inside forward", "{name}.slope = 4.0"),
    (1, "exception in forward", "raise KeyboardInterrupt('in forward')"),
    (1, "graph looked at", 's.record("grad_fn in forward", {n}.grad_fn)'),
)

CONTEXT = Table(
    (30, "save_for_backward", "ctx.save_for_backward({n})"),
    (20, "save_for_backward", "ctx.save_for_backward({n}, {n})"),
    (3, "save_for_backward of None", "ctx.save_for_backward({n}, None)"),
    (3, "save_for_backward of an intermediate", "ctx.save_for_backward({n} * 2, {n})"),
    (1, "save_for_backward of a non-tensor", "ctx.save_for_backward({n}, 3)"),
    (1, "save_for_backward of nothing", "ctx.save_for_backward()"),
    (1, "save_for_backward of a view", "ctx.save_for_backward({n}[:1])"),
    (1, "save_for_backward of a captured tensor", "ctx.save_for_backward({v})"),
    (1, "to_save set", "ctx.to_save = ({n},)"),
    (1, "to_save set to something wrong", "ctx.to_save = [{n}]"),
    (10, "save_for_forward", "ctx.save_for_forward({n})"),
    (1, "save_for_forward of a non-tensor", "ctx.save_for_forward({n}, 3)"),
    (12, "mark_dirty", "ctx.mark_dirty({p})"),
    (2, "mark_dirty", "ctx.mark_dirty({p}, {p})"),
    (2, "mark_dirty of an output", "ctx.mark_dirty({o})"),
    (1, "mark_dirty of a non-tensor", "ctx.mark_dirty(3)"),
    (1, "mark_dirty of nothing", "ctx.mark_dirty()"),
    (1, "mark_shared_storage", "ctx.mark_shared_storage(({p}, {o}))"),
    (8, "mark_non_differentiable", "ctx.mark_non_differentiable({o})"),
    (1, "mark_non_differentiable", "ctx.mark_non_differentiable({o}, {o})"),
    (2, "mark_non_differentiable of an input", "ctx.mark_non_differentiable({p})"),
    (1, "mark_non_differentiable of a non-tensor", "ctx.mark_non_differentiable('y')"),
    (8, "set_materialize_grads", "ctx.set_materialize_grads(False)"),
    (1, "set_materialize_grads", "ctx.set_materialize_grads(True)"),
    (1, "set_materialize_grads to something wrong", "ctx.set_materialize_grads(0)"),
    (1, "set_output_grad_dtype", "ctx.set_output_grad_dtype(torch.float64)"),
    (1, "set_output_grad_dtype", "ctx.set_output_grad_dtype(None, torch.float64)"),
    (1, "_materialize_non_diff_grads", "ctx._materialize_non_diff_grads = False"),
    (2, "_is_pure_view", "ctx._is_pure_view = True"),
    (5, "ctx attribute", "ctx.kept = {p}"),
    (2, "ctx attribute holds an output", "ctx.kept = {o}"),
    (1, "ctx attribute holds ctx", "ctx.kept = ctx"),
    (1, "method of ctx hidden", "ctx.name = 'hidden'"),
    (5, "needs_input_grad", 's.record("{name} needs", ctx.needs_input_grad)'),
    (1, "needs_input_grad set", "ctx.needs_input_grad = (True,)"),
    (3, "look at ctx", 's.record("{name} ctx", ctx)'),
    (2, "saved_tensors in forward", 's.record("{name} saved in forward", ctx.saved_tensors)'),
    (1, "ctx as a node in forward", 's.record("{name} node", ctx.name(), ctx.next_functions, sorted(ctx.metadata))'),
    (1, "hook on ctx in forward", "ctx.register_hook(lambda *args: s.record('hook of ctx', args))"),
    (1, "prehook on ctx in forward", "ctx.register_prehook(lambda *args: s.record('prehook of ctx', args))"),
    (2, "exception in setup", "raise ValueError('in setup')"),
    (1, "ctx slots read", 's.record("slots", ctx.to_save, ctx.non_differentiable, ctx.dirty_tensors)'),
    (1, "saved_tensors_hooks inside", "with packing(s):\n    ctx.save_for_backward({n})"),
    (1, "ctx kept outside", "s.kept_ctx = ctx"),
)

RESULTS = Table(
    (40, "", "y"),
    (20, "several outputs", "y, z"),
    (3, "several outputs", "y, z, {p}"),
    (3, "input returned", "{p}"),
    (4, "input returned", "{p}, y"),
    (2, "output returned twice", "y, y"),
    (2, "list returned", "[y, z]"),
    (2, "nested tuple returned", "y, (z, y)"),
    (3, "non-tensor output", "y, 3"),
    (3, "non-tensor output", "None, y"),
    (1, "non-tensor output", "'text'"),
    (1, "non-tensor output", "y, {{'z': z}}"),
    (1, "None returned", "None"),
    (1, "empty tuple returned", "()"),
    (1, "named tuple returned", "Pair(y, z)"),
    (1, "tuple of one", "(y,)"),
    (2, "detached input returned", "{p}.detach()"),
    (1, "Parameter returned", "torch.nn.Parameter(y)"),
    (1, "subclass returned", "y.as_subclass(Marked)"),
    # On its own: if the call fails, stock torch reads freed memory for the gradients of the others.
    (2, "captured tensor returned", "{v}"),
)

BACKWARDS = Table(
    (88, "backward", "backward"),
    (6, "vjp", "vjp"),
    (4, "no backward", ""),
)

BACKWARD_DECORATORS = Table(
    (88, "", ""),
    (8, "once_differentiable", "@s.once_differentiable"),
    (2, "custom_bwd", '@torch.amp.custom_bwd(device_type="cpu")'),
    (1, "backward under no_grad", "@torch.no_grad()"),
    (1, "backward under enable_grad", "@torch.enable_grad()"),
)

BACKWARD_LINES = Table(
    (20, "saved_tensors", "total = mix((total, *ctx.saved_tensors))"),
    (12, "look at gradients", 's.record("{name} gradients", grads)'),
    (4, "saved_tensors twice", 's.record("again", [a is b for a, b in zip(ctx.saved_tensors, ctx.saved_tensors)])'),
    (3, "look at saved tensors", 's.record("{name} saved", ctx.saved_tensors)'),
    (1, "saved_variables", 's.record("{name} saved", ctx.saved_variables)'),
    (2, "look at raw saved tensors", 's.record("{name} raw", ctx._raw_saved_tensors)'),
    (1, "maybe_clear_saved_tensors", "ctx.maybe_clear_saved_tensors()"),
    (4, "needs_input_grad", 's.record("{name} needs", ctx.needs_input_grad)'),
    (3, "look at ctx", 's.record("{name} ctx", ctx)'),
    (3, "ctx attribute read", "total = mix((total, ctx.kept))"),
    (2, "ctx attribute set in backward", "ctx.seen = getattr(ctx, 'seen', 0) + 1\ns.record('seen', ctx.seen)"),
    (1, "ctx attribute holds a gradient", "ctx.kept = grads"),
    (4, "re-entrant call in backward", "total = mix((total, {earlier}(total)))"),
    (3, "re-entrant backward", "reentrant({earlier})"),
    (2, "autograd inside backward", "total = slope_of(torch.sin, total)"),
    (2, "grad mode in backward", 's.record("modes", torch.is_grad_enabled(), torch.is_inference_mode_enabled())'),
    (3, "exception in backward", "raise ValueError('in backward')"),
    (2, "gradient in place", "total.mul_(2)"),
    (1, "warning", "warnings.warn('in backward')"),
    (1, "metadata of gradients", "s.record('metadata', metadata_of(ctx))"),
    (1, "current node", "s.record('current', torch._C._current_autograd_node())"),
    (1, "captured tensor in backward", "total = mix((total, {v}))"),
    (2, "hook in backward", "total.requires_grad and total.register_hook(lambda grad: s.record('inner', grad))"),
    (1, "gradients kept", "s.kept_grads = grads"),
    (1, "saved_tensors under no_grad", "with torch.no_grad():\n    total = mix((total, *ctx.saved_tensors))"),
    (1, "NaN", "total = total * float('nan')"),
    (1, "class attribute in backward", "total = total * getattr(ctx, '_forward_cls', ctx).__name__.__len__()"),
)

GRADIENTS = Table(
    (80, "", "fits(total, ctx.shapes)"),
    (3, "same gradient for each", "tuple(total for _ in ctx.shapes)"),
    (3, "gradient passed on", "grads[0]"),
    (2, "single gradient", "fit(total, ctx.shapes[0])"),
    (2, "list of gradients", "list(fits(total, ctx.shapes))"),
    (2, "None more than inputs", "*fits(total, ctx.shapes), None"),
    (2, "gradient more than inputs", "*fits(total, ctx.shapes), total"),
    (2, "gradient too few", "fits(total, ctx.shapes)[:-1]"),
    (2, "gradient of a wrong shape", "tuple(torch.ones(7) for _ in ctx.shapes)"),
    (2, "gradient to be reduced", "tuple(torch.ones(2, *(() if n is None else n)) for n in ctx.shapes)"),
    (2, "gradient of another dtype", "tuple(t if t is None else t.to(torch.float64) for t in fits(total, ctx.shapes))"),
    (1, "complex gradient", "tuple(t if t is None else t * 1j for t in fits(total, ctx.shapes))"),
    (1, "integer gradient", "tuple(t if t is None else t.long() for t in fits(total, ctx.shapes))"),
    (2, "None as gradient", "None"),
    (3, "None as gradient", "tuple(None for _ in ctx.shapes)"),
    (1, "gradient for what is no tensor", "tuple(torch.ones(2) for _ in ctx.shapes)"),
    (1, "non-tensor as gradient", "tuple(3.0 for _ in ctx.shapes)"),
    (1, "non-tensor as gradient", "'text'"),
    (1, "gradient that requires grad", "tuple(torch.ones(n or (), requires_grad=True) for n in ctx.shapes)"),
    (1, "gradient is saved tensor", "tuple(ctx.saved_tensors[0] for _ in ctx.shapes)"),
    (1, "sparse gradient", "tuple(t if t is None else t.to_sparse() for t in fits(total, ctx.shapes))"),
    (1, "subclass as gradient", "fits(total.as_subclass(Marked), ctx.shapes)"),
    (1, "gradient in inference mode", "in_inference_mode(torch.sin, total)"),
    (1, "view as gradient", "tuple(t if t is None else t.view_as(t) for t in fits(total, ctx.shapes))"),
)

JVPS = Table((88, "", ""), (12, "jvp", "jvp"))

JVP_LINES = Table(
    (12, "saved_tensors in jvp", "total = mix((total, *ctx.saved_tensors))"),
    (10, "look at tangents", 's.record("{name} tangents", grads)'),
    (3, "ctx attribute in jvp", "total = mix((total, ctx.kept))"),
    (2, "exception in jvp", "raise ValueError('in jvp')"),
    (2, "needs_input_grad in jvp", 's.record("{name} needs", ctx.needs_input_grad)'),
    (2, "re-entrant call in jvp", "total = mix((total, {earlier}(total)))"),
    (2, "look at ctx in jvp", 's.record("{name} ctx", ctx)'),
)

TANGENTS = Table(
    (40, "", "fit(total, ctx.out_shapes[0])"),
    (30, "several tangents", "fits(total, ctx.out_shapes)"),
    (8, "tangent in place", "grads[0].mul_(2)"),
    (8, "tangent passed on", "grads[0]"),
    (6, "tangent as view", "grads[0].view_as(grads[0])"),
    (3, "None as tangent", "None"),
    (2, "None as tangent", "None, None"),
    (2, "tangent of a wrong shape", "torch.ones(7)"),
    (1, "non-tensor as tangent", "3.0"),
    (1, "tangent of another dtype", "total.to(torch.float64)"),
)

NO_RULE = Table((1, "", ""))


def _rule(draw, names, decorators, lines, results):
    name = names.draw(draw)
    if not name.code:
        return Rule(name, NO_RULE.draw(draw), (), name)
    return Rule(name, decorators.draw(draw), some(draw, lines, (75, 50, 30)), results.draw(draw))


@st.composite
def functions(draw):
    """A Function."""
    return Function(
        inputs=draw(st.integers(1, 3)),
        separate=chance(draw, 45),
        base=BASES.draw(draw),
        signature=SIGNATURES.draw(draw),
        classwide=some(draw, CLASSWIDE, (30, 10)),
        decorator=FORWARD_DECORATORS.draw(draw),
        y=VALUES.draw(draw),
        z=VALUES.draw(draw),
        lines=some(draw, LINES, (25, 30)),
        context=some(draw, CONTEXT, (85, 60, 40, 30)),
        returned=RESULTS.draw(draw),
        backward=_rule(draw, BACKWARDS, BACKWARD_DECORATORS, BACKWARD_LINES, GRADIENTS),
        jvp=_rule(draw, JVPS, NO_RULE, JVP_LINES, TANGENTS),
    )
