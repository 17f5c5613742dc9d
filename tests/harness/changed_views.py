# SPDX-License-Identifier: BSD-3-Clause
"""Views whose base was changed in place since they were made."""

import torch


def changed_views(s):
    """Of a leaf and of a result, each to get a new node when somebody asks for it; and one that can't have one."""
    leaf = s.randn(2, 2, requires_grad=True)
    base = s.randn(2, 2, requires_grad=True) * 2
    views = {
        "a leaf's": leaf[0],
        "a result's": base[0],
        "negative": torch._neg_view(base),
        "one of several": base.unbind()[0],
    }
    with torch.no_grad():
        leaf.add_(1)
    base.mul_(2)
    return views
