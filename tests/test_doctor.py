"""The doctor: each ill is named, with what to do about it, and what is well is called well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import hypermarl.envs.doctor as doctor
from hypermarl.envs import make
from hypermarl.envs.doctor import Finding, examine
from hypermarl.envs.interface import Step, View

TOY, CARELESS = "pettingzoo_toys:Pistons", "pettingzoo_toys:Careless"


def told(findings: list[Finding], level: str) -> str:
    return "\n".join(finding.sentence for finding in findings if finding.level == level)


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("pettingzoo", "mpe2.simple_tag_v3", {}),
        ("pettingzoo", TOY, {}),
        ("pettingzoo", TOY, {"mask": "info"}),
        ("pettingzoo", TOY, {"mask": "observation", "act": "shifted"}),
        ("pettingzoo", TOY, {"act": "box"}),
        ("spread", "bps_1", {}),
    ],
)
def test_a_good_environment_is_well_in_every_way(kind: str, name: str, options: dict[str, Any]) -> None:
    findings = examine(kind, name, options=options)
    assert [finding for finding in findings if finding.level != "ok" and "It is slow" not in finding.sentence] == []
    words = told(findings, "ok")
    assert findings[-1] == Finding("ok", "It can be trained on.")
    for part in ("group", "same seed", "episodes ended", "Observations", "Rewards", "state can be stored"):
        assert part in words, part
    if kind == "pettingzoo":
        assert "of its spaces" in words
    if name == TOY:
        assert "Agents leave before the episode ends" in words
        assert ("some of them forbidden" in words) == ("mask" in options)
        assert ("parallel_api_test passes" in words) == (options.get("mask") != "info")


def test_groups_are_described() -> None:
    words = told(examine("pettingzoo", "mpe2.simple_tag_v3"), "ok")
    assert "2 groups: adversary (3 agents, adversary_0 to adversary_2; see 16 numbers, choose one of 5)" in words
    assert "agent (1 agent, agent_0; see 14 numbers, choose one of 5)" in words


@pytest.mark.parametrize(
    ("options", "words", "cure"),
    [
        ({"fault": "making"}, "making it raised ZeroDivisionError", "Mend it at the place"),
        ({"fault": "nobody"}, "'possible_agents' is empty", ""),
        ({"fault": "dict space"}, "observation space of agent 'piston_0' is a Dict", "flatten it into one Box"),
        ({"fault": "multidiscrete"}, "action space of agent 'piston_0' is a MultiDiscrete", "number the combinations"),
        ({"fault": "raise in reset"}, "reset raised KeyError", "Mend it at the place"),
        ({"fault": "raise"}, "step raised RuntimeError: the piston is stuck", "Mend it at the place"),
        ({"fault": "nan reward"}, "reward of agent 'piston_0' holds NaN", "division by zero"),
        ({"fault": "nan observation"}, "observation of agent 'piston_0' holds NaN", "division by zero"),
        ({"fault": "infinite observation"}, "is infinite", "Clip it"),
        (
            {"fault": "shape"},
            "has shape (3, 2), but its space says (2, 2)",
            "Make the space and what is returned agree",
        ),
        ({"fault": "float image", "see": "image"}, "has dtype float32, but its space says uint8", "agree"),
        ({"fault": "choice", "see": "choice"}, "is 19, but its space has the 20", "agree"),
        ({"fault": "word reward"}, "is no number but 'much'", "one plain number per agent"),
        ({"fault": "no reward"}, "step gave no reward for agent 'piston_0'", "needs an entry"),
        ({"fault": "no observation"}, "gave no observation for agent 'piston_0'", "needs an entry"),
        ({"fault": "four answers"}, "step must return five dictionaries", ""),
        ({"fault": "vanish"}, "left 'agents' without being terminated", "Say so in terminations"),
        ({"fault": "lingering"}, "is in 'agents' again", "take it out when it ends"),
        ({"fault": "empty mask", "mask": "info"}, "allows no action", "Leave at least one action legal"),
        ({"fault": "no mask", "mask": "info"}, "gave no action mask", "needs its mask at every step"),
    ],
)
def test_each_fault_is_named_with_its_cure(options: dict[str, Any], words: str, cure: str) -> None:
    findings = examine("pettingzoo", TOY, options={"at": 1, **options})
    faults = [finding.sentence for finding in findings if finding.level == "fault"]
    assert any(words in sentence and cure in sentence for sentence in faults), faults
    assert findings[-1] == Finding("fault", "It cannot be trained on before this is mended.")
    assert "It can be trained on." not in told(findings, "ok")


@pytest.mark.parametrize(
    ("habit", "words"),
    [
        ("dtype", "sees is float32, but its space says float64"),
        ("narrow", "which is outside of the low and high of its space"),
        ("new spaces", "makes a new space at every call"),
        ("new spaces", "PettingZoo's own parallel_api_test fails (AssertionError"),
        ("both flags", "terminated and truncated at once"),
        ("numbers for flags", "not all True or False"),
        ("never emptied", "'agents' is not emptied"),
        ("answers for all", "answers for agents that are not in 'agents'"),
        (
            "endless",
            "No episode ended within 1000 steps (it has no clock); if it may go on for ever, set env.max_steps",
        ),
        ("large", "sees numbers up to"),
        ("constant", "sees the same all the time"),
        ("no reward", "was never rewarded"),
        ("large reward", "are up to 10,000; divide them"),
        ("fixed start", "Every seed begins alike"),
        ("slow", "It is slow"),
    ],
)
def test_odd_habits_are_warned_of_and_no_more(habit: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if habit == "slow":
        monkeypatch.setattr(doctor, "_STEPS", 20)
    options = {"habit": habit, "n": 2}
    findings = examine("pettingzoo", CARELESS, options=options)
    assert words in told(findings, "warning")
    assert findings[-1] == Finding("ok", "It can be trained on.")
    without = told(examine("pettingzoo", CARELESS, options={"n": 2}), "warning")
    assert words not in without


def test_a_generator_that_is_not_seeded_is_found() -> None:
    words = told(examine("pettingzoo", TOY, options={"fault": "unseeded"}), "warning")
    assert "The same seed does not give the same episode twice" in words
    assert "Its state cannot be stored" in words


def test_a_clock_of_ours_counts() -> None:
    findings = examine("pettingzoo", CARELESS, options={"habit": "endless"}, max_steps=7)
    assert "after 7 steps, by truncation" in told(findings, "ok")


@pytest.mark.parametrize("name", ["classic.tictactoe_v3", "pettingzoo_toys:Relay"])
def test_turn_based_games_are_said_to_be_for_evaluation(name: str) -> None:
    findings = examine("pettingzoo", name)
    assert "it can be evaluated, but cannot be trained on" in told(findings, "warning")
    assert "games of random legal moves ended" in told(findings, "ok")
    assert "It can be trained on." not in told(findings, "ok")
    assert told(findings, "fault") == ""


def test_a_false_claim_to_be_parallelizable_is_a_fault() -> None:
    findings = examine("pettingzoo", "pettingzoo_toys:Relay", options={"parallelizable": True})
    assert "calls itself parallelizable" in told(findings, "fault")


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("nowhere", "x", "unknown kind 'nowhere'"),
        ("games", "specialization", "did you mean 'specialisation'"),
        ("pettingzoo", "mpe2.simple_sprad_v3", "did you mean 'simple_spread_v3'"),
    ],
)
def test_what_is_not_there_is_a_finding_too(kind: str, name: str, words: str) -> None:
    findings = examine(kind, name)
    assert words in told(findings, "fault")


class _Spoilt:
    """An environment of ours whose steps are changed on the way."""

    def __init__(self, change: Any) -> None:
        self.env, self.change = make("games", "specialisation", num_envs=4), change

    def __getattr__(self, word: str) -> Any:
        return getattr(self.env, word)

    def step(self, actions: Any) -> Step:
        return self.change(self.env.step(actions))


def _dead(step: Step) -> Step:
    nobody = {name: torch.zeros_like(reward, dtype=torch.bool) for name, reward in step.reward.items()}
    return replace(step, view=View(step.view.observation, step.view.mask, nobody))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: replace(s, reward={g: r / 0 for g, r in s.reward.items()}), "holds NaN or is infinite"),
        (lambda s: replace(s, reward={g: r[:, :1] for g, r in s.reward.items()}), "have shape (4, 1)"),
        (
            lambda s: replace(s, view=View({g: o.double() for g, o in s.view.observation.items()})),
            "sees torch.float64",
        ),
        (
            lambda s: replace(
                s,
                terminated={g: r > -1 for g, r in s.reward.items()},
                truncated={g: r > -1 for g, r in s.reward.items()},
            ),
            "both terminated and truncated",
        ),
        (_dead, "who is dead was rewarded"),
        (lambda s: 1 // 0, "stepping it raised ZeroDivisionError"),
    ],
)
def test_environments_of_every_kind_are_held_to_the_interface(
    change: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "make", lambda *_, **__: _Spoilt(change))
    findings = examine("games", "specialisation")
    assert words in told(findings, "fault")


def test_vmas_is_examined_like_the_others() -> None:
    pytest.importorskip("vmas")
    findings = examine("vmas", "dispersion", max_steps=20)
    assert findings[-1] == Finding("ok", "It can be trained on.")
    assert "after 20 steps, by truncation" in told(findings, "ok")
