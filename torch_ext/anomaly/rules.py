# SPDX-License-Identifier: BSD-3-Clause
"""What is known of torch's operators: which of them can turn finite values into others.

By the names of their nodes without "Backward0" and the like. An operator that is in no table can do anything.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd.graph import Node

from .. import _C, _compat
from .facts import Value

# What they return is among what they are given, but for zeros and signs.
MOVES = frozenset(
    """
    Abs AdaptiveMaxPool2D AdaptiveMaxPool3D Alias Amax Amin AsStrided Cat Clamp ClampMax ClampMin Clone Complex
    Conj ConjPhysical ConstantPadNd Copy CopySlices Cummax Cummin DiagEmbed Diagonal Embedding Expand Fill Flip
    Fmax Fmin Gather Hardtanh Im2Col Index IndexFill IndexPut IndexPutImpl IndexSelect Kthvalue LeakyRelu Lift
    LiftFresh MaskedFill MaskedScatter MaskedSelect Max Maximum MaxPool2DWithIndices MaxPool3DWithIndices
    MaxUnpool2D MaxUnpool3D Median Min Minimum Mode NarrowCopy Neg NegView Permute PinMemory PixelShuffle
    PixelUnshuffle ReflectionPad1D ReflectionPad2D ReflectionPad3D Relu Repeat ReplicationPad1D ReplicationPad2D
    ReplicationPad3D ReshapeAlias ReshapeCopy Roll Rot90 Scatter Select SelectScatter Slice SliceScatter Sort
    Split SplitWithSizes Squeeze Stack T Take Threshold ToCopy Topk ToSparse Transpose Tril Triu Trunc Unbind
    Unfold UnsafeIndex UnsafeIndexPut UnsafeSplit UnsafeSplitWithSizes UnsafeView Unsqueeze UpsampleNearest1D
    UpsampleNearest2D View ViewAsComplex ViewAsReal Where Zero
    """.split()
)
# They put in what is no edge of the graph: a number, say.
FILLS = frozenset(
    """
    ConstantPadNd CopySlices Fill IndexFill MaskedFill Scatter Threshold
    """.split()
)
# Finite for whatever is finite, and small.
BOUNDED = frozenset(
    """
    Angle Atan Ceil Cos Erf Erfc Floor Frac Hardsigmoid NanToNum Round SafeSoftmax Sgn Sigmoid Sign Sin Sinc
    Softmax Tanh
    """.split()
)
# They give NaN for NaN only.
KEEPS_NAN = frozenset("Atan Erf Erfc Exp Exp2 Expm1 Sigmoid Square Tanh".split())
ADDS = frozenset(["Add", "Sub", "Rsub"])
SUMS = frozenset(
    """
    AdaptiveAvgPool2D AdaptiveAvgPool3D AvgPool2D AvgPool3D Cumsum Mean Sum Trace
    """.split()
)
PRODUCTS = frozenset(
    """
    Addmm Addmv Baddbmm Bmm Convolution Dot Linear Mm Mul Mv Square
    """.split()
)
# Whatever is not finite in an input is so in an output too.
PASSES_ON = frozenset(
    """
    Abs Add Addmm Alias Bmm Cat Clone Expand Log Log10 Log2 LogSoftmax Mean Mm MseLoss Mul Mv NativeBatchNorm
    NativeLayerNorm Neg Permute ReshapeAlias Rsub Sqrt Squeeze Stack Sub Sum T ToCopy Transpose UnsafeView
    Unsqueeze View
    """.split()
)
# Names of saved tensors that were given to the operator. Others are its own results.
INPUTS = frozenset(
    """
    A B batch1 batch2 bias cx end exponent grad grad_output grid hx input input1 input2 input3 key log_probs mat
    mat1 mat2 max min noise other per_sample_weights pos_weight query running_mean running_var scale self source
    src target tau tensor tensor1 tensor2 value values variable vec vec1 vec2 weight x1 x2
    """.split()
)

# Recomputed in forward from these operands.
_Replay = tuple[Callable[..., torch.Tensor], tuple[str, ...]]
_REPLAYS: dict[str, _Replay] = {
    **{
        name: (getattr(torch, name.lower()), ("self",))
        for name in """Acos Acosh Asin Asinh Atan Atanh Cos Cosh Digamma Erf Erfc Lgamma Log Log10 Log1P Log2 Reciprocal
        Sin Sinh Square""".split()
    },
    "Erfinv": (torch.erfinv, ("self",)),
    "Logit": (torch.logit, ("self",)),
    "Gelu": (torch.nn.functional.gelu, ("self",)),
    "Silu": (torch.nn.functional.silu, ("self",)),
    "Abs": (torch.abs, ("self",)),
    "Mul": (torch.mul, ("self", "other")),
    "Div": (torch.div, ("self", "other")),
    "Atan2": (torch.atan2, ("self", "other")),
    "Hypot": (torch.hypot, ("self", "other")),
    "Xlogy": (torch.xlogy, ("self", "other")),
    "Fmod": (torch.fmod, ("self", "other")),
    "Remainder": (torch.remainder, ("self", "other")),
    "Mm": (torch.mm, ("self", "mat2")),
    "Bmm": (torch.bmm, ("self", "mat2")),
    "Mv": (torch.mv, ("self", "vec")),
    "Dot": (torch.dot, ("self", "tensor")),
    "Pow": (torch.pow, ("self", "exponent")),
    "Cumprod": (lambda x, dim: x.cumprod(dim), ("self", "dim")),
    "Prod": (lambda x: x.prod(), ("self",)),
    "Exp2": (torch.exp2, ("self",)),
}


def base_name(node: Node) -> str:
    """The operator's name: Sqrt for a SqrtBackward0."""
    return re.sub(r"Backward\d*$", "", type(node).__name__)


