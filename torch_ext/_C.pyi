# SPDX-License-Identifier: BSD-3-Clause
"""The C++ part of torch_ext. Not public: use what ``torch_ext`` exports."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

import torch
from typing_extensions import disjoint_base

torch_version: str
"""The torch release that the extension was compiled for."""

@disjoint_base
class Ctx(torch._C._FunctionBase):
    """The ctx of a Function's call, and the grad_fn of what it returned.

    ``apply`` creates them, of a subclass that is also a subclass of the
    ``BackwardCFunction`` that torch created for the Function.
    """

    to_save: tuple[Any, ...] | None
    saved_for_forward: tuple[Any, ...] | None
    dirty_tensors: tuple[Any, ...] | None
    non_differentiable: tuple[Any, ...] | None
    # torch's own stub of these says less: an ignored error is a difference from it.
    needs_input_grad: tuple[bool, ...] | None  # type: ignore[assignment]
    _materialize_non_diff_grads: bool
    _compiled_autograd_backward_state: Any
    @property
    def saved_tensors(self) -> tuple[torch.Tensor | None, ...]: ...  # type: ignore[override]
    @property
    def saved_variables(self) -> tuple[torch.Tensor | None, ...]: ...
    @property
    def _raw_saved_tensors(self) -> tuple[Any, ...]: ...  # type: ignore[override]
    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]: ...  # type: ignore[override]
    @property
    def metadata(self) -> dict[str, Any]: ...  # type: ignore[override]
    @property
    def _input_metadata(self) -> tuple[Any, ...]: ...
    @property
    def requires_grad(self) -> bool: ...
    # These two can be set, but not read.
    materialize_grads: bool
    _is_pure_view: bool
    def name(self) -> str: ...
    def register_hook(self, hook: Any) -> torch.utils.hooks.RemovableHandle: ...
    def register_prehook(self, hook: Any) -> torch.utils.hooks.RemovableHandle: ...
    def maybe_clear_saved_tensors(self) -> None: ...
    def _register_hook_dict(self, tensor: torch.Tensor) -> None: ...
    def _sequence_nr(self) -> int: ...
    def _set_sequence_nr(self, sequence_nr: int) -> None: ...
    def _get_compiled_autograd_symints(self) -> tuple[int | torch.SymInt, ...]: ...

output_grad_dtypes: Any
"""A descriptor: ctx.output_grad_dtypes for a torch whose ctx has none."""

apply: classmethod[Any, ..., Any]
"""What stands in a class as ``apply``: a classmethod of Python or of C, as torch's own."""

torch_function: TypeAlias = torch.autograd.Function
"""torch's class, whatever the name ``torch.autograd.Function`` means now."""

torch_apply: classmethod[Any, ..., Any]
"""torch's own ``apply``, as it stood in ``torch_function`` at import."""

kept: dict[str, Any]
"""What torch_ext's modules keep if they are reloaded, or removed and imported again."""

def apply_for(cls: type[torch.autograd.Function], /) -> classmethod[Any, ..., Any]:
    """What accelerate() puts into ``cls``: ``apply``, which pickles by value don't send."""

def set_framed_apply(function: Callable[..., Any], get_callback: Callable[[], Any], /) -> None:
    """What ``apply`` calls while somebody looks at frames or calls.

    Profilers of Python's do, torch.jit.trace while it records, and torch.compile on threads on which ``get_callback()``
    is not None. It gets a method of C++, which does the work, and the arguments: the class, and the method's own.
    """

def give_backports(cls: type[torch.autograd.Function], of_ctx: dict[str, Any], /) -> None:
    """Gives the subclasses of ``cls`` what newer releases of torch have, and their ctx the attributes ``of_ctx``."""

def tensor_hooks(tensor: torch.Tensor, /) -> dict[int, Callable[..., Any]]:
    """The tensor's ``_backward_hooks``, created and attached on first use."""

