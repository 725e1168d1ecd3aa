"""Several processes that train one experiment: the same gradient, the same bits, one folder, and no hang."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Protocol

import pytest
import ranks_job
import safetensors.torch
import torch
from ranks_job import GRADIENTS
from small import QUIET, TINY, config
from small_train import FRAMES, rows, same, tensors

from hypermarl.errors import UserError
from hypermarl.marl import ranks as module
from hypermarl.marl.learner import Learner
from hypermarl.marl.ranks import ALONE, Ranks
from hypermarl.marl.rollout import Collector
from hypermarl.marl.train import Experiment
from hypermarl.runs import RunFolder

HERE = Path(__file__).parent
# as many frames an iteration as in test_train
WORDS = ("env.num_envs=6", "train.steps=4", "train.checkpoint_every=2", "algorithm.epochs=2", "algorithm.minibatches=2")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")


class Rank(Protocol):
    pid: int
    exitcode: int | None

    def start(self) -> None: ...
    def join(self, timeout: float) -> None: ...
    def kill(self) -> None: ...


@pytest.fixture(scope="module")
def make() -> Iterator[Callable[..., Rank]]:
    """Processes that have everything imported already: their parent has, and is forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ranks_job"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    yield context.Process
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


class Job:
    """`count` ranks of one task, started as torchrun would: they meet here, or if not `hosted` at the first of them."""

    def __init__(
        self,
        make: Callable[..., Rank],
        count: int,
        task: str,
        folder: Path,
        words: Sequence[str],
        hosted: bool = True,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        port = self.store.port
        if not hosted:
            del self.store
        place = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
        place |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": str(hosted)}
        places = [{**place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        self.ranks = [make(target=ranks_job.work, args=(own, task, str(folder), words)) for own in places]
        for each in self.ranks:
            each.start()

    def wait(self, *ranks: int, seconds: float = 300.0) -> list[int | None]:
        """Exit codes of those ranks; none is left running."""
        waited = [self.ranks[rank] for rank in ranks or range(len(self.ranks))]
        for each in waited:
            each.join(seconds)
        codes = [each.exitcode for each in waited]
        for each in self.ranks:
            each.kill()
            each.join(10.0)
        return codes

    def until_saved(self) -> None:
        until = time.monotonic() + 240
        while not list(self.folder.glob("one/checkpoints/0*")):
            assert all(each.exitcode is None for each in self.ranks), self.said
            assert time.monotonic() < until
            time.sleep(0.02)

    @property
    def said(self) -> str:
        return "".join((self.folder / f"{rank}.err").read_text() for rank in range(len(self.ranks)))


Task = Callable[..., list[dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def job(make: Callable[..., Rank]) -> Task:
    """What each rank of a task that goes well found."""

    def do(count: int, task: str, folder: Path, *words: str) -> list[dict[str, torch.Tensor]]:
        started = Job(make, count, task, folder, words)
        codes = started.wait()
        assert codes == [0] * count, started.said
        return [safetensors.torch.load_file(folder / f"{rank}.safetensors") for rank in range(count)]

    return do


# ------------------------------------------------------------------------------------------------ learning as one


@pytest.fixture(scope="module", params=[2, 3])
def compared(request: Any, tmp_path_factory: pytest.TempPathFactory, job: Task) -> list[dict[str, torch.Tensor]]:
    return job(request.param, "gradients", tmp_path_factory.mktemp("gradients"))


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_are_those_of_one_process(compared: list[dict[str, torch.Tensor]], case: str) -> None:
    """Of every minibatch, to rounding, with unlike shares; so are the losses and the statistics of values."""
    for found in compared:
        keys = [key.removeprefix(f"one/{case}/") for key in found if key.startswith(f"one/{case}/")]
        assert sum(key.startswith("terms/") for key in keys) >= 5
        largest = 0.0
        for key in keys:
            one, several = found[f"one/{case}/{key}"], found[f"several/{case}/{key}"]
            torch.testing.assert_close(several, one, atol=1e-6, rtol=1e-5, msg=lambda told, key=key: f"{key}: {told}")
            if key[0].isdigit():
                largest = max(largest, float(one.abs().max()))
                assert torch.equal(several, compared[0][f"several/{case}/{key}"]), "the same bits on every rank"
        assert largest > 1e-2


@pytest.mark.parametrize(
    "count, words",
    [
        (2, (*WORDS, "seeds=2", "algorithm.value_norm=true")),
        (3, ("env.num_envs=3", "model=gru", "algorithm.epochs=2", "algorithm.minibatches=1")),
        (
            2,
            (*WORDS, "env=vmas/navigation_2_unique", "env.max_steps=6", "model.distribution=tanh_normal"),
        ),
    ],
    ids=["games, two seeds", "gru", "vmas"],
)
def test_ranks_stay_alike_to_the_last_bit(tmp_path: Path, job: Task, count: int, words: tuple[str, ...]) -> None:
    first, *others = job(count, "train", tmp_path, *words)
    for other in others:
        assert other.keys() == first.keys()
        assert [key for key in first if key.startswith("alike") and not torch.equal(first[key], other[key])] == []
        acted = [key for key in first if key.startswith("own") and key.endswith("action")]
        assert len(acted) >= 3
        assert all(not torch.equal(first[key], other[key]) for key in acted), "each acts by its own chance"
        if "vmas" in str(words):
            seen = [key for key in first if key.startswith("own") and key.endswith("observation")]
            assert all(not torch.equal(first[key], other[key]) for key in seen), "in its own environments"
    moved = [key for key in first if key.startswith("alike/2/agents/actor")]
    assert any(not torch.equal(first[key], first[key.replace("/2/", "/0/")]) for key in moved)


def test_a_seed_that_fails_on_one_rank_stops_on_all(tmp_path: Path, job: Task) -> None:
    words = (*WORDS, "seeds=3")
    first, other = job(2, "poisoned", tmp_path, *words)
    (sound, _) = job(2, "train", tmp_path / "sound", *words)
    assert first["alike/healthy"].tolist() == other["alike/healthy"].tolist() == [True, False, True]
    for key, value in first.items():
        if key.startswith("alike/2/agents/") and "value_norm" not in key and value.ndim > 1 and len(value) == 3:
            assert torch.equal(value.nan_to_num(7.0), other[key].nan_to_num(7.0)), key
            assert torch.equal(value[[0, 2]], sound[key][[0, 2]]), key
            if "actor" in key or "critic" in key:
                assert torch.equal(value[1], first[key.replace("/2/", "/1/")][1]), key


@pytest.mark.slow
@pytest.mark.xfail(strict=False, reason="failed once of two runs to start its ranks; the cause was not found")
def test_two_ranks_learn_as_one_does(tmp_path: Path) -> None:
    words = ("env=games/specialisation", "sharing=hyper_mlp", "train.frames=6400", "evaluation.episodes=20")
    common = ("train.tensorboard=false", "train.progress=false", "evaluation.video=false", f"train.folder={tmp_path}")
    command = ("-m", "hypermarl", "train", *words, *common)
    subprocess.run([*TORCHRUN, "--nproc-per-node=2", *command, "train.run=two"], check=True, capture_output=True)
    subprocess.run([sys.executable, *command, "train.run=one"], check=True, capture_output=True)
    for name in ("one", "two"):
        assert float(rows(tmp_path / name)[-1]["Final/return"]) > 9.5, name


# ------------------------------------------------------------------------------------------------ runs


def test_one_rank_is_what_it_is_without_torchrun(tmp_path: Path) -> None:
    words = (*TINY, *QUIET, "env=games/specialisation", "seeds=2", "train.frames=96", "train.checkpoint_every=2")
    for folder, command in (("with", (*TORCHRUN, "--nproc-per-node=1")), ("without", (sys.executable,))):
        own = (f"train.folder={tmp_path / folder}", "train.run=one")
        subprocess.run([*command, "-m", "hypermarl", "train", *words, *own], check=True, capture_output=True)
    assert same(tmp_path / "with" / "one", tmp_path / "without" / "one")
    kept = tensors(tmp_path / "with" / "one")
    assert not any("rank." in key for key in kept)


def test_alone_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("all_reduce", "broadcast", "gather", "init_process_group", "rendezvous"):
        monkeypatch.setattr(torch.distributed, name, lambda *_, **__: pytest.fail("torch.distributed was used"))
    x, flat = torch.ones(3), {"x": torch.ones(2)}
    ALONE.connect(torch.device("cpu"))
    (total,) = ALONE.totals([x])
    assert total is x
    parameter = torch.nn.Parameter(x)
    parameter.grad = gradient = torch.ones(3)
    ALONE.add_gradients([parameter])
    assert parameter.grad is gradient
    assert ALONE.gather(flat)["x"] is flat["x"]
    assert ALONE.mine(flat) == flat
    assert ALONE.spread({"a": 1}, flat) == ({"a": 1}, flat)
    assert (ALONE.any(True), ALONE.any(False), ALONE.tells(), ALONE.first) == (True, False, True, True)
    assert (ALONE.seed(5), ALONE.device("cuda"), ALONE.share(7), ALONE.told("a", "b")) == (5, "cuda", 7, "b")
    ALONE.insist_alike(flat)
    ALONE.copy_first([x])
    learner = Learner(config())
    learner.start()
    learner.iterate()
    ALONE.close()


@pytest.mark.parametrize(
    "words",
    [
        ("seeds=2", "algorithm.value_norm=true"),
        ("env=spread/bps_1", "env.options.n_agents=6", "env.max_steps=7", "train.log_every=1", "forgetful=yes"),
    ],
    ids=["two seeds", "environments without a state"],
)
def test_resumed_on_as_many_ranks_is_as_if_never_stopped(tmp_path: Path, job: Task, words: tuple[str, ...]) -> None:
    whole, half = (tmp_path / name for name in ("whole", "half"))
    job(2, "run", whole, *WORDS, *words, f"train.frames={4 * FRAMES}")
    job(2, "run", half, *WORDS, *words, f"train.frames={2 * FRAMES}")
    forgetful = [word for word in words if word.startswith("forgetful")]
    found = job(2, "run", half, f"frames={4 * FRAMES}", *forgetful)
    assert [each["frame"] for each in found] == [4 * FRAMES] * 2
    assert same(half / "one", whole / "one")
    newest = RunFolder.open(half / "one").latest()
    assert newest is not None
    assert RunFolder.open(half / "one").meta(newest)["ranks"] == 2
    compared = [column for column in rows_of(whole)[0] if not column.startswith(("time/", "Final", "evaluation"))]
    assert len(compared) > 10
    assert [[row[c] for c in compared] for row in rows_of(half)] == [
        [row[c] for c in compared] for row in rows_of(whole)
    ]


def rows_of(folder: Path) -> list[dict[str, str]]:
    path = folder / "one"
    return rows(path / "seed_0" if (path / "seed_0").exists() else path)


def test_resumed_on_another_number_of_ranks(tmp_path: Path, job: Task) -> None:
    """Learning goes on: parameters, moments and counters are kept; environments and chance begin anew."""
    job(2, "run", tmp_path, *WORDS, f"train.frames={2 * FRAMES}")
    before = tensors(tmp_path / "one")
    assert any("/rank.1.env." in key for key in before)
    for count, iterations in ((3, 3), (1, 4)):
        made = Experiment.resume(tmp_path / "one") if count == 1 else None
        if made is not None:
            assert made._notice == "Saved on 3 ranks, resumed on 1: environments begin new episodes."
            assert made.learner.iteration == 3
            kept = {f"one/{3 * FRAMES:012d}/policy/{k}": v for k, v in made.learner.policy_state(0).items()}
            held = tensors(tmp_path / "one")
            assert all(torch.equal(value, held[key]) for key, value in kept.items())
            assert not torch.equal(made.learner.rngs[0].get_state(), torch.Generator().manual_seed(0).get_state())
            made.learner.close()
        job(count, "run", tmp_path, f"frames={iterations * FRAMES}")
        after = tensors(tmp_path / "one")
        steps = [v for key, v in after.items() if key.endswith(".step")]
        assert len({float(step) for step in steps}) == 1
        settings = config(*WORDS).algorithm
        assert float(steps[0]) == iterations * settings.epochs * settings.minibatches
        assert any("/rank.2.env." in key for key in after) == (count == 3)
    assert [int(row["frame"]) for row in rows(tmp_path / "one")] == [FRAMES * i for i in range(1, 5)]


def test_an_interrupt_of_one_rank_stops_all_after_the_same_iteration(tmp_path: Path, job: Task) -> None:
    job(2, "run", tmp_path / "whole", *WORDS, f"train.frames={4 * FRAMES}")
    stopped = tmp_path / "stopped"
    found = job(2, "run", stopped, *WORDS, f"train.frames={4 * FRAMES}", "signal=1")
    assert [(int(each["frame"]), bool(each["finished"])) for each in found] == [(3 * FRAMES, False)] * 2
    assert [c.iteration for c in RunFolder.open(stopped / "one").checkpoints()] == [2, 3]
    job(2, "run", stopped, f"frames={4 * FRAMES}")
    assert same(stopped / "one", tmp_path / "whole" / "one")


def pid_of(rank: int, among: Sequence[int]) -> int:
    (found,) = [p for p in among if f"\0RANK={rank}\0" in "\0" + Path(f"/proc/{p}/environ").read_text()]
    return found


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_a_killed_rank_ends_the_job_and_the_run_goes_on_elsewhere(tmp_path: Path) -> None:
    """With torchrun, as a user does: a sentence says who is gone and how to go on, and that is true."""
    words = (*TINY, *WORDS, *QUIET, "env=games/specialisation", f"train.folder={tmp_path}", "train.run=one")
    command = [*TORCHRUN, "--nproc-per-node=3", "-m", "hypermarl", "train", *words, "train.frames=10_000_000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 240
        while not list(tmp_path.glob("one/checkpoints/0*")):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(pid_of(1, children(process.pid)), signal.SIGKILL)
        _, said = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode != 0
    sentences = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1
    kept = RunFolder.open(tmp_path / "one").latest()
    assert kept is not None
    assert sentences[0].startswith("error: Rank 1 of 3 has ended. Training stopped after ")
    assert f"the last good checkpoint is {kept.path}. " in sentences[0]
    assert f"-m hypermarl resume {tmp_path / 'one'} (any N that divides env.num_envs=6)" in sentences[0]
    made = Experiment.resume(tmp_path / "one", kept.frame + FRAMES)
    assert made.learner.iteration == kept.iteration
    result = made.run()
    assert (result.finished, result.frame) == (True, kept.frame + FRAMES)
    assert [int(row["frame"]) for row in rows(result.folder)] == [FRAMES * i for i in range(1, kept.iteration + 2)]


# ------------------------------------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("env.num_envs=4",), "env.num_envs=4 cannot be divided among 3 ranks; start 2 or 4, or train with"),
        (
            ("env.num_envs=3", "algorithm.minibatches=9"),
            "minibatches=9 is more than the 8 rows of a rollout on each rank",
        ),
        (("env.num_envs=3", "model=gru", "algorithm.minibatches=2"), "the 1 rows of a rollout on each rank, since"),
    ],
)
def test_counts_that_do_not_fit(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Learner(config(*words), Ranks(1, 3))


def test_a_mistake_is_told_once_and_ends_every_rank(tmp_path: Path, make: Callable[..., Rank]) -> None:
    wrong = Job(make, 3, "run", tmp_path / "wrong", ["env.num_envs=4"])
    assert wrong.wait() == [2, 2, 2]
    assert wrong.said.count("error: ") == 1
    nowhere = Job(make, 2, "run", tmp_path / "nowhere", ["frames=10"])
    assert nowhere.wait() == [2, 2]
    assert "error: There is no run folder" in nowhere.said


def test_ranks_that_no_longer_compute_alike_are_told(tmp_path: Path, make: Callable[..., Rank]) -> None:
    unlike = Job(make, 3, "drift", tmp_path, [])
    assert unlike.wait() == [2, 2, 2]
    assert unlike.said.count("error: ") == 1
    assert "The parameters of rank 2 are no longer those of rank 0" in unlike.said


def test_what_ranks_say_to_each_other(tmp_path: Path, job: Task) -> None:
    job(3, "pieces", tmp_path)


def test_a_rank_that_does_not_answer_is_given_up(tmp_path: Path, make: Callable[..., Rank]) -> None:
    halted = Job(make, 3, "run", tmp_path, [*WORDS, "train.rank_timeout=8", "train.frames=10_000_000"])
    halted.until_saved()
    os.kill(halted.ranks[1].pid, signal.SIGSTOP)
    assert halted.wait(0, 2) == [2, 2]
    assert halted.said.count("error: ") == 1
    assert "error: Rank 1 of 3 does not answer. Training stopped after" in halted.said


def test_the_rank_where_they_meet_is_killed(tmp_path: Path, make: Callable[..., Rank]) -> None:
    """Without torchrun that is the first, so that nobody can be asked who is gone."""
    left = Job(make, 3, "run", tmp_path, [*WORDS, "train.frames=10_000_000"], hosted=False)
    left.until_saved()
    left.ranks[0].kill()
    assert left.wait(1, 2) == [2, 2]
    assert "error: Rank 0 of 3 has ended. Training stopped after" in left.said


def test_a_share_and_seeds_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [Ranks(r, 4).share(12) for r in range(4)] == [3] * 4
    seeds = [Ranks(r, 4).seed(s) for r in range(4) for s in range(8)]
    assert seeds[:8] == list(range(8))
    later = [Ranks(r, 4).seed(s, 100) for r in range(4) for s in range(8)]
    assert len({*seeds, *later}) == 64
    assert all(0 <= seed < 2**62 for seed in [*seeds, *later])
    assert Ranks(3, 4, local=1).device("cuda") == "cuda:1"
    assert Ranks(3, 4, local=1).device("cuda:0") == "cuda:0"
    assert Ranks(3, 4, local=1).device("cpu") == "cpu"
    for name in module._ADDRESS:
        monkeypatch.delenv(name, raising=False)
    assert Ranks.of_environment().alone
    monkeypatch.setenv("WORLD_SIZE", "4")  # as some clusters set it, with nobody to meet
    assert Ranks.of_environment().alone
    for name, value in {"RANK": "3", "MASTER_ADDR": "host", "MASTER_PORT": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    made = Ranks.of_environment()
    assert (made.rank, made.count, made.first, made.device("cuda")) == (3, 4, False, "cuda:1")


def test_environments_begin_by_a_seed_of_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    monkeypatch.setattr(Ranks, "connect", lambda *_: None)
    monkeypatch.setattr(Ranks, "copy_first", lambda *_: None)
    monkeypatch.setattr(Collector, "reset", lambda self, seed: found.append(seed))
    for rank in range(3):
        made = Learner(config("seed=2"), Ranks(rank, 3))
        made.start()
        made.iteration = 5
        made.restart()
    assert found[:2] == [2, 2 * 1_000_003 + 5]
    assert len(set(found)) == 6


@pytest.mark.parametrize(
    "local, address, given, used",
    [
        ("4", "somewhere", None, "lo"),  # all on one machine
        ("2", "127.0.0.1", None, "lo"),
        ("2", "somewhere", None, None),
        ("4", "somewhere", "eth0", "eth0"),
    ],
)
def test_on_one_machine_nothing_is_seen_from_outside(
    monkeypatch: pytest.MonkeyPatch, local: str, address: str, given: str | None, used: str | None
) -> None:
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "eth0"), (2, "lo")])
    told = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": local, "MASTER_ADDR": address}
    monkeypatch.setattr(os, "environ", told | ({"GLOO_SOCKET_IFNAME": given} if given else {}))
    module._prefer_loopback()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == used


def test_an_accelerator_that_waits_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not told that another process is gone: its work just never ends."""

    class Work:
        def __init__(self, ended: bool, limit: float) -> None:
            self.asked, self.ended, self.limit = 0, ended, limit

        def is_completed(self) -> bool:
            self.asked += 1
            if self.asked == 3:
                ranks.ended = self.ended
            return self.asked > self.limit

    passed = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(passed)))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    for ended, limit, good in ((False, 300, True), (True, 15, True), (True, 300, False), (False, math.inf, False)):
        ranks, work = Ranks(0, 2), Work(ended, limit)
        if good:
            ranks._watch(work)  # type: ignore[arg-type]
            continue
        with pytest.raises(RuntimeError, match="in vain"):
            ranks._watch(work)  # type: ignore[arg-type]
        assert work.asked < 30 if ended else work.asked > 500
