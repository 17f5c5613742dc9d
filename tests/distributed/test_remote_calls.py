# SPDX-License-Identifier: BSD-3-Clause
"""torch.distributed.autograd: a graph of custom Functions that goes on in another process, by remote calls."""

import tempfile

import pytest
import torch.distributed as dist
from harness.small_functions import make_square
from on_ranks import on_ranks
from torch.distributed import autograd, rpc

# A remote call names what it calls, so this is where it finds the Function of the variant.
_square = []


def square_there(x):
    return _square[-1].apply(x)


def class_of_node_there(x):
    return type(square_there(x).grad_fn).__name__


def begin_remote_calls():
    paths = [tempfile.mktemp()]
    dist.broadcast_object_list(paths)
    options = rpc.TensorPipeRpcBackendOptions(init_method=f"file://{paths[0]}", num_worker_threads=2)
    rank = dist.get_rank()
    rpc.init_rpc(f"worker{rank}", rank=rank, world_size=dist.get_world_size(), rpc_backend_options=options)


@pytest.fixture(autouse=True, scope="module")
def remote_calls(ranks):
    """Rank 0 may call the others."""
    ranks(2, "cpu").call(begin_remote_calls)
    yield
    ranks(2, "cpu").call(rpc.shutdown)


@on_ranks(device="cpu")
def a_graph_that_goes_through_another_process(s):
    _square.append(make_square(s.Function))
    dist.barrier()  # the other one has it too
    if dist.get_rank() == 0:
        x = s.randn(3, requires_grad=True)
        s.record("a node there", rpc.rpc_sync("worker1", class_of_node_there, (x,)))
        with autograd.context() as context:
            sent = square_there(x)
            out = square_there(rpc.rpc_sync("worker1", square_there, (sent,)))
            s.record("output", out.detach(), type(out.grad_fn).__name__)
            autograd.backward(context, [out.sum()])
            s.record("gradient", autograd.get_gradients(context)[x])
    dist.barrier()  # until then the other one serves
