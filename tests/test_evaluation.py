"""Both forms of evaluation, on environments whose returns can be told in advance, and the table made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv
from rich.console import Console

from hypermarl.envs.interface import Discrete, Group, Step, View
from hypermarl.errors import UserError
from hypermarl.evaluation import pettingzoo, report, vectorised
from hypermarl.evaluation.metrics import Episodes


class Countdown:
    """Environment e's episodes last `length(e, turn)` steps; everybody alive earns 1 a step, group two earns 10.

    Agent b of the first group dies after two steps; auto-resets like any VectorEnv.
    """

    def __init__(self, num_envs: int = 3, lengths: list[list[int]] | None = None, endless: bool = False) -> None:
        self.num_envs = num_envs
        self.device = torch.device("cpu")
        self.groups = {
            "one": Group("one", ("a", "b"), 1, Discrete(2)),
            "two": Group("two", ("c",), 1, Discrete(2)),
        }
        self.lengths = lengths or [[2 + e, 9] for e in range(num_envs)]
        self.endless = endless
        self.seeds: list[int | None] = []

    def _view(self) -> View:
        alive = torch.stack([torch.ones(self.num_envs, dtype=torch.bool), self.clock < 2], dim=1)
        seen = self.clock.float()[:, None, None]
        return View({"one": seen.expand(-1, 2, 1), "two": seen}, alive={"one": alive})

    def reset(self, seed: int | None = None) -> View:
        self.seeds.append(seed)
        self.clock = torch.zeros(self.num_envs, dtype=torch.long)
        self.turn = torch.zeros(self.num_envs, dtype=torch.long)
        return self._view()

    def step(self, actions: dict[str, torch.Tensor]) -> Step:
        assert actions["one"].shape == (self.num_envs, 2)
        before = self._view()
        self.clock = self.clock + 1
        limit = torch.tensor([self.lengths[e][int(self.turn[e]) % len(self.lengths[e])] for e in range(self.num_envs)])
        done = (self.clock >= limit) & (not self.endless)
        # The dead are paid nonsense: the evaluation must not count it.
        reward = {"one": torch.where(before.alive["one"], 1.0, 1000.0), "two": torch.full((self.num_envs, 1), 10.0)}
        self.turn = self.turn + done.long()
        self.clock = torch.where(done, 0, self.clock)
        flags = {name: done[:, None].expand(-1, len(group.agents)) for name, group in self.groups.items()}
        return Step(
            self._view(), reward, flags, {k: torch.zeros_like(v) for k, v in flags.items()}, before.observation, done
        )


def stay(view: View, fresh: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(seen.shape[:2], dtype=torch.long) for name, seen in view.observation.items()}


def test_vectorised_counts_whole_episodes_of_the_living() -> None:
    env = Countdown()
    played = vectorised.evaluate(env, stay, episodes=3, seed=5)
    assert env.seeds == [5]
    assert played.agents == ("a", "b", "c")
    assert played.lengths.tolist() == [2, 3, 4]
    assert played.returns.tolist() == [[2, 2, 20], [3, 2, 30], [4, 2, 40]]
    assert played.alive.tolist() == [[2, 2, 2], [3, 2, 3], [4, 2, 4]]
    np.testing.assert_allclose(played.team, [8, 35 / 3, 46 / 3])
    assert played.metrics()["return_one_mean"] == [2, 2.5, 3]


def test_vectorised_does_not_favour_short_episodes() -> None:
    """Environment 0 could finish all ten episodes before environment 1 ends its first."""
    env = Countdown(2, lengths=[[1], [30]])
    played = vectorised.evaluate(env, stay, episodes=10, seed=0)
    assert sorted(played.lengths.tolist()) == [1] * 5 + [30] * 5
    assert played.environment.tolist() == [0, 1] * 5
    assert played.agent("a").tolist() == played.lengths.tolist()  # every episode begins at nothing
    assert played.alive[:, 0].tolist() == played.lengths.tolist()


def test_vectorised_latches_an_environment_that_has_done_its_share() -> None:
    env = Countdown(2, lengths=[[3, 1, 1, 1, 1, 1], [8]])
    played = vectorised.evaluate(env, stay, episodes=2, seed=0)
    assert played.lengths.tolist() == [3, 8]
    assert played.agent("a").tolist() == [3.0, 8.0]


def test_uneven_quotas_are_fixed_in_advance() -> None:
    assert vectorised.quotas(7, 3).tolist() == [3, 2, 2]
    assert vectorised.quotas(2, 3).tolist() == [1, 1, 0]
    with pytest.raises(UserError, match="not 0"):
        vectorised.quotas(0, 3)


def test_vectorised_tells_the_policy_when_to_forget() -> None:
    seen: list[list[bool]] = []

    def act(view: View, fresh: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(fresh.tolist())
        assert (view.observation["two"][:, 0, 0] == 0).tolist() == fresh.tolist()  # the clock is new exactly there
        return stay(view, fresh)

    vectorised.evaluate(Countdown(2, lengths=[[2], [3]]), act, episodes=4, seed=0)
    assert seen == [[True, True], [False, False], [True, False], [False, True], [True, False], [False, False]]


def test_vectorised_refuses_an_episode_without_end() -> None:
    with pytest.raises(UserError, match="did not end within 50 steps"):
        vectorised.evaluate(Countdown(endless=True), stay, episodes=3, seed=0, longest=50)


class Relay(ParallelEnv):
    """Two runners; the seed decides how long an episode lasts, `b` drops out after two steps and `late` comes then."""

    metadata: ClassVar[dict[str, Any]] = {"name": "relay"}

    def __init__(self, masks: str = "none") -> None:
        self.possible_agents = ["a", "b", "late"]
        self.agents: list[str] = []
        self.masks = masks
        self.seeds: list[int | None] = []
        self.closed = False

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(-1, 1, (2,))

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(3)

    def _see(self) -> tuple[dict[str, Any], dict[str, Any]]:
        plain = {agent: np.full(2, self.clock, np.float32) for agent in self.possible_agents}  # even of the dead
        mask = np.array([0, 1, 0], np.int8)
        if self.masks == "observation":
            plain = {agent: {"observation": seen, "action_mask": mask} for agent, seen in plain.items()}
        infos = {agent: {"action_mask": mask} if self.masks == "infos" else {} for agent in self.agents}
        return plain, infos

    def reset(self, seed: int | None = None, options: dict | None = None):
        self.seeds.append(seed)
        self.length = 3 + (seed or 0) % 4
        self.clock = 0
        self.agents = ["a", "b"]
        return self._see()

    def step(self, actions: dict[str, Any]):
        assert set(actions) == set(self.agents)
        acted = list(self.agents)
        self.clock += 1
        over = self.clock >= self.length
        reward = {agent: float(actions[agent]) for agent in acted}
        ended = {agent: over or (agent == "b" and self.clock == 2) for agent in acted}
        arriving = ["late"] if self.clock == 2 and not over else []
        self.agents = [agent for agent in acted if not ended[agent]] + arriving
        seen, infos = self._see()
        return seen, reward, ended, {agent: False for agent in acted}, infos

    def close(self) -> None:
        self.closed = True


@dataclass
class Ones:
    """Plays 1, and remembers what it was given."""

    starts: list[tuple[list[str], int | None]] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    masks: list[dict[str, Any]] = field(default_factory=list)

    def reset(self, agents: list[str], seed: int | None = None) -> None:
        self.starts.append((agents, seed))

    def act(self, observations, masks=None):
        self.seen.append(dict(observations))
        self.masks.append(dict(masks or {}))
        return {agent: 1 for agent in observations}


def test_pettingzoo_plays_with_whoever_is_there() -> None:
    player, env = Ones(), Relay()
    played = pettingzoo.evaluate(player, lambda: env, episodes=6, seed=1)
    assert env.closed
    lengths = [3 + seed % 4 for seed in pettingzoo.episode_seeds(1, 6)]
    assert len(set(lengths)) > 1
    assert played.lengths.tolist() == lengths
    assert played.agents == ("a", "b", "late")
    assert played.returns.tolist() == [[n, 2, n - 2] for n in lengths]
    assert played.alive.tolist() == played.returns.tolist()
    assert player.starts == [(["a", "b"], seed) for seed in pettingzoo.episode_seeds(1, 6)]
    assert [set(seen) for seen in player.seen[:3]] == [{"a", "b"}, {"a", "b"}, {"a", "late"}]


@pytest.mark.parametrize("where", ["observation", "infos"])
def test_pettingzoo_finds_masks(where: str) -> None:
    player = Ones()
    pettingzoo.evaluate(player, lambda: Relay(masks=where), episodes=1, seed=1)
    assert player.masks[0]["a"].tolist() == [False, True, False]
    assert all(isinstance(seen["a"], np.ndarray) and seen["a"].shape == (2,) for seen in player.seen)


def test_pettingzoo_without_masks_gives_none() -> None:
    player = Ones()
    pettingzoo.evaluate(player, Relay, episodes=1, seed=1)
    assert player.masks[0] == {}


def test_episode_seeds_are_a_prefix_apart_and_small() -> None:
    seeds = pettingzoo.episode_seeds(3, 100)
    assert seeds[:10] == pettingzoo.episode_seeds(3, 10)
    assert len(set(seeds) | set(pettingzoo.episode_seeds(4, 100))) == 200
    assert min(seeds) >= 0 and max(seeds) < 2**31


def test_pettingzoo_refuses_an_episode_without_end_and_closes() -> None:
    env = Relay()
    with pytest.raises(UserError, match="did not end within 2 steps"):
        pettingzoo.evaluate(Ones(), lambda: env, episodes=1, seed=0, longest=2)
    assert env.closed


def test_pettingzoo_can_be_watched() -> None:
    steps: list[tuple[int, dict[str, float]]] = []
    pettingzoo.evaluate(Ones(), Relay, 1, 1, watch=lambda env, step, rewards: steps.append((step, dict(rewards))))
    assert [step for step, _ in steps] == list(range(len(steps)))
    assert steps[0][1] == {"a": 0, "b": 0}
    assert steps[2][1] == {"a": 2, "b": 2}


def _episodes(values: list[float], agents: int = 2) -> Episodes:
    count = len(values)
    return Episodes(
        tuple(f"agent_{i}" for i in range(agents)),
        np.tile(np.array(values)[:, None], (1, agents)),
        np.full(count, 10),
        np.full((count, agents), 10),
        np.zeros(count, int),
    )


def _text(summaries: dict[str, Any], agents: list[str]) -> str:
    console = Console(width=160, record=True, quiet=True)
    with console.capture() as captured:
        console.quiet = False
        console.print(report.table("spread", summaries, agents))
    return " ".join(captured.get().split())  # captions wrap


def test_one_run_resamples_episodes_and_several_their_means() -> None:
    one = report.summarise([_episodes([0.0, 1.0, 2.0, 3.0])])
    assert one["resampled"] == "episodes"
    assert one["metrics"]["return"]["iqm"] == pytest.approx(1.5)
    assert one["metrics"]["return"]["low"] < 1.5 < one["metrics"]["return"]["high"]
    several = report.summarise([_episodes([0.0, 10.0]), _episodes([5.0, 5.0])])  # equal means, so nothing varies
    assert (several["resampled"], several["runs"], several["episodes"]) == ("runs", 2, 4)
    assert (several["metrics"]["return"]["low"], several["metrics"]["return"]["high"]) == (5.0, 5.0)


def test_table_shows_both_forms_and_whether_they_agree() -> None:
    near = {
        "vectorised": report.summarise([_episodes([1.0, 2.0, 3.0])]),
        "pettingzoo": report.summarise([_episodes([1.5, 2.5])]),
    }
    text = _text(near, ["agent_0", "agent_1"])
    assert "team return" in text and "return of agent_1" in text and "episode length" in text
    assert "2 [1, 3]" in text and "2 [1.5, 2.5]" in text  # rich must not take [..] for its markup
    assert "IQM [95% interval]" in text and "The forms agree" in text and "not of other seeds" in text
    far = near | {"pettingzoo": report.summarise([_episodes([7.0, 8.0])])}
    assert "The forms DISAGREE" in _text(far, ["agent_0", "agent_1"])


def test_table_of_many_agents_stays_short() -> None:
    summary = report.summarise([_episodes([1.0, 2.0], agents=64)], resamples=50)
    text = _text({"vectorised": summary}, [f"agent_{i}" for i in range(64)])
    assert text.count("return of agent_") == 16
    assert "return of agent_63" in text
    assert len(summary["metrics"]) == 3 + 64
