"""Whole runs: what lies in the folder, stopping and going on, failing without losing anything."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small import QUIET, TINY, config
from test_learner import Forgetful, Tampered, wrapped

from hypermarl import runs
from hypermarl.errors import UserError
from hypermarl.marl.learner import Learner
from hypermarl.marl.train import Experiment, Result
from hypermarl.monitoring.progress import Progress
from hypermarl.runs import RunFolder

__all__ = ["wrapped"]  # a fixture
FRAMES = 24  # of an iteration


def experiment(folder: Path, *words: str, iterations: int = 4) -> Experiment:
    lasting = (f"train.frames={FRAMES * iterations}", f"train.folder={folder}", "train.run=one", *QUIET)
    return Experiment(config(*lasting, "train.checkpoint_every=2", *words))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Everything in the newest checkpoints of a run and of its seeds."""
    found = {}
    for each in (RunFolder.open(folder), *RunFolder.open(folder).seeds()):
        newest = each.latest()
        assert newest is not None
        for path in sorted(newest.path.glob("*.safetensors")):
            for name, tensor in safetensors.torch.load_file(path).items():
                found[f"{each.path.name}/{newest.path.name}/{path.stem}/{name}"] = tensor
    return found


def same(one: Path, other: Path) -> bool:
    x, y = ({k.replace(p.name, "run", 1): v for k, v in tensors(p).items()} for p in (one, other))
    return x.keys() == y.keys() and all(torch.equal(v, y[k]) for k, v in x.items())


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------------ a whole run


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_from_the_first_frame_to_the_last(tmp_path: Path, seeds: int) -> None:
    result = experiment(tmp_path, "seed=3", f"seeds={seeds}", "evaluation.every=48").run()
    assert result == Result(tmp_path / "one", 4 * FRAMES, True, result.episodes)
    assert len(result.episodes) == seeds
    for episodes in result.episodes:
        assert episodes.returns.shape == (2, 4)  # two episodes, four agents
        assert set(episodes.lengths) == {10}
    folder = RunFolder.open(result.folder)
    assert folder.config["seed"] == 3
    own = folder.seeds() or [folder]
    assert [each.config["seed"] for each in own] == [3, 4][:seeds]
    assert [each.config["seeds"] for each in own] == [1] * seeds
    for each in own:
        assert [c.frame for c in each.checkpoints()] == [2 * FRAMES, 4 * FRAMES]
        table = rows(each.path)
        assert [int(row["frame"]) for row in table] == [FRAMES * i for i in range(1, 5)]
        assert [bool(row["evaluation/team"]) for row in table] == [False, True, False, True]
        assert all(row["loss/policy"] and row["policy/kl"] and row["time/fps"] for row in table)
        assert table[0]["diversity/snd"]
        assert table[-1]["Final/return"]
    newest = folder.latest()
    assert newest is not None
    assert (newest.path / "optimizer.safetensors").exists()
    assert folder.meta(newest)["healthy"] == [True] * seeds
    # nothing but safetensors, JSON, text and TensorBoard's own
    assert {p.suffix for p in result.folder.rglob("*") if p.is_file()} <= {
        ".json",
        ".safetensors",
        ".csv",
        ".tsv",
        ".pbtxt",
        ".png",
        "",
    }


@pytest.mark.parametrize("every, at", [(0, [96]), (48, [48, 96]), (40, [48, 96]), (1, [24, 48, 72, 96]), (1000, [96])])
def test_when_it_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, at: list[int]) -> None:
    made = experiment(tmp_path, f"evaluation.every={every}")
    found: list[int] = []
    take = made.exam.take
    monkeypatch.setattr(made.exam, "take", lambda policies: (found.append(made.learner.frame), take(policies))[1])
    made.run()
    assert found == at
    assert made.exam._env is None, "closed"


def test_names_of_runs_do_not_collide(tmp_path: Path) -> None:
    first, second = (experiment(tmp_path, iterations=1) for _ in range(2))
    assert [each.folder.path.name for each in (first, second)] == ["one", "one-2"]
    named = Experiment(config(f"train.folder={tmp_path}", "seed=4", *QUIET))
    assert named.folder.path.name == "specialisation-hyper_mlp-ippo-s4"
    for each in (first, second, named):
        each.learner.close()


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    result = experiment(tmp_path, "train.checkpoint_every=1", "train.keep_checkpoints=2", "seeds=2").run()
    for each in (RunFolder.open(result.folder), *RunFolder.open(result.folder).seeds()):
        assert [c.iteration for c in each.checkpoints()] == [3, 4]


