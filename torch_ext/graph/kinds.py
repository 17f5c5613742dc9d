# SPDX-License-Identifier: BSD-3-Clause
"""Kinds of nodes, for colours: what an operator does, by its name."""

import re

from torch.autograd.graph import Node

from .. import _compat
from ..anomaly.graph import name_of

# Tints of colours that the colour-blind can tell apart; each kind has its word in the legend.
COLOURS = {
    "parameter": "#9CC9E8",
    "leaf": "#8FD3B6",
    "custom Function": "#F2A28C",
    "product or convolution": "#F4BE7E",
    "normalisation, loss or reduction": "#D3C8EF",
    "shape or copy": "#E3E6EA",
    "other operator": "#FFFFFF",
}

_PRODUCTS = r"Addmm|Mm|Bmm|Baddbmm|Addbmm|Addmv|Addr|Mv|Dot|Linear|\w*Conv\w*|\w*Attention\w*|\w*(?:Lstm|Gru|Rnn)\w*"
_REDUCTIONS = (
    r"Sum|Nansum|Mean|Std|Var|StdMean|VarMean|Prod|Max|Min|Amax|Amin|Logsumexp|Cumsum|Cumprod|\w*Loss\w*|\w*Norm\w*|"
    r"\w*Softmax|\w*Pool\w*|\w*CrossEntropy\w*"
)
_SHAPES = (
    r"T(?=B)|Transpose|Permute|View\w*|UnsafeView|Reshape\w*|Expand|Squeeze|Unsqueeze|Slice\w*|Select\w*|Index\w*|"
    r"Gather|Scatter\w*|Cat|Stack|Split\w*|UnsafeSplit|Unbind|Chunk|Clone|Copy\w*|ToCopy|Alias|AsStrided\w*|"
    r"Repeat\w*|Roll|Flip|Narrow|Unfold|\w*Pad\w*|Embedding|Diagonal|Triu|Tril"
)
_BY_NAME = tuple(
    (kind, re.compile(rf"(?:{names})(?:Backwards?\d*)?$"))
    for kind, names in (
        ("product or convolution", _PRODUCTS),
        ("normalisation, loss or reduction", _REDUCTIONS),
        ("shape or copy", _SHAPES),
    )
)


def kind_of(node: Node) -> str:
    """One of COLOURS; "leaf" for parameters too."""
    if _compat.variable_of(node) is not None:
        return "leaf"
    if not _compat.is_of_torch(node):
        return "custom Function"
    name = short_name(node)
    return next((kind for kind, pattern in _BY_NAME if pattern.match(name)), "other operator")


def short_name(node: Node) -> str:
    """The node's name without C++'s namespaces."""
    return name_of(node).rpartition("::")[2]
