"""One experiment on several processes: what each rank owns, and all that passes between them.

`torchrun` starts the ranks and tells each in its environment who it is and where they meet. With one rank every method
is an identity: nothing is connected and torch.distributed is never touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from hypermarl.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store, Work

_ADDRESS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ROLL_CALL = 5.0
"""Seconds in which those who are left tell each other that they are."""
_GRACE = 20.0
"""Seconds to wait for an accelerator after the job was told to end; torchrun kills after 30."""


class RankLost(UserError):
    """Another rank ended, or does not answer: what was to be done together cannot be."""


class Ranks:
    """This process, number `rank` of `count`; `local` counts those of one machine, and so its accelerators."""

    def __init__(self, rank: int = 0, count: int = 1, local: int = 0) -> None:
        self.rank = rank
        self.count = count
        self.ended = False  # whether somebody asked for the end, so that the others may be gone already
        self._local = local
        self._store: Store | None = None
        self._connected = False
        self._timeout = timedelta(minutes=10)

    @classmethod
    def of_environment(cls) -> Ranks:
        """Who torchrun says we are; one of one where it says nothing."""
        told = os.environ
        if any(name not in told for name in _ADDRESS):
            return cls()
        return cls(int(told["RANK"]), int(told["WORLD_SIZE"]), int(told.get("LOCAL_RANK", told["RANK"])))

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this rank writes the run folder, shows progress and evaluates."""
        return self.rank == 0

    # ------------------------------------------------------------------------------------------- what a rank owns

    def share(self, num_envs: int) -> int:
        """How many of `num_envs` environments are this rank's."""
        if num_envs % self.count:
            fitting = [count for count in range(1, num_envs + 1) if num_envs % count == 0]
            near = sorted(sorted(fitting, key=lambda count: abs(count - self.count))[:2])
            raise UserError(
                f"env.num_envs={num_envs} cannot be divided among {self.count} ranks; "
                f"start {' or '.join(map(str, near))}, or train with a multiple of {self.count} environments."
            )
        return num_envs // self.count

    def seed(self, *numbers: int) -> int:
        """A seed of this rank's own made of others; the first rank's is the number itself if there is but one."""
        if self.first and len(numbers) == 1:
            return numbers[0]
        return int(np.random.SeedSequence((*numbers, self.rank)).generate_state(1, np.uint64)[0]) >> 2

    def device(self, name: str) -> str:
        """`cuda` is an accelerator of this rank's own."""
        return f"cuda:{self._local}" if name == "cuda" and not self.alone else name

    def mine(self, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """This rank's part of what `gather` put together; None if that was on another number of ranks."""
        found = {key.split(".")[1] for key in state if key.startswith("rank.")}
        if max(len(found), 1) != self.count:
            return None
        own = "" if self.alone else f"rank.{self.rank}."
        return {key.removeprefix(own): value for key, value in state.items() if key.startswith(own)}

    # ------------------------------------------------------------------------------------------- coming and going

    def connect(self, device: torch.device, timeout: float = 600.0) -> None:
        """Meet the others; whoever waits for one of them longer than `timeout` seconds gives it up."""
        if self.alone:
            return
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore

        self._timeout = timedelta(seconds=timeout)
        _prefer_loopback()
        with self._together():
            store = self._meeting()
            store.set(f"here/{self.rank}", _own_process())
            self._await(f"here/{rank}" for rank in range(self.count))
            if device.type == "cuda":
                torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(
                backend,
                store=PrefixStore("group", store),
                rank=self.rank,
                world_size=self.count,
                timeout=self._timeout,
            )
            self._connected = True

    def close(self) -> None:
        """Leave; may be called again."""
        if self._connected:
            import torch.distributed as dist

            self._connected = False
            with suppress(RuntimeError):
                dist.destroy_process_group()

    def tells(self) -> bool:
        """Whether this rank is the first to tell of a mistake: a sentence is printed once, not by every rank."""
        if self.alone:
            return True
        self._timeout = min(self._timeout, timedelta(seconds=10))
        try:
            return bool(self._meeting().add("told", 1) == 1)
        except RuntimeError:  # nobody is there to ask: rather twice than never
            return True

    # ------------------------------------------------------------------------------------------- what all do at once

    def totals(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sums over ranks of tensors of one type, in one message; the same bits on every rank."""
        if self.alone:
            return list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._reduce(flat)
        return [part.view(t.shape) for part, t in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)]

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make every gradient the sum of all ranks' gradients."""
        if self.alone:
            return
        moved = [(p, p.grad) for p in parameters if p.grad is not None]
        for (parameter, _), total in zip(moved, self.totals([grad for _, grad in moved]), strict=True):
            parameter.grad = total

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        return flag if self.alone else bool(self.totals([torch.tensor([float(flag)])])[0] > 0)

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite `tensors` by those of the first rank."""
        if self.alone:
            return
        import torch.distributed as dist

        with self._together(), torch.no_grad():
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, 0)
                tensor.copy_(whole)

    def spread(self, words: dict[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The first rank's plain values and tensors, on every rank; what the others give is not looked at."""
        if self.alone:
            return words, dict(tensors)
        parts = [json.dumps(words).encode(), _packed(tensors)] if self.first else [b"", b""]
        told, packed = (self._pass_on(part) for part in parts)
        found = safetensors.torch.load(packed)
        return json.loads(told), {name: tensor.clone() for name, tensor in found.items()}  # aligned as torch allocates

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On the first rank everybody's, as `rank.<r>.<name>`; on others nothing. Of one rank, its own as they are."""
        if self.alone:
            return dict(tensors)
        import torch.distributed as dist

        packed = _bytes(_packed(tensors))
        sizes = torch.zeros(self.count, dtype=torch.int64)
        sizes[self.rank] = len(packed)
        (sizes,) = self.totals([sizes])
        longest = int(sizes.max())
        padded = torch.nn.functional.pad(packed, (0, longest - len(packed)))
        received = [torch.empty_like(padded) for _ in range(self.count)] if self.first else None
        with self._together():
            dist.gather(padded, received, 0)
        found: dict[str, Tensor] = {}
        for r, each in enumerate(received or ()):
            own = safetensors.torch.load(each[: int(sizes[r])].numpy().tobytes())
            found |= {f"rank.{r}.{name}": tensor for name, tensor in own.items()}
        return found

    def insist_alike(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise `UserError` unless all ranks hold these bits, as they do where machines compute alike."""
        if self.alone:
            return
        prints = torch.zeros(self.count, 32, dtype=torch.int64)
        prints[self.rank] = torch.tensor(list(hashlib.sha256(_packed(tensors)).digest()))
        (prints,) = self.totals([prints])
        unlike = [r for r in range(self.count) if not torch.equal(prints[r], prints[0])]
        if unlike:
            raise UserError(
                f"The parameters of rank {', '.join(map(str, unlike))} are no longer those of rank 0: "
                "the machines of a job must compute alike, so use one kind of processor and one build of torch."
            )

    def told(self, name: str, text: str) -> str:
        """The first rank's text, before the ranks are connected; the others wait for it."""
        if self.alone:
            return text
        with self._together():
            store = self._meeting()
            if self.first:
                store.set(name, text)
                return text
            self._await([name])
            return bytes(store.get(name)).decode()

    # ------------------------------------------------------------------------------------------------------ within

    def _reduce(self, tensor: Tensor) -> None:
        import torch.distributed as dist

        with self._together():
            if not tensor.is_cuda:
                dist.all_reduce(tensor)
                return
            work = dist.all_reduce(tensor, async_op=True)
            assert work is not None
            self._watch(work)
            work.wait()

    def _watch(self, work: Work) -> None:
        """Look whether an accelerator is done: it does not notice that another rank's process is gone."""
        begin = asked = time.monotonic()
        while not work.is_completed():
            now = time.monotonic()
            asked = asked if self.ended else now
            if now - begin > self._timeout.total_seconds() or now - asked > _GRACE:
                raise RuntimeError("another rank was waited for in vain")
            time.sleep(2e-5)

    def _pass_on(self, content: bytes) -> bytes:
        import torch.distributed as dist

        size = torch.tensor([len(content)])
        with self._together():
            dist.broadcast(size, 0)
            tensor = _bytes(content) if self.first else torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(tensor, 0)
        return tensor.numpy().tobytes()

    def _meeting(self) -> Store:
        """Where ranks leave words for each other: torchrun's store, or one in the first rank."""
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        if self._store is None:
            store, _, _ = next(iter(rendezvous("env://", timeout=self._timeout)))
            self._store = PrefixStore("hypermarl", store)
        return self._store

    def _await(self, keys: Iterable[str]) -> None:
        """Wait for words of others, unless one of them has failed before it could leave them."""
        store, wanted, until = self._meeting(), list(keys), time.monotonic() + self._timeout.total_seconds()
        while not store.check(wanted):
            if store.check(["told"]):
                raise RankLost("Another rank has failed.")
            if time.monotonic() > until:
                raise RuntimeError("another rank was waited for in vain")
            time.sleep(0.02)

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> RankLost:
        """Who is gone: a process that is no more, else whoever does not say that it is left."""
        self.close()  # so that whoever waits for us sees that it does in vain
        if self._store is None:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            return RankLost(f"Rank {self.rank} of {self.count} cannot reach the others at {place}.")
        silent, dead = [r for r in range(self.count) if r != self.rank], list[int]()
        try:
            store = self._meeting()
            store.set(f"left/{self.rank}", "1")
            until = time.monotonic() + _ROLL_CALL
            while silent and not dead and time.monotonic() < until:
                time.sleep(0.05)
                silent = [r for r in silent if not store.check([f"left/{r}"])]
                dead = [r for r in silent if store.check([f"here/{r}"]) and _is_no_more(store.get(f"here/{r}"))]
        except RuntimeError:  # the store is gone, and with it the machine of the first rank
            silent, dead = [], [] if self.first else [0]
        if not silent and not dead:
            return RankLost(f"The connection between the ranks failed: {str(error).splitlines()[0]}.")
        names = ", ".join(map(str, dead or silent))
        one = len(dead or silent) == 1
        what = ("has ended" if one else "have ended") if dead else ("does not answer" if one else "do not answer")
        return RankLost(f"{'Rank' if one else 'Ranks'} {names} of {self.count} {what}.")


def _own_process() -> str:
    """This process and its machine, or where containers count their processes apart, its container."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbering = ""
    return f"{os.getpid()} {socket.gethostname()} {numbering}"


def _is_no_more(process: bytes) -> bool:
    """Whether a process of this machine has ended; of others nothing is known."""
    pid, _, place = process.decode().partition(" ")
    if os.name != "posix" or place != _own_process().partition(" ")[2]:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    return False


def _prefer_loopback() -> None:
    """On one machine nothing is to be seen from outside, and the machine's name need not be known."""
    told = os.environ
    one_machine = told.get("LOCAL_WORLD_SIZE") == told["WORLD_SIZE"] or told["MASTER_ADDR"] in _LOOPBACK
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if one_machine and names:
        told.setdefault("GLOO_SOCKET_IFNAME", names[0])


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    # copied, because safetensors refuses tensors that share memory
    return safetensors.torch.save({k: t.detach().to("cpu", copy=True).contiguous() for k, t in tensors.items()})


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


ALONE = Ranks()
"""What a program is without torchrun."""
