"""Judging a run: both forms on the same task, files for marl-eval, and runs that belong elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trained_run as runs
from scripted_env import ScriptedEnv

from hypermarl.envs.parallel import ParallelView
from hypermarl.errors import UserError
from hypermarl.evaluation import pettingzoo, read_json, vectorised
from hypermarl.marl.evaluate import FORMS, admit, episode_seed, evaluate_run, groups_of, load_all
from hypermarl.marl.policy import build_policy
from hypermarl.marl.settings import EnvConfig
from hypermarl.marl.team import Team, load

GAME = ("env=games/specialisation",)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    runs.make_run(tmp_path / "run", runs.experiment(*GAME, "seed=3"))
    return tmp_path / "run"


def test_both_forms_give_the_very_same_where_nothing_is_random(run: Path) -> None:
    found = evaluate_run(run, episodes=6)
    fast, slow = (found.episodes[form][0] for form in FORMS)
    assert fast.agents == slow.agents == ("agent_0", "agent_1", "agent_2", "agent_3")
    np.testing.assert_allclose(fast.returns, slow.returns)
    assert fast.lengths.tolist() == slow.lengths.tolist() == [10] * 6
    assert fast.groups == slow.groups


def test_sampled_play_differs_between_episodes_and_agrees_between_forms(run: Path) -> None:
    found = evaluate_run(run, episodes=60, greedy=False)
    assert found.episodes["vectorised"][0].team.std() > 0
    assert read_json(found.files[-1])["agree"] is True
    again = evaluate_run(run, episodes=60, greedy=False)
    for form in FORMS:
        np.testing.assert_array_equal(again.episodes[form][0].returns, found.episodes[form][0].returns)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("env=vmas/dispersion", "env.max_steps=40", "model=gru"), id="vmas"),
        pytest.param(("env=pettingzoo/mpe2.simple_tag_v3",), id="two groups"),
        pytest.param(("env=pettingzoo_toys:Pistons", "env.options.mask=info"), id="masks and deaths"),
        pytest.param(("env=pettingzoo_toys:Pistons", "env.options.see=image", "env.options.act=box"), id="images"),
    ],
)
def test_the_forms_agree_on_the_same_task(tmp_path: Path, words: tuple[str, ...]) -> None:
    runs.make_run(tmp_path / "run", runs.experiment(*words))
    found = evaluate_run(tmp_path / "run", episodes=30)
    fast, slow = (found.episodes[form][0] for form in FORMS)
    assert set(fast.agents) == set(slow.agents)
    for metric in ("return", "episode_length", *(f"return_{agent}" for agent in fast.agents)):
        ends = [summary["metrics"][metric] for summary in found.summaries.values()]
        assert max(end["low"] for end in ends) <= min(end["high"] for end in ends) + 1e-9, metric
    assert fast.returns.std() > 0


@pytest.mark.parametrize("model", ["mlp", "gru"])
def test_the_forms_agree_step_by_step_with_masks_and_deaths(model: str) -> None:
    config = runs.experiment(*GAME, f"model={model}")
    groups = ScriptedEnv(1).groups
    policies = {name: runs.stirred(build_policy(config, groups, name, 0), 5) for name in groups}
    team = Team(config, policies)
    env = ScriptedEnv(1)
    legal = []
    step = env.step
    env.step = lambda actions: (step(actions), legal.append(bool(env.legal.all())))[0]
    fast = vectorised.evaluate(env, team.acting(groups), episodes=2, seed=1)
    slow = pettingzoo.evaluate(team, lambda: ParallelView(ScriptedEnv(1)), episodes=2, seed=1)
    np.testing.assert_allclose(fast.returns, slow.returns)
    assert fast.alive.tolist() == slow.alive.tolist() == [[2, 5, 5, 5, 5]] * 2
    assert legal == [True] * 10


def test_files_are_what_marl_eval_reads(run: Path) -> None:
    found = evaluate_run(run, episodes=4)
    folder = run / "evaluation"
    names = [f"games-specialisation-000000000640-{word}.json" for word in (*FORMS, "summary")]
    assert [path.name for path in found.files] == names
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    for form in FORMS:
        entry = read_json(folder / f"games-specialisation-000000000640-{form}.json")
        own = entry["games"]["specialisation"]["ippo_hyper_mlp"]["seed_3"]
        assert own["step_0"]["step_count"] == 640
        assert own["absolute_metrics"]["return"] == own["step_0"]["return"] == found.episodes[form][0].team.tolist()
    summary = read_json(folder / names[-1])
    assert summary["forms"] == found.summaries
    assert "team return" in [str(cell) for cell in found.table().columns[0].cells]


def test_nothing_is_written_if_nothing_should_be(run: Path) -> None:
    assert evaluate_run(run, episodes=2, forms=["vectorised"], write=False).files == ()
    assert not (run / "evaluation").exists()


def test_a_checkpoint_is_judged_and_filed_under_its_run(run: Path) -> None:
    found = evaluate_run(run / "checkpoints" / "000000000640", episodes=2, forms=["pettingzoo"])
    assert {path.parent for path in found.files} == {run / "evaluation"}
    assert list(found.summaries) == ["pettingzoo"]


def test_seeds_are_judged_together_each_on_episodes_of_its_own(tmp_path: Path) -> None:
    runs.make_seeds(tmp_path / "run", runs.experiment(*GAME, "seed=2"), 3)
    found = evaluate_run(tmp_path / "run", episodes=5, forms=["vectorised"])
    summary = found.summaries["vectorised"]
    assert (summary["runs"], summary["episodes"], summary["resampled"]) == (3, 15, "runs")
    told = found.documents["vectorised"]["games"]["specialisation"]["ippo_hyper_mlp"]
    assert list(told) == ["seed_2", "seed_3", "seed_4"]
    assert (tmp_path / "run" / "evaluation").is_dir()
    assert len({episode_seed(0, k) for k in range(100)} | {episode_seed(1, k) for k in range(100)}) == 200
    alone = evaluate_run(tmp_path / "run", episodes=5, forms=["vectorised"], run_seed=3)
    np.testing.assert_array_equal(alone.episodes["vectorised"][0].returns, found.episodes["vectorised"][1].returns)
    assert {path.parent.parent.name for path in alone.files} == {"seed_3"}


@pytest.mark.parametrize("form", FORMS)
def test_no_two_seeds_meet_the_same_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    runs.make_seeds(tmp_path / "run", runs.experiment(*GAME), 3)
    module = {"vectorised": vectorised, "pettingzoo": pettingzoo}[form]
    play, met = module.evaluate, []
    monkeypatch.setattr(
        module, "evaluate", lambda a, b, n, seed, **more: met.append(seed) or play(a, b, n, seed, **more)
    )
    evaluate_run(tmp_path / "run", episodes=1, forms=[form], seed=7)
    assert met == [episode_seed(7, k) for k in range(3)]
    assert len(set(met)) == 3


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (
            EnvConfig("games", "specialisation", options={"n_agents": 8}),
            r"specialisation \(observes 16 numbers, 4 ",
        ),
        (EnvConfig("vmas", "navigation"), r"vmas/navigation \(observes \d+ numbers, 2 continuous action numbers"),
        (EnvConfig("games", "synchronisation", options={"n_agents": 2}), "cannot play games/synchronisation"),
    ],
)
def test_a_run_of_another_environment_is_refused_and_both_are_named(run: Path, place: EnvConfig, words: str) -> None:
    with pytest.raises(UserError, match=words):
        evaluate_run(run, env=place, episodes=2)
    assert not (run / "evaluation").exists()


def test_a_like_environment_is_played(run: Path) -> None:
    place = EnvConfig("games", "synchronisation", options={"n_agents": 4})
    found = evaluate_run(run, env=place, episodes=2, forms=["vectorised"])
    assert found.task == "games/synchronisation"
    assert all(path.name.startswith("games-synchronisation-") for path in found.files)


def test_more_agents_may_play_only_where_all_are_alike(tmp_path: Path) -> None:
    small = ("env=spread/bps_1", "env.max_steps=5")
    larger = replace(runs.experiment(*small).env, name="bps_2")
    for sharing in ("shared", "hyper_mlp", "shared_id"):
        runs.make_run(tmp_path / sharing, runs.experiment(*small, f"sharing={sharing}"))
    found = evaluate_run(tmp_path / "shared", env=larger, episodes=2)
    assert len(found.agents) == 30
    for sharing in ("hyper_mlp", "shared_id"):
        with pytest.raises(UserError, match=r"trained on spread/bps_1 has no agent .*of spread/bps_2.*team\.add"):
            evaluate_run(tmp_path / sharing, env=larger, episodes=2)
    with pytest.raises(UserError, match=r"observes 10 numbers, 5 actions\) cannot play spread/bps_3 \(observes"):
        evaluate_run(tmp_path / "shared", env=replace(larger, name="bps_3"), episodes=2)  # as many actions, more to see
    smaller = load(tmp_path / "hyper_mlp")
    assert admit(smaller, smaller.config.env) == groups_of(smaller.config.env)


def test_wrong_wishes_are_named(run: Path) -> None:
    with pytest.raises(UserError, match="no form of evaluation 'slow'"):
        evaluate_run(run, forms=["slow"])  # type: ignore[list-item]
    with pytest.raises(UserError, match="at least one form"):
        evaluate_run(run, forms=[])
    with pytest.raises(UserError, match="at least one episode, not 0"):
        evaluate_run(run, episodes=0)


def test_one_seed_of_several_can_be_loaded(tmp_path: Path) -> None:
    runs.make_seeds(tmp_path / "run", runs.experiment(*GAME), 2)
    assert [team.config.seed for team in load_all(tmp_path / "run", None)] == [0, 1]
    assert [team.config.seed for team in load_all(tmp_path / "run", 1)] == [1]
