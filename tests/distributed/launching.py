# SPDX-License-Identifier: BSD-3-Clause
"""Processes that are the ranks of one process group, and what becomes of them."""

import datetime
import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import signal
import tempfile
import traceback
from dataclasses import dataclass

import torch
import torch._dynamo  # as the wrappers of torch.distributed do at their first use: here it is imported for all forks
import torch.distributed as dist

# What the other ranks wait for one that has left them; and what a test waits for all of them.
PATIENCE = datetime.timedelta(seconds=60)
LIMIT_S = 180


@dataclass(frozen=True)
class Outcome:
    """What became of one rank's call.

    Attributes:
        returned: what the call returned; None if it didn't.
        raised: the traceback of what it raised; None if it raised nothing.
        status: how the process ended, negative for a signal's number; None if it goes on.
    """

    returned: object = None
    raised: str | None = None
    status: int | None = None


class Ranks:
    """``count`` processes in one group, which call what they are told to, all at once.

    On a CPU they are forks of this process, so that nothing is imported again, and talk by gloo. With a GPU for each
    they are started anew, since what has used CUDA can't be forked, and talk by NCCL.

    Args:
        count: how many.
        device: "cpu", or "cuda" if there are as many GPUs.
    """

    def __init__(self, count, device=torch.device("cpu")):
        context = multiprocessing.get_context("fork" if device.type == "cpu" else "spawn")
        self._store = tempfile.TemporaryDirectory()
        path = os.path.join(self._store.name, "store")
        self._connections, theirs = zip(*(context.Pipe() for _ in range(count)), strict=True)
        # A fork has these ends too, and would never see them closed.
        inherited = self._connections if context.get_start_method() == "fork" else ()
        self._processes = [
            context.Process(target=_serve, args=(rank, count, device.type, path, end, inherited), daemon=True)
            for rank, end in enumerate(theirs)
        ]
        for process, end in zip(self._processes, theirs, strict=True):
            process.start()
            end.close()

    def call(self, function, *args):
        """What ``function(*args)`` returns on each rank; the function is one that a module has by its name.

        Raises:
            AssertionError: one of them raised, died or took too long; it has what all of them said. No rank lives then.
        """
        __tracebackhide__ = True
        outcomes = self.outcomes(function, *args, stop_at_failure=True)
        failures = [
            f"rank {rank}: {each.raised or each}" for rank, each in enumerate(outcomes) if each.returned is None
        ]
        assert not failures, "\n".join(failures)
        return [each.returned[0] for each in outcomes]

    def outcomes(self, function, *args, stop_at_failure=False, last=False):
        """What became of ``function(*args)`` on each rank; ``returned`` is a tuple of one. If one fails, all end.

        With ``last`` each ends as soon as it has answered, without taking leave of the others, as a program that fails.

        Raises:
            AssertionError: it took longer than ``LIMIT_S``; where each rank was is on stderr.
        """
        for connection in self._connections:
            connection.send((function, args, last))
        outcomes = [None] * len(self._connections)
        while None in outcomes:
            waited_for = [self._connections[rank] for rank, each in enumerate(outcomes) if each is None]
            ready = multiprocessing.connection.wait(waited_for, LIMIT_S)
            if not ready:
                self._show_stacks()
                self.kill()
                raise AssertionError(f"no answer after {LIMIT_S} s")
            for connection in ready:
                rank = self._connections.index(connection)
                outcomes[rank] = self._receive(rank)
                if stop_at_failure and outcomes[rank].returned is None:
                    self.kill()
        if last or any(each.returned is None for each in outcomes):
            self.kill()
        return outcomes

    def _receive(self, rank):
        try:
            return self._connections[rank].recv()
        except (EOFError, ConnectionResetError):
            self._processes[rank].join()
            return Outcome(status=self._processes[rank].exitcode)

    @property
    def alive(self):
        """Whether all of them are."""
        return all(process.is_alive() for process in self._processes)

    def _show_stacks(self):
        for process in self._processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGUSR1)
                process.join(1)

    def kill(self):
        """Ends all of them at once."""
        for process in self._processes:
            process.kill()
        self._clean_up()

    def close(self):
        """Lets them leave the group, and end."""
        for connection in self._connections:
            connection.send(None)  # another group, forked later, may have the connection too
        self._clean_up()

    def _clean_up(self):
        for process in self._processes:
            process.join()
        self._store.cleanup()


def _serve(rank, count, device, path, connection, inherited):
    """Calls what comes by ``connection``, until None comes or nobody is there to send anything."""
    for end in inherited:
        end.close()
    faulthandler.register(signal.SIGUSR1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.FileStore(path, count), rank=rank, world_size=count, timeout=PATIENCE)
    while (task := _next(connection)) is not None:
        function, args, last = task
        try:
            outcome = Outcome(returned=(function(*args),))
        except BaseException:
            outcome = Outcome(raised=traceback.format_exc())
        connection.send(outcome)
        if last:
            os._exit(0)
    dist.destroy_process_group()


def _next(connection):
    try:
        return connection.recv()
    except EOFError:
        return None
