"""Runs of language agents: what lies in the folder, stopping and going on, several seeds."""

from __future__ import annotations

import json
import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_language as tiny
import torch
from safetensors.torch import load_file
from small_runs import GAME, TASK, colours, config, taught

from hypermarl.conditioning import Described
from hypermarl.errors import UserError
from hypermarl.language import run as runs
from hypermarl.language.agents import Descriptions
from hypermarl.language.examination import unrelated
from hypermarl.language.judge import open_learner
from hypermarl.language.rewarding import Rewarding
from hypermarl.language.settings import LanguageConfig
from hypermarl.language.task import Example
from hypermarl.language.teaching import Teaching
from hypermarl.runs import RunFolder

__all__ = ["taught"]  # a fixture

WHAT = {"reward": GAME, "task": TASK}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("model"))


def saved(path: Path) -> dict[str, Any]:
    """All that the newest checkpoint holds."""
    folder = RunFolder.open(path)
    latest = folder.latest()
    assert latest is not None
    parts = folder.load(latest)
    tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
    meta = folder.meta(latest)
    return {"update": latest.iteration, "tensors": tensors, "counters": meta["counters"]}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    assert one["tensors"].keys() == other["tensors"].keys()
    alike = all(torch.equal(tensor, other["tensors"][name]) for name, tensor in one["tensors"].items())
    return alike and one["update"] == other["update"] and one["counters"] == other["counters"]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Let something happen in the middle of an update, once."""

    def arrange(update: int, happen: Any) -> None:
        done: list[int] = []
        for kind in (Rewarding, Teaching):
            plain = kind.iterate

            def iterate(learner: Any, plain: Any = plain) -> dict[str, float]:
                if learner.update == update and not done:
                    done.append(update)
                    happen()
                return plain(learner)

            monkeypatch.setattr(kind, "iterate", iterate)

    return arrange


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def die() -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("taught")
@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("sharing", ["hyper_text", "hyper_mlp"])
@pytest.mark.parametrize("end, kept, average", [(interrupt, 5, 0.0), (die, 4, 0.0), (die, 4, 0.9)])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    model: Path, tmp_path: Path, ends: Any, what: str, sharing: str, end: Any, kept: int, average: float
) -> None:
    more = ("train.updates=8", "train.checkpoint_every=2", f"train.folder={tmp_path}", f"sharing={sharing}")
    more += (f"train.average={average}",)
    (whole,) = runs.train(config(model, WHAT[what], *more, "train.run=whole"))
    ends(4, end)
    if end is die:
        with pytest.raises(KeyboardInterrupt):
            runs.train(config(model, WHAT[what], *more, "train.run=parted"))
    else:
        (part,) = runs.train(config(model, WHAT[what], *more, "train.run=parted"))
        assert not part.finished and part.results == {}
    assert saved(tmp_path / "parted")["update"] == kept
    assert not same(saved(tmp_path / "parted"), saved(whole.folder))
    (resumed,) = runs.resume(tmp_path / "parted")
    assert resumed.finished and resumed.update == 8
    assert same(saved(resumed.folder), saved(whole.folder))
    assert resumed.results == whole.results
    first, second = (json.loads((path / runs.RESULTS).read_text()) for path in (whole.folder, resumed.folder))
    assert {**first, "cpu_seconds": 0} == {**second, "cpu_seconds": 0}


@pytest.mark.usefixtures("taught")
def test_an_average_is_what_is_judged_and_saved(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def judged(learner: Teaching) -> dict[str, float]:
        seen.append([p.detach().clone() for p in learner.descent.parameters])
        return {}

    monkeypatch.setattr(Teaching, "evaluate", judged)
    more = ("train.updates=6", "train.average=0.9", f"train.folder={tmp_path}")
    (result,) = runs.train(config(model, TASK, *more))
    _, _, opened = open_learner(result.folder)
    learned = opened.descent.parameters
    assert learned and all(torch.equal(a, b) for a, b in zip(seen[0], learned, strict=True))
    walked = saved(result.folder)["tensors"]
    assert not all(torch.equal(a, walked[f"optimizer/walked.{i}"]) for i, a in enumerate(learned))


def test_more_updates_are_trained_when_asked_for(model: Path, tmp_path: Path) -> None:
    (short,) = runs.train(config(model, GAME, "train.updates=3", f"train.folder={tmp_path}"))
    (longer,) = runs.resume(short.folder, 5)
    assert longer.update == 5 and saved(short.folder)["update"] == 5


def test_several_seeds_have_a_folder_each_and_go_on_where_they_stopped(model: Path, tmp_path: Path, ends: Any) -> None:
    more = ("train.updates=3", f"train.folder={tmp_path}", "seed=7")
    ends(1, interrupt)
    results = runs.train(config(model, GAME, *more, "seeds=2", "train.run=both"))
    assert [result.finished for result in results] == [False]  # the second was not begun
    results = runs.resume(tmp_path / "both")
    assert [result.folder.name for result in results] == ["seed_7", "seed_8"]
    assert all(result.finished and (result.folder / runs.RESULTS).exists() for result in results)
    assert [one.config["seed"] for one in RunFolder.open(tmp_path / "both").seeds()] == [7, 8]
    (alone,) = runs.train(config(model, GAME, *more, "seed=8", "train.run=alone"))
    assert same(saved(alone.folder), saved(tmp_path / "both/seed_8"))
    assert not same(saved(alone.folder), saved(tmp_path / "both/seed_7"))


def test_a_run_says_what_it_was_made_of(model: Path, tmp_path: Path) -> None:
    (result,) = runs.train(config(model, GAME, "train.updates=2", f"train.folder={tmp_path}"))
    groups = RunFolder.open(result.folder).groups
    assert groups["agents"] == {"auditor": "red one", "clerk": "moon two cat", "scout": "sun"}
    assert len(groups["base"]["sha256"]) == 64


def test_another_base_is_refused_and_both_are_named(model: Path, tmp_path: Path) -> None:
    changing = tiny.folder(tmp_path / "model")
    (result,) = runs.train(config(changing, GAME, "train.updates=1", f"train.folder={tmp_path}"))
    was = RunFolder.open(result.folder).groups["base"]["sha256"]
    tiny.folder(tmp_path / "model", seed=1)
    with pytest.raises(UserError, match=f"{was[:12]}.*cannot be used with.*hash (?!{was[:12]})"):
        runs.resume(result.folder, 3)


def test_a_run_of_control_agents_is_no_run_of_these(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "control", {"env": {}}, {})
    with pytest.raises(UserError, match="control agents"):
        runs.resume(tmp_path / "control")


def test_noise_is_of_the_update_and_only_in_training(model: Path, taught: None) -> None:
    plain, noisy = (Teaching(config(model, TASK, f"teach.noise={size}")) for size in (0, 0.5))
    assert noisy.evaluate() == plain.evaluate(), "whoever is asked is read as described"
    first, other = noisy.iterate(), plain.iterate()
    assert first["loss/answer"] == other["loss/answer"], "before the first step adapters change nothing"
    assert noisy.iterate()["loss/answer"] != plain.iterate()["loss/answer"]
    again = Teaching(config(model, TASK, "teach.noise=0.5"))
    torch.manual_seed(77)  # nothing is drawn from the global stream
    again.iterate(), again.iterate()
    assert all(torch.equal(a, b) for a, b in zip(again.actor.parameters(), noisy.actor.parameters(), strict=True))


def test_noise_is_in_units_of_how_far_descriptions_are_apart(model: Path, taught: None) -> None:
    learner = Teaching(config(model, TASK, "teach.noise=0.5"))
    who = learner.descriptions(["red cat"] * 400)
    assert isinstance(who, torch.Tensor)
    noise = (learner._blurred(who) - who) / learner.actor.conditioner.scale  # type: ignore[operator]
    assert noise.std(0).tolist() == pytest.approx([0.5] * noise.shape[-1], rel=0.15)  # in every feature's own unit
    first = learner._blurred(who)
    assert torch.equal(first, learner._blurred(who))
    learner.update = 1
    assert not torch.equal(first, learner._blurred(who))


def test_wordings_are_mixed_with_anothers_and_faded_up_to_the_share_asked_for(model: Path, taught: None) -> None:
    shares: dict[str, list[float]] = {"mix": [], "fade": []}
    for kind in shares:
        learner = Teaching(config(model, TASK, f"teach.{kind}=0.4"))
        who = learner.descriptions(["red cat", "blue dog", "sun moon"])
        assert isinstance(who, torch.Tensor)
        for learner.update in range(40):
            moved = learner._blurred(who) - who
            for i in range(3):
                mean = learner.actor.conditioner.mean
                goals = [who[j] for j in range(3) if j != i] if kind == "mix" else [mean]
                ways = [goal - who[i] for goal in goals]
                found = [float(moved[i] @ way / way.square().sum()) for way in ways]
                errors = [float((moved[i] - t * way).norm()) for t, way in zip(found, ways, strict=True)]
                shares[kind].append(found[errors.index(min(errors))])
                assert min(errors) < 1e-5, "along the way to one of them and nowhere else"
    for few in shares.values():
        assert 0 <= min(few) < 0.1 and 0.3 < max(few) < 0.4 and abs(sum(few) / len(few) - 0.2) < 0.05


def test_rows_of_one_role_differ_in_their_answers_where_they_can(model: Path, taught: None) -> None:
    learner = Teaching(config(model, TASK, "teach.rows=3"))
    role = learner.learned[0]
    few = [[example.answer for example in learner._varied(role, random.Random(i))] for i in range(60)]
    plain = random.Random(0)
    by_chance = sum(len({learner.task.draw(role, plain, False).answer for _ in range(3)}) == 3 for _ in range(60))
    assert by_chance < 30 < 45 < sum(len(set(answers)) == 3 for answers in few)


def test_how_agents_are_worded_is_learned_at_the_start_only(
    model: Path, taught: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plain = Descriptions._encode
    monkeypatch.setattr(Descriptions, "_encode", lambda self, text: read.append(text) or plain(self, text))
    (result,) = runs.train(config(model, TASK, "train.updates=1", f"train.folder={tmp_path}"))
    wordings = [text for role in colours().of("trained") for text in role.wordings]
    assert set(wordings) <= set(read)
    read.clear()
    _, _, learner = open_learner(result.folder)
    assert read == [], "what a run has learned of them stands in it"
    assert isinstance(learner.actor.conditioner, Described)
    saved = load_file(result.folder / "checkpoints/000000000001/policy.safetensors")
    for name, tensor in learner.actor.conditioner.state_dict().items():
        assert torch.equal(tensor, saved[f"conditioner.{name}"]), name
    read.clear()
    assert runs.Run.open(config(model, TASK, "train.updates=2"), result.folder).learner.update == 1
    assert read == []


def test_what_it_takes_to_begin_counts_as_time_of_training(
    model: Path, taught: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, now = runs.make_learner, [5.0]

    def slow(settings: LanguageConfig) -> runs.Learner:
        now[0] += 7.0
        return plain(settings)

    monkeypatch.setattr(runs, "make_learner", slow)
    monkeypatch.setattr(runs.time, "process_time", lambda: now[0])
    runs.Run.create(config(model, TASK, "train.updates=1"), tmp_path / "run").run()
    assert json.loads((tmp_path / "run/results.json").read_text())["cpu_seconds"] == 7.0


def test_what_is_unrelated_is_held_where_the_frozen_model_has_it(
    model: Path, taught: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = (Example("moon two", "sun one"), Example("one two moon", "dog"))
    monkeypatch.setattr("hypermarl.language.teaching.make_task", lambda *_: replace(colours(), unrelated=aside))
    lost, apart = {}, {}
    for weight in (0.0, 20.0):
        one = Teaching(config(model, TASK, f"teach.unrelated={weight}", "teach.unrelated_every=1", "train.updates=30"))
        for _ in range(30):
            told = one.iterate()
        lost[weight] = told["loss/answer"]
        weights = one.actor.weights(one.who(one.learned[:2], ["red cat", "red dog"]))
        given = one.lesson([[aside[0]], [aside[1]]], ["", ""], apart=True)
        mine = one.scores(given, weights).detach().log_softmax(-1)
        base = one.scores(given).log_softmax(-1)
        assert given.tokens.tolist() == one.backbone.tokenizer("sun one dog")["input_ids"], (
            "their ends are not asked for"
        )
        apart[weight] = float((base.exp() * (base - mine)).sum(-1).mean())
    assert apart[20.0] < 0.6 * apart[0.0], apart
    assert 0 <= told["loss/unrelated"] < 1 and lost[20.0] > lost[0.0]


@pytest.mark.parametrize("prompted", [False, True])
def test_what_the_frozen_model_expects_is_remembered_and_the_same(
    model: Path, taught: None, monkeypatch: pytest.MonkeyPatch, prompted: bool
) -> None:
    aside = (Example("moon two", "sun one"), Example("one two moon", "dog"), Example("sun", "moon moon"))
    monkeypatch.setattr("hypermarl.language.teaching.make_task", lambda *_: replace(colours(), unrelated=aside))
    sharing = ["sharing=shared_id"] if prompted else []
    kept = Teaching(config(model, TASK, "teach.unrelated=2", "teach.unrelated_every=1", *sharing))
    fresh = Teaching(config(model, TASK, "teach.unrelated=2", "teach.unrelated_every=1", *sharing))
    frozen: list[int] = []
    scores = kept.scores
    monkeypatch.setattr(
        kept, "scores", lambda rows, w=None: (w is None and frozen.append(len(rows.counts))) or scores(rows, w)
    )
    for _ in range(6):
        found = kept.iterate()
        with monkeypatch.context() as patch:
            patch.setattr("hypermarl.language.teaching.KEPT", 0)
            expected = fresh.iterate()
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert len(frozen) == 6 if prompted else frozen == [1] * len(aside), "with a role in its prompt it expects else"


def test_where_a_run_was_stopped_does_not_show_in_what_is_remembered(
    model: Path, taught: None, tmp_path: Path, ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = tuple(Example(" ".join(["moon", "sun", "two", "one"][:n] * m), "dog") for n in (1, 2, 3, 4) for m in (1, 2))
    monkeypatch.setattr("hypermarl.language.teaching.make_task", lambda *_: replace(colours(), unrelated=aside))
    more = ("train.updates=6", "train.checkpoint_every=2", f"train.folder={tmp_path}")
    more += ("teach.unrelated=3", "teach.unrelated_every=1")
    (whole,) = runs.train(config(model, TASK, *more, "train.run=whole"))
    ends(4, die)
    with pytest.raises(KeyboardInterrupt):
        runs.train(config(model, TASK, *more, "train.run=parted"))
    (resumed,) = runs.resume(tmp_path / "parted")
    assert same(saved(resumed.folder), saved(whole.folder))


def test_what_is_unrelated_is_asked_under_so_many_roles(
    model: Path, taught: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = tuple(Example(f"moon {word}", "sun") for word in ("one", "two", "red"))
    monkeypatch.setattr("hypermarl.language.teaching.make_task", lambda *_: replace(colours(), unrelated_test=tests))
    one = Teaching(config(model, TASK))
    asked: list[list[str]] = []
    who = one.who
    monkeypatch.setattr(one, "who", lambda roles, words: asked.append([r.name for r in roles]) or who(roles, words))
    for turns in (1, 3):
        asked.clear()
        unrelated(one, turns)
        assert len(asked) == turns
        assert all(len(set(names)) == turns for names in zip(*asked, strict=True)), "other roles in every turn"
    right = {"exact/unrelated": [True, False, False, False, True, True], "exact/unrelated_base": [False, True, True]}
    answers = iter([right["exact/unrelated"][:3], right["exact/unrelated"][3:], right["exact/unrelated_base"]])
    monkeypatch.setattr("hypermarl.language.examination.right", lambda *_: torch.tensor(next(answers)))
    assert unrelated(one, 2) == {"exact/unrelated": 3 / 6, "exact/unrelated_base": 2 / 3}