def post_accumulate_grad_hooks(tensor: torch.Tensor, /) -> dict[int, Callable[..., Any]]:
    """The leaf's ``_post_accumulate_grad_hooks``, created and attached on first use."""

def register_prehook(node: torch.autograd.graph.Node, hook: Callable[..., Any], /) -> torch.utils.hooks.RemovableHandle:
    """``node.register_prehook(hook)``, run by torch_ext if it is the first."""

def register_posthook(
    node: torch.autograd.graph.Node, hook: Callable[..., Any], /
) -> torch.utils.hooks.RemovableHandle:
    """``node.register_hook(hook)``, run by torch_ext if it is the first."""

@final
class LazyTraceback(list[str]):
    """The list of strings that ``traceback.format_stack()`` would have given, created on the first read."""

    def frames(self) -> list[tuple[str, int, str, str]]:
        """The stack as a list of (file, line, function, source line), outermost first."""

def use_our_anomaly_metadata(ours: bool, /) -> bool:
    """Decides whether nodes get torch_ext's metadata in anomaly mode from now on. Returns what held before."""

def changed_saved(node: torch.autograd.graph.Node, /) -> tuple[torch.Tensor, int, int] | None:
    """(tensor, its number, how many are saved) of what a node has saved and has changed since.

    None if nothing has.
    """

def take_late_evidence() -> list[tuple[torch.autograd.graph.Node, tuple[torch.Tensor | None, ...]]]:
    """Nodes that ran after the one that a deferred check has named on this thread, and what each had saved."""

def can_be_read(tensor: torch.Tensor, /) -> bool:
    """Whether operators can read the values while no code of a subclass, a mode or a transform of torch.func runs.

    A wrapper has no memory of its own, and a sharded parameter's may be away: operators would crash.
    """

def has_numbers(tensor: torch.Tensor, /) -> bool:
    """Whether the tensor's numbers may be not finite, and can be read without code of a subclass, a mode or so."""

def set_anomaly_checks(
    loss: bool, inf: bool, forward: bool = False, saved: bool = False, every: int = -1, /
) -> tuple[bool, bool, bool, bool, int]:
    """Decides what anomaly mode checks besides NaN in backward. Returns what held before.

    ``loss``: what backward is called on and with; ``inf``: whether values are infinite; ``forward``: what operators
    return, when they do; ``saved``: what nodes have saved. ``every``: if not
    negative, gradients are looked at after so many nodes, 0 for the end of backward.
    """

def make_reporting_engine(engine: Any, /) -> Any:
    """An engine like torch's ``engine`` that reports on a backward that fails in anomaly mode."""

def node_of_root(tensor: torch.Tensor, /) -> torch.autograd.graph.Node | None:
    """The node that a backward from ``tensor`` starts at; None if there is none. Adds nothing to the graph."""

def notes_of(node: torch.autograd.graph.Node, /) -> tuple[int, int] | None:
    """(made_in, freed_by): how many backwards had begun when ``node`` was made, and which freed it, 0 for none.

    None if the node was not made in torch_ext's anomaly mode.
    """

def backwards() -> int:
    """How many backwards have begun in anomaly mode, in this process."""

def backward_call(number: int, /) -> LazyTraceback | None:
    """The stack on which a backward was called; None if it is forgotten."""

def changes_of(tensor: torch.Tensor, version: int, /) -> list[tuple[str, int, int, LazyTraceback]]:
    """What is known to have changed ``tensor`` in place since it had ``version``, in order.

    For each the operator's name, the versions before and after, and the stack.
    """

def cuts_of(of: torch.Tensor | torch.autograd.graph.Node, /) -> tuple[int, ...]:
    """Numbers of the cuts that a tensor's values come from, or values that a node was made from."""

def cut(number: int, /) -> tuple[str, str, LazyTraceback, bool] | None:
    """A place in which values left the graph: operator, reason, stack, whether all leaves behind it are known.

    None if it is forgotten.
    """

def cuts_from(leaf: torch.Tensor, /) -> tuple[int, ...]:
    """Numbers of the cuts through which values computed from ``leaf`` went."""