def test_rows_between_two_are_not_lost(tmp_path: Path) -> None:
    """Episodes of 10 steps end in some rollouts of 8 steps and not in others: a row tells of all since the last."""
    often, seldom = (
        experiment(tmp_path / str(every), f"train.log_every={every}", iterations=5).run().folder for every in (1, 5)
    )
    assert [bool(row["return/team"]) for row in rows(often)] == [False, True, True, True, True]
    (row,) = rows(seldom)
    found = [float(each["return/team"]) for each in rows(often) if each["return/team"]]
    assert float(row["return/team"]) == pytest.approx(sum(found) / 4, rel=1e-5)
    assert float(row["episode/length"]) == 10
    agents = [float(row[f"return/agent_{i}"]) for i in range(4)]
    assert sum(agents) / 4 == pytest.approx(float(row["return/team"]), rel=1e-5)


def test_each_seed_has_numbers_of_its_own(tmp_path: Path) -> None:
    together = experiment(tmp_path / "both", "seeds=2").run()
    tables = [rows(together.folder / f"seed_{s}") for s in range(2)]
    assert tables[0][-1]["loss/value"] != tables[1][-1]["loss/value"]
    assert tables[0][-1]["return/team"] != tables[1][-1]["return/team"]
    # games hold no chance, so a seed among others plays what it would have played alone
    alone = experiment(tmp_path / "alone", "seed=1").run()
    for x, y in zip(tables[1], rows(alone.folder), strict=True):
        assert float(x["loss/value"]) == pytest.approx(float(y["loss/value"]), rel=1e-4)
        assert x["return/team"] == y["return/team"]
    assert torch.equal(torch.tensor(together.episodes[1].returns), torch.tensor(alone.episodes[0].returns))


# ------------------------------------------------------------------------------------------------ stop and go on


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("model=gru", "algorithm.minibatches=1"),
        ("seeds=2", "algorithm.value_norm=true"),
        ("env=vmas/dispersion", "env.max_steps=6", "algorithm=mappo"),
        ("env=pettingzoo/mpe2.simple_spread_v3", "env.max_steps=6", "seeds=2"),
        ("env=pettingzoo/mpe2.simple_tag_v3", "env.max_steps=6", "model=gru", "algorithm.minibatches=1"),
    ],
    ids=["game", "gru", "two seeds", "vmas", "mpe, two seeds", "unlike groups, gru"],
)
def test_resumed_is_as_if_never_stopped(tmp_path: Path, words: tuple[str, ...]) -> None:
    whole = experiment(tmp_path / "whole", *words).run()
    half = experiment(tmp_path / "half", *words, iterations=2).run()
    result = Experiment.resume(half.folder, 4 * FRAMES).run()
    assert result.finished
    assert same(result.folder, whole.folder)
    for each in ("seed_0", "seed_1") if "seeds=2" in words else ("",):
        x, y = rows(result.folder / each), rows(whole.folder / each)
        assert [row["frame"] for row in x] == [row["frame"] for row in y]
        # the half run was evaluated when it ended, the whole one was not at that time
        compared = [column for column in y[0] if not column.startswith(("time/", "Final", "evaluation"))]
        assert len(compared) > 10
        assert [[row[c] for c in compared] for row in x] == [[row[c] for c in compared] for row in y]


def test_a_finished_run_is_only_evaluated_again(tmp_path: Path) -> None:
    result = experiment(tmp_path).run()
    before = tensors(result.folder)
    again = Experiment.resume(result.folder).run()
    assert again.finished
    assert again.frame == result.frame
    assert torch.equal(torch.tensor(again.episodes[0].returns), torch.tensor(result.episodes[0].returns))
    assert all(torch.equal(v, before[k]) for k, v in tensors(result.folder).items())


def test_the_first_interrupt_ends_the_iteration_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = experiment(tmp_path / "whole").run()
    iterate = Learner.iterate

    def interrupted(self: Learner) -> Any:
        if self.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return iterate(self)

    monkeypatch.setattr(Learner, "iterate", interrupted)
    before = signal.getsignal(signal.SIGINT)
    stopped = experiment(tmp_path / "stopped").run()
    assert signal.getsignal(signal.SIGINT) == before
    assert (stopped.finished, stopped.frame, stopped.episodes) == (False, 3 * FRAMES, [])
    assert [c.iteration for c in RunFolder.open(stopped.folder).checkpoints()] == [2, 3]
    monkeypatch.setattr(Learner, "iterate", iterate)
    assert Experiment.resume(stopped.folder).run().finished
    assert same(stopped.folder, whole.folder)