# --- Computing again ----------------------------------------------------------------------------


def replay(node: Node, saved: Mapping[str, torch.Tensor], tensors: Mapping[Any, torch.Tensor]) -> torch.Tensor | None:
    """What the operator returned, computed again from what its node has saved; None if that can't be done."""
    if not _compat.is_of_torch(node) or base_name(node) not in _REPLAYS:
        return None
    function, names = _REPLAYS[base_name(node)]
    if "result" in saved:
        return None
    operands = [_operand(node, index, name, saved, tensors) for index, name in enumerate(names)]
    if any(operand is None or (_compat.is_tensor(operand) and not _C.can_be_read(operand)) for operand in operands):
        return None
    try:
        with _compat.without_overrides(), _compat.without_autocast(), torch.no_grad():
            return function(*operands)
    except (RuntimeError, NotImplementedError, TypeError, IndexError):
        return None


def _operand(
    node: Node, index: int, name: str, saved: Mapping[str, torch.Tensor], tensors: Mapping[Any, torch.Tensor]
) -> Any:
    if name in saved:
        return saved[name]
    if index < len(node.next_functions):
        source, output = node.next_functions[index]
        if source is not None:
            leaf = _compat.variable_of(source)
            return tensors.get((id(source.metadata), output)) if leaf is None else leaf
    return _compat.saved_attribute(node, name)


# --- Following from others -----------------------------------------------------------------------


def derive(node: Node, inputs: Sequence[Value], hidden: bool, size: int, limit: float) -> Value | None:
    """What follows for the operator's results from what it was given, all of it sound; None if nothing does.

    Args:
        node: the operator's.
        inputs: what it was given.
        hidden: whether something else was given to it that is not known.
        size: how many numbers the largest input has.
        limit: the greatest finite number.
    """
    name = base_name(node)
    if not _compat.is_of_torch(node) or hidden or not inputs or size == 0:
        return None
    largest = max(value.largest for value in inputs)
    finite = all(value.finite for value in inputs)
    if name in MOVES:
        largest = max([largest, *_bounds_of_clamp(node)])
        return Value(0, sum(value.infs for value in inputs), largest, not finite) if largest <= limit else None
    if not finite:
        return None
    if name in BOUNDED:
        return Value(largest=max(4.0, largest + 1))
    if name in ADDS:
        bound = sum(value.largest for value in inputs) * _factor(node)
    elif name in SUMS:
        bound = largest * size
    elif name in PRODUCTS:
        bound = float(size)
        for value in inputs:
            bound *= max(value.largest, 1.0)
        bound = (bound + sum(value.largest for value in inputs)) * _factor(node)
    else:
        return None
    return Value(largest=bound) if bound <= limit else None


def _factor(node: Node) -> float:
    """An upper bound of what an operator multiplies its inputs by besides."""
    factor = 1.0
    for name in ("alpha", "beta"):
        number = _compat.saved_attribute(node, name)
        if number is not None:
            factor *= max(1.0, abs(number))
    return factor


def _bounds_of_clamp(node: Node) -> list[float]:
    """The magnitudes of the numbers that a clamp puts in. An infinite one never comes out."""
    numbers = (_compat.saved_attribute(node, name) for name in ("min", "max"))
    bounds = [abs(number) for number in numbers if isinstance(number, (int, float)) and not math.isinf(number)]
    return [math.inf if math.isnan(bound) else bound for bound in bounds]


def hides_inputs(node: Node, known: int) -> bool:
    """Whether something may have been given to the operator that is neither an edge nor among ``known`` constants."""
    missing = sum(source is None for source, _ in node.next_functions)
    return base_name(node) in FILLS or missing > known


def only_moves(node: Node) -> bool:
    """Whether the operator can't make NaN out of finite values."""
    return _compat.is_of_torch(node) and (base_name(node) in MOVES or base_name(node) in ADDS)


def came_with(node: Node, nans: int, narrows: bool) -> bool:
    """Whether what is wrong with the results was wrong in what was given. ``narrows``: to a type that holds less."""
    name = base_name(node)
    if not _compat.is_of_torch(node):
        return False
    return bool((name in MOVES and (nans or not narrows)) or (name in KEEPS_NAN and nans))


def passes_on(node: Node) -> bool:
    """Whether finite results prove that what came by the graph's edges was finite."""
    return _compat.is_of_torch(node) and base_name(node) in PASSES_ON