def forget_notes() -> None:
    """Forgets the calls of backward, the changes and the cuts that are known."""

def graph_objects() -> list[Any]:
    """The tensors and the nodes that Python's garbage collector knows."""

def referrers_of(targets: Sequence[Any], /) -> list[Any]:
    """What holds any of the targets, as Python's garbage collector knows."""

def read_saved(node: torch.autograd.graph.Node, name: str, /) -> tuple[tuple[Any, Any], ...] | None:
    """(data, unpack hook) of each saved tensor that the node has by this name; None while a backward runs the node."""

def note_only(on: bool, /) -> bool:
    """Decides whether anomaly mode only lets nodes note where they are made. Returns what held before."""

def start_timing(on_call: Callable[[type, Any, Any, int, bool], int], /) -> int:
    """Times the calls of Functions from now on.

    ``on_call(class, arguments, result, number of saved tensors, whether there is a node)`` returns the row in which the
    calls of a class are counted. It is called for a class's first call without a node, and its first one with one; with
    None for arguments and result if a call of backward is the first of all.
    """

def stop_timing(number: int, /) -> None:
    """Times calls no longer, for the one whom :func:`start_timing` gave the number, and forgets what was timed."""

def timed_calls(number: int, /) -> list[tuple[tuple[int, int, int, int, list[tuple[int, int]]], ...]]:
    """For each row, for calls without a node, for those with one, and for those of backward.

    (calls, nanoseconds, those of the user's code, bytes saved, [(nanoseconds, those of the user's code)] of some calls)
    """

def fail_at_exit(status: int, /) -> None:
    """Lets the process end with ``status`` if it would end with 0."""

def recent_cuts(number: int, /) -> tuple[int, ...]:
    """Numbers of the cuts since so many backwards had begun."""

def observe_operators(on: bool, /) -> bool:
    """Looks at operators that change a tensor or may cut the graph, on this thread, or no longer.

    Returns what held before.
    """

def observes_operators() -> bool:
    """Whether this thread looks at operators."""

def follow_operators(on: bool, /) -> None:
    """Follows values that have left the graph through all operators on this thread; with False, for one wish less."""

def source_range() -> torch._C._jit_tree_views.SourceRange:
    """Where the caller is: the line of its innermost Python frame, and the whole stack as the text."""

def create_graph_by_tracing(
    func: Callable[..., Any],
    inputs: Sequence[Any],
    var_name_lookup_fn: Callable[[torch.Tensor], str] | None = None,
    strict: bool = True,
    force_outplace: bool = False,
    self: torch.jit.ScriptModule | torch._C.ScriptModule | None = None,
    argument_names: Sequence[str] = (),
) -> tuple[torch._C.Graph, list[Any]]:
    """Calls ``func(*inputs)`` and records its operators."""

def create_graph_by_tracing_with_dict(
    func: Callable[..., Any],
    inputs_dict: dict[str, Any],
    inputs: Sequence[Any] = (),
    var_name_lookup_fn: Callable[[torch.Tensor], str] | None = None,
    strict: bool = True,
    force_outplace: bool = False,
    self: torch.jit.ScriptModule | torch._C.ScriptModule | None = None,
    argument_names: Sequence[str] = (),
) -> tuple[torch._C.Graph, list[Any]]:
    """Calls ``func(**inputs_dict)`` and records its operators."""

def get_tracing_state() -> torch._C.TracingState | None:
    """What the tracer records into on this thread; None if it records nothing."""

def set_tracing_state(state: torch._C.TracingState | None, /) -> None:
    """Records into ``state`` from now on, on this thread; None ends recording."""

def get_value_trace(var: torch.Tensor, /) -> torch._C.Value:
    """The graph's value for a tensor. One from outside the trace becomes a constant."""

def set_value_trace(var: torch.Tensor, value: torch._C.Value, /) -> None:
    """Makes ``value`` the graph's value for a tensor from now on."""