def test_the_second_interrupt_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Learner) -> Any:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    monkeypatch.setattr(Learner, "iterate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment(tmp_path).run()


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    whole = experiment(tmp_path / "whole", f"seeds={seeds}").run()
    iterate = Learner.iterate

    def killed(self: Learner) -> Any:
        if self.iteration == 1:
            raise SystemExit
        return iterate(self)

    monkeypatch.setattr(Learner, "iterate", killed)
    with pytest.raises(SystemExit):
        experiment(tmp_path / "killed", f"seeds={seeds}").run()
    monkeypatch.setattr(Learner, "iterate", iterate)
    folder = tmp_path / "killed" / "one"
    if seeds > 1:  # the kill may have come while the folders were made
        for path in sorted((folder / "seed_1").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    assert Experiment.resume(folder).run().finished
    assert same(folder, whole.folder)
    for each in ("seed_0", "seed_1") if seeds > 1 else ("",):
        assert [row["frame"] for row in rows(folder / each)] == [row["frame"] for row in rows(whole.folder / each)]


def test_rows_after_the_checkpoint_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iterate = Learner.iterate

    def killed(self: Learner) -> Any:
        if self.iteration == 3:
            raise SystemExit
        return iterate(self)

    monkeypatch.setattr(Learner, "iterate", killed)
    with pytest.raises(SystemExit):
        experiment(tmp_path).run()
    folder = tmp_path / "one"
    assert [int(row["frame"]) for row in rows(folder)] == [FRAMES, 2 * FRAMES, 3 * FRAMES]
    Experiment.resume(folder, 2 * FRAMES).run()
    assert [int(row["frame"]) for row in rows(folder)] == [FRAMES, 2 * FRAMES]


def test_a_kill_between_the_seeds_checkpoints_and_the_joint_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = experiment(tmp_path / "whole", "seeds=2").run()
    save = RunFolder.save

    def killed(self: RunFolder, frame: int, *args: Any, **options: Any) -> Any:
        if frame == 4 * FRAMES and self.path.name == "one":
            raise SystemExit
        return save(self, frame, *args, **options)

    monkeypatch.setattr(RunFolder, "save", killed)
    with pytest.raises(SystemExit):
        experiment(tmp_path / "killed", "seeds=2").run()
    monkeypatch.setattr(RunFolder, "save", save)
    folder = tmp_path / "killed" / "one"
    assert [c.iteration for c in RunFolder.open(folder / "seed_1").checkpoints()] == [2, 4]
    again = Experiment.resume(folder)
    assert again.learner.iteration == 2
    assert [c.iteration for c in RunFolder.open(folder / "seed_1").checkpoints()] == [2], "the joint one decides"
    assert again.run().finished
    assert same(folder, whole.folder)


def test_environments_without_a_state_are_resumed_exactly_too(tmp_path: Path, wrapped: Any) -> None:
    wrapped(Forgetful)
    words = ("env=spread/bps_1", "env.options.n_agents=6", "env.max_steps=7", "train.log_every=1")
    whole = experiment(tmp_path / "whole", *words).run()
    half = experiment(tmp_path / "half", *words, iterations=2).run()
    assert RunFolder.open(half.folder).meta(RunFolder.open(half.folder).checkpoints()[-1])["exact"] is False
    assert Experiment.resume(half.folder, 4 * FRAMES).run().finished
    assert same(half.folder, whole.folder)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import conftest
from small import config, QUIET
from hypermarl.marl.train import Experiment
folder = Path({folder!r})
if (folder / "one").exists() and (folder / "one" / "config.json").exists():
    Experiment.resume(folder / "one").run()
else:
    Experiment(config(*{words!r})).run()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("seeds=2",), ("env=vmas/dispersion", "env.max_steps=6"), ("model=gru", "algorithm.minibatches=1")]
)
def test_killed_at_any_moment_and_resumed(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A real kill, again and again at random moments, until the run comes to its end: nothing is different after."""
    iterations = 40
    common = ("train.checkpoint_every=1", f"train.frames={iterations * FRAMES}", *QUIET, *words)
    whole = Experiment(config(*common, f"train.folder={tmp_path / 'whole'}", "train.run=one")).run()
    folder = tmp_path / "killed"
    lines = SCRIPT.format(
        tests=str(Path(__file__).parent),
        folder=str(folder),
        words=(*common, f"train.folder={folder}", "train.run=one"),
    )
    chance = random.Random(0)
    kills = 0
    for _ in range(30):
        process = subprocess.Popen([sys.executable, "-c", lines], stderr=subprocess.PIPE)
        while process.poll() is None and not (folder / "one" / "config.json").exists():
            time.sleep(0.01)  # before that there is no run to resume
        if kills < 4:
            begin = newest_iteration(folder / "one")
            while process.poll() is None and newest_iteration(folder / "one") <= begin:
                time.sleep(0.005)
            time.sleep(chance.random() * 0.1)
        else:
            process.wait()
        if process.poll() is None:
            process.kill()
            kills += 1
        _, error = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, error.decode()
    assert process.returncode == 0
    assert kills >= 3
    assert same(folder / "one", whole.folder)


def newest_iteration(folder: Path) -> int:
    found = [int(path.name) for path in (folder / "checkpoints").glob("[0-9]*")]
    return max(found, default=-1)


# ------------------------------------------------------------------------------------------------ what goes wrong


def poisoned(what: str) -> Callable[[Learner], None]:
    """Makes one of the parameters, or the rewards to come, no number."""

    def poison(learner: Learner) -> None:
        policy = learner.policies["agents"]
        if what == "rewards":
            step = learner.env.step

            def worse(actions: Any) -> Any:
                found = step(actions)
                for reward in found.reward.values():
                    reward[0] = float("nan")
                return found

            learner.env.step = worse  # type: ignore[method-assign]
            return
        with torch.no_grad():
            next(iter(getattr(policy, what).generator.base.values()))[:] = float("nan")

    return poison


@pytest.mark.parametrize(
    "what, terms",
    [
        ("rewards", "loss/policy and loss/value are not finite"),
        ("critic", "loss/value is not finite"),
        ("actor", "loss/policy and loss/entropy are not finite"),
    ],
)
def test_a_loss_that_is_no_number_is_named_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, terms: str
) -> None:
    iterate = Learner.iterate

    def poisonous(self: Learner) -> Any:
        if self.iteration == 3:
            poisoned(what)(self)
            if what == "critic":  # advantages were made from it too, unless only the loss sees it
                monkeypatch.setattr("hypermarl.marl.learner.prepare", sound)
        return iterate(self)

    from hypermarl.marl.objectives import prepare

    def sound(policies: Any, *rest: Any) -> Any:
        samples = prepare(policies, *rest)
        for each in samples.values():
            each.advantage = each.advantage.nan_to_num(0.5)
        return samples

    monkeypatch.setattr(Learner, "iterate", poisonous)
    with pytest.raises(UserError) as caught:
        experiment(tmp_path).run()
    said = str(caught.value)
    assert f"Seed 0: {terms}" in said
    assert f"after {4 * FRAMES} frames" in said
    kept = RunFolder.open(tmp_path / "one").latest()
    assert kept is not None
    assert kept.iteration == 2
    assert str(kept.path) in said
    assert all(x.isfinite().all() for x in safetensors.torch.load_file(kept.path / "policy.safetensors").values())
    monkeypatch.undo()
    assert Experiment.resume(tmp_path / "one").run().finished


def test_one_seed_that_fails_does_not_end_the_others(
    tmp_path: Path, wrapped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = experiment(tmp_path / "plain", "seeds=3").run()
    monkeypatch.setattr(Tampered, "amount", float("nan"))
    monkeypatch.setattr(Tampered, "since", 16)
    wrapped(Tampered)
    said: list[str] = []
    monkeypatch.setattr(Progress, "message", lambda self, text: said.append(text))
    result = experiment(tmp_path / "hurt", "seeds=3", "seed=0").run()
    assert result.finished
    assert result.failed == (1,)
    assert len(said) == 1
    assert said[0].startswith("Seed 1: loss/policy and loss/value are not finite.")
    meta = RunFolder.open(result.folder).meta(RunFolder.open(result.folder).checkpoints()[-1])
    assert meta["healthy"] == [True, False, True]
    for s in (0, 2):
        x, y = (tensors(each.folder / f"seed_{s}") for each in (plain, result))
        assert all(torch.equal(x[k], y[k]) for k in x)
    assert all(v.isfinite().all() for v in tensors(result.folder / "seed_1").values())
    said.clear()
    assert Experiment.resume(result.folder, 5 * FRAMES).run().failed == (1,)
    assert said == [], "told once"


def test_when_the_last_seed_fails_training_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iterate = Learner.iterate

    def dying(self: Learner) -> Any:
        found = iterate(self)
        if self.iteration in (2, 3):
            found.terms["agents"]["value"][self.iteration - 2] = float("inf")
        return found

    monkeypatch.setattr(Learner, "iterate", dying)
    with pytest.raises(UserError, match=r"Seed 1: loss/value is not finite. Training stopped after 72 frames"):
        experiment(tmp_path, "seeds=2").run()


def test_a_full_disk_costs_nothing_that_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = experiment(tmp_path / "whole").run()
    write = runs._write_flushed

    def full(path: Path, content: bytes) -> None:
        if f"{4 * FRAMES:012d}" in str(path) and path.name == "state.safetensors":
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(runs, "_write_flushed", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device; what was saved before stays"):
        experiment(tmp_path / "full").run()
    folder = RunFolder.open(tmp_path / "full" / "one")
    assert [path.name for path in (folder.path / "checkpoints").iterdir()] == [f"{2 * FRAMES:012d}"]
    monkeypatch.setattr(runs, "_write_flushed", write)
    assert Experiment.resume(folder.path).run().finished
    assert same(folder.path, whole.folder)


def test_what_does_not_belong_together(tmp_path: Path) -> None:
    result = experiment(tmp_path, "seeds=2", iterations=2).run()
    path = result.folder / "config.json"
    content = json.loads(path.read_text())
    groups = content["groups"]
    content["groups"] = {"agents": groups["agents"] | {"observation": 99}}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="was trained with other agents, observations or actions"):
        Experiment.resume(result.folder)
    content["groups"] = groups
    path.write_text(json.dumps(content))
    (result.folder / "seed_1" / "checkpoints" / f"{2 * FRAMES:012d}" / "meta.json").unlink()
    with pytest.raises(UserError, match=r"seed_1 lacks the checkpoint of frame 48"):
        Experiment.resume(result.folder)
    (result.folder / "seed_1" / "config.json").unlink()
    (result.folder / "seed_1").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="lacks the folders of seeds 1"):
        Experiment.resume(result.folder)


def test_faults_of_the_environment_close_it(tmp_path: Path, wrapped: Any) -> None:
    from hypermarl.envs.interface import EnvironmentFault

    closed: list[Any] = []

    class Faulty(Forgetful):
        def step(self, actions: Any) -> Any:
            raise EnvironmentFault("Environment 'games/specialisation' fell over.")

        def close(self) -> None:
            closed.append(self)

    wrapped(Faulty)
    with pytest.raises(EnvironmentFault, match="fell over"):
        experiment(tmp_path).run()
    assert len(closed) == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (("algorithm.gamma=1.5",), "algorithm.gamma must be between 0 and 1, not 1.5"),
        (("algorithm.lr=0",), "algorithm.lr must be more than 0"),
        (("evaluation.every=-1",), "evaluation.every must be at least 0"),
        (("seed=-1",), "seed must be at least 0"),
        (("model.actor=[8,0]",), "model.actor must be at least 1"),
        (("sharing.embedding=0",), "sharing.embedding must be at least 1"),
        (("env.max_steps=0",), "env.max_steps must be at least 1"),
        (("algorithm.minibatches=25",), "minibatches=25 is more than the 24 rows of a rollout"),
        (("model=gru", "algorithm.minibatches=4"), "more than the 3 rows of a rollout, since a recurrent policy"),
        (("algorithm.objective=torchrl", "seeds=2"), "objective=torchrl trains one seed at a time"),
        (("algorithm.objective=torchrl", "model=gru", "algorithm.minibatches=1"), "objective=torchrl"),
        (("sharing=hyper_chunked", "sharing.conditioning=one_hot", "sharing.generator.trunk=[]"), "needs features"),
    ],
)
def test_settings_with_which_nothing_could_work(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(*words)


def test_no_hidden_layers_are_fine() -> None:
    assert config("model.actor=[]").model.actor == ()
    assert TINY[0] == "model.actor=[7,6]"
