# SPDX-License-Identifier: BSD-3-Clause
"""Where torch documents the names that our docstrings refer to. No network: the addresses are stated here."""

from docutils import nodes

TORCH = "https://docs.pytorch.org/docs/stable/"
ADDRESSES = {
    "torch.Tensor": "tensors.html#torch.Tensor",
    "torch.Tensor.register_hook": "generated/torch.Tensor.register_hook.html",
    "torch.Tensor.register_post_accumulate_grad_hook": "generated/torch.Tensor.register_post_accumulate_grad_hook.html",
    "torch.autograd.Function": "autograd.html#torch.autograd.Function",
    "torch.autograd.detect_anomaly": "autograd.html#torch.autograd.detect_anomaly",
    "torch.autograd.set_detect_anomaly": "autograd.html#torch.autograd.set_detect_anomaly",
    "torch.autograd.graph.Node.register_hook": "generated/torch.autograd.graph.Node.register_hook.html",
    "torch.autograd.graph.Node.register_prehook": "generated/torch.autograd.graph.Node.register_prehook.html",
    "torch.autograd.graph.register_multi_grad_hook": "autograd.html#torch.autograd.graph.register_multi_grad_hook",
}


def resolve(app, env, node, content):
    """Sphinx knows no such name."""
    address = ADDRESSES.get(node.get("reftarget"))
    return address and nodes.reference("", "", content, refuri=TORCH + address, internal=False)


def setup(app):
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
