"""The processes of a run as one object: what they agree on, add up and wait for. A single process needs no group."""

from __future__ import annotations

import contextlib
import gc
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.nn.parallel import DistributedDataParallel

from gptcli.distributed import sharding
from gptcli.distributed.peers import Peers
from gptcli.distributed.runtime import Ranks
from gptcli.errors import Fault, ToldElsewhereError, UsageError, UserError

T = TypeVar("T")


class Group:
    """All processes of the run; use as a context manager, so that the group is left however the run ends."""

    def __init__(self, ranks: Ranks, device: torch.device, store: Store | None = None) -> None:
        self.ranks, self.device, self._store = ranks, device, store
        self._hosts: dist.ProcessGroup | None = None
        self._peers: Peers | None = None
        self._mode: Literal["none", "optimizer", "full"] = "none"

    def __enter__(self) -> Group:
        if self.ranks.world_size > 1:
            on_cuda = self.device.type == "cuda"
            if on_cuda:
                torch.cuda.set_device(self.device)
            dist.init_process_group(
                "nccl" if on_cuda else "gloo",
                store=self._store,
                rank=self.ranks.rank,
                world_size=self.ranks.world_size,
                device_id=self.device if on_cuda else None,
            )
            # What hosts ask each other (shall we stop?) goes over gloo, so that it never waits for the device.
            self._hosts = dist.new_group(backend="gloo") if on_cuda else dist.group.WORLD
            self._peers = Peers(self.ranks)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ranks.world_size == 1 or not dist.is_initialized():
            return
        lost = _lost_connection(error)
        if self._peers:
            self._peers.leave(well=error is None)
        # Gloo's threads must end while the interpreter lives: one that holds a tensor when Python shuts down aborts the
        # process. They end with the last reference to their group, and a wrapped model is a cycle that holds one.
        self._hosts = self._peers = None
        gc.collect()
        if error is None or self.device.type != "cuda":  # NCCL would wait for ranks that are no more
            dist.destroy_process_group()
        gc.collect()
        if lost:
            raise UserError(
                f"Rank {self.ranks.rank} lost the connection to another process of the run.",
                "What that one says tells why. The same command can be started again; a run continues from its last "
                "checkpoint.",
            ) from error

    def spread(
        self,
        model: nn.Module,
        blocks: Iterable[nn.Module],
        mode: Literal["none", "optimizer", "full"],
        low_precision: torch.dtype | None,
    ) -> nn.Module:
        """The model, which lies on the CPU, moved to the device and made ready to be trained by all processes: each has
        a copy, and gradients are averaged while they are computed (DDP), or each has a part (`mode`; see `sharding`).
        `low_precision` is what a sharded model is gathered in, None for its own."""
        self._mode = mode if self.ranks.world_size > 1 else "none"
        if self._mode != "none":
            sharding.shard(model, blocks, self._mode, self.device, low_precision)
            return model
        model.to(self.device)
        if self.ranks.world_size == 1:
            return model
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)

    def accumulating(self, wrapped: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
        """Around a micro-batch's forward and backward pass: gradients are exchanged with the last one of a step."""
        if self._mode != "none":
            sharding.exchange(wrapped, self._mode, last)
        if last or not isinstance(wrapped, DistributedDataParallel):
            return contextlib.nullcontext()
        return wrapped.no_sync()

    def grad_norm(self, model: nn.Module) -> Tensor:
        """The norm of all gradients together, on the device."""
        grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        return sharding.whole(nn.utils.get_total_norm(grads))

    def gathered(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
        """Whole tensors on the first process, None on the others; all call it with the same names in the same order.
        What was in parts lies on the CPU then, what was whole where it was."""
        if self._mode == "none":
            return tensors if self.ranks.is_main else None
        found: dict[str, Tensor] = {}
        for name, tensor in tensors.items():  # one at a time: no device has to hold more than one
            full = sharding.whole(tensor)
            if self.ranks.is_main:
                found[name] = full.cpu()
        return found if self.ranks.is_main else None

    def put(self, target: Tensor, source: Tensor | None) -> None:
        """Fill `target` on every process with what the first one has as `source`, exact to the bit."""
        sharding.fill(target, source)

    def agree(self, flags: Sequence[int]) -> list[int]:
        """The largest of every process' flags, place by place."""
        if self.ranks.world_size == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.int64)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self._hosts)
        return [int(value) for value in values]

    def parts(self, model: nn.Module) -> Iterator[Tensor]:
        """What this process holds of each of the model's weights."""
        for parameter in model.parameters():
            yield sharding.part(parameter.detach())

    @property
    def is_sharded(self) -> bool:
        """Whether no process holds the whole model: its passes are taken by all together then."""
        return self._mode != "none"

    def sum(self, values: Tensor) -> Tensor:
        """`values` added up over all processes, in place."""
        if self.ranks.world_size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether any process says so: all get the same answer, and so do the same thing next."""
        if self.ranks.world_size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._hosts)
        return bool(flags)

    def gather(self, value: T) -> list[T]:
        """Every process' `value`, in the order of the ranks, on all of them."""
        if self.ranks.world_size == 1:
            return [value]
        values: list[T | None] = [None] * self.ranks.world_size
        dist.all_gather_object(values, value, group=self._hosts)
        return values  # type: ignore[return-value]  # all_gather_object has filled every place

    def on_main(self, work: Callable[[], T]) -> T:
        """Do `work` on the first process only and give its result to all. What it raises ends all of them: UserErrors
        with its exit code, anything else with 1."""
        if self.ranks.world_size == 1:
            return work()
        failure: BaseException | None = None
        told: list[tuple[T | None, int | None]] = [(None, None)]  # the result, or the exit code of a failure
        if self.ranks.is_main:
            try:
                told[0] = (work(), None)
            except BaseException as error:  # noqa: BLE001 (raised again below, once the others know)
                failure = error
                told[0] = (None, error.exit_code if isinstance(error, UserError) else 1)
        dist.broadcast_object_list(told, src=0, group=self._hosts)
        if failure is not None:
            raise failure
        result, exit_code = told[0]
        if exit_code is not None:
            raise ToldElsewhereError(exit_code)
        return result  # type: ignore[return-value]  # the broadcast has filled it

    def compare(self, facts: Mapping[str, str]) -> None:
        """See that all processes were started alike. Raises UsageError on all of them, with every difference and where
        it is, told by the first."""
        everywhere = self.gather((socket.gethostname(), dict(facts)))
        host, ours = everywhere[0]
        faults = [
            Fault(f"Rank 0 on {host} has {name} {ours.get(name)}; rank {rank} on {other} has {theirs.get(name)}.")
            for rank, (other, theirs) in enumerate(everywhere)
            for name in {**ours, **theirs}
            if ours.get(name) != theirs.get(name)
        ]
        if faults:
            hint = "Start the same command, with the same version of gpt and the same data, on every machine."
            raise self.told_once(UsageError(faults=[*faults[:-1], Fault(faults[-1].message, hint)]))

    def told_once(self, error: UserError) -> UserError:
        """`error` as this process is to raise it when all of them do: the first tells it, the others end silently."""
        return error if self.ranks.is_main else ToldElsewhereError(error.exit_code)


def _lost_connection(error: BaseException | None) -> bool:
    """Whether a collective failed because another process is no more. Gloo has no class of its own for that."""
    signs = ("Connection reset by peer", "Connection closed by peer", "Broken pipe")
    return isinstance(error, dist.DistNetworkError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )
