"""Judge a run: both forms of play on one task, a table, and marl-eval's JSON beside the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

from hypermarl import envs
from hypermarl.envs.interface import Discrete, Group
from hypermarl.envs.parallel import ParallelView
from hypermarl.errors import UserError
from hypermarl.evaluation import pettingzoo, report, vectorised
from hypermarl.evaluation.metrics import Document, Episodes, Measurement, document, merge, write_json
from hypermarl.marl.settings import EnvConfig
from hypermarl.marl.team import Team, load
from hypermarl.runs import RunFolder

Form = Literal["vectorised", "pettingzoo"]
FORMS: tuple[Form, ...] = ("vectorised", "pettingzoo")
_WIDEST = 512  # environments side by side


@dataclass(frozen=True)
class Evaluation:
    """How a run did: `summaries` by form as JSON takes them, `documents` by form as marl-eval takes them."""

    task: str
    agents: tuple[str, ...]
    episodes: dict[str, list[Episodes]]  # form -> of each seed
    summaries: dict[str, dict[str, Any]]
    documents: dict[str, Document]
    files: tuple[Path, ...] = ()

    def table(self) -> Table:
        return report.table(self.task, self.summaries, self.agents)


def evaluate_run(
    path: str | Path,
    *,
    env: EnvConfig | None = None,
    forms: Sequence[Form] = FORMS,
    episodes: int = 100,
    seed: int = 10_000,
    run_seed: int | None = None,
    greedy: bool = True,
    device: str = "cpu",
    level: float = 0.95,
    write: bool = True,
) -> Evaluation:
    """Play `episodes` episodes per form with a run's team (or teams, one per seed), on its own environment or on `env`.

    Every seed's team meets episodes of its own, drawn from `seed` and its number. Files go to RUN/evaluation/.
    """
    for form in forms:
        if form not in FORMS:
            raise UserError(f"There is no form of evaluation {form!r}, only {' and '.join(FORMS)}.")
    if not forms:
        raise UserError(f"Say at least one form of evaluation: {' or '.join(FORMS)}.")
    if episodes < 1:
        raise UserError(f"An evaluation needs at least one episode, not {episodes}.")
    teams = load_all(path, run_seed, device, greedy)
    place = env or teams[0].config.env
    played: dict[str, list[Episodes]] = {form: [] for form in forms}
    for team in teams:
        groups = admit(team, place)
        own = episode_seed(seed, team.config.seed)
        for form in forms:
            play = _vectorised if form == "vectorised" else _pettingzoo
            played[form].append(play(team, place, groups, episodes, own, device))
    result = Evaluation(
        task=f"{place.kind}/{place.name}",
        agents=played[forms[0]][0].agents,
        episodes=played,
        summaries={form: report.summarise(runs, level=level) for form, runs in played.items()},
        documents={form: _document(teams, place, runs) for form, runs in played.items()},
    )
    if not write:
        return result
    files = _write(result, Path(path), teams, place)
    return Evaluation(**{**vars(result), "files": files})


def load_all(path: str | Path, seed: int | None, device: str = "cpu", greedy: bool = True) -> list[Team]:
    """One team per seed of the run at `path`, or the one of `seed`."""
    path = Path(path)
    if seed is None and (path / "config.json").exists():
        several = RunFolder.open(path).seeds()
        if several:
            return [load(each.path, None, device, greedy=greedy) for each in several]
    return [load(path, seed, device, greedy=greedy)]


def episode_seed(seed: int, run_seed: int) -> int:
    """Where one team's evaluation begins: runs of one experiment do not meet the very same episodes."""
    return int(np.random.SeedSequence([seed, run_seed]).generate_state(1)[0]) & 0x7FFFFFFF


def admit(team: Team, place: EnvConfig) -> dict[str, Group]:
    """The environment's groups, if the team fits them; a UserError names both if it was made for another.

    Where all agents share one policy, agents it never met may play too.
    """
    groups = groups_of(place)
    trained = f"{team.config.env.kind}/{team.config.env.name}"
    asked = f"{place.kind}/{place.name}"
    for group in groups.values():
        squad = next((squad for squad in team.squads.values() if set(squad.agents) & set(group.agents)), None)
        squad = squad or team.squads.get(group.name)
        if squad is None:
            names = ", ".join(team.agents)
            raise UserError(f"A team trained on {trained} ({names}) has nobody for {group.name!r} of {asked}.")
        if (squad.group.observation, _actions(squad.group)) != (group.observation, _actions(group)):
            raise UserError(
                f"A team trained on {trained} (observes {squad.group.observation} numbers, {_actions(squad.group)}) "
                f"cannot play {asked} (observes {group.observation} numbers, {_actions(group)})."
            )
        strangers = [agent for agent in group.agents if agent not in team.agents]
        if strangers and not squad.alike:
            raise UserError(
                f"A team trained on {trained} has no agent {', '.join(strangers)} of {asked}; "
                "load it in Python and let them join with team.add()."
            )
        for agent in strangers:
            team.add(agent, group=squad.group.name)
    return groups


def groups_of(place: EnvConfig) -> dict[str, Group]:
    """Who plays in an environment; turn-based games, which have no vectorised form, included."""
    env = envs.make_parallel(place.kind, place.name, max_steps=place.max_steps, options=place.options)
    try:
        groups: Mapping[str, Group] = env.vector.groups if isinstance(env, ParallelView) else env.groups
        return dict(groups)
    finally:
        env.close()


def _actions(group: Group) -> str:
    if isinstance(group.action, Discrete):
        return f"{group.action.n} actions"
    return f"{group.action.size} continuous action numbers"


def _vectorised(
    team: Team, place: EnvConfig, groups: dict[str, Group], episodes: int, seed: int, device: str
) -> Episodes:
    env = envs.make(
        place.kind,
        place.name,
        num_envs=min(episodes, place.num_envs if place.kind == "pettingzoo" else _WIDEST),
        device=device,
        max_steps=place.max_steps,
        workers=place.workers,
        options=place.options,
    )
    try:
        return vectorised.evaluate(env, team.acting(groups, seed), episodes, seed)
    finally:
        env.close()


def _pettingzoo(
    team: Team, place: EnvConfig, groups: dict[str, Group], episodes: int, seed: int, device: str
) -> Episodes:
    def make_env() -> Any:
        env = envs.make_parallel(place.kind, place.name, max_steps=place.max_steps, options=place.options)
        team.attach(env)
        return env

    sides = {name: group.agents for name, group in groups.items()}
    return pettingzoo.evaluate(team, make_env, episodes, seed, groups=sides)


def _document(teams: Sequence[Team], place: EnvConfig, runs: Sequence[Episodes]) -> Document:
    parts = []
    for team, played in zip(teams, runs, strict=True):
        config = team.config
        frame = team.checkpoint.frame if team.checkpoint else 0
        algorithm = f"{config.algorithm.name}_{config.sharing.name}"
        parts.append(document(place.kind, place.name, algorithm, config.seed, [Measurement(frame, played)]))
    return merge(*parts)


def _write(result: Evaluation, path: Path, teams: Sequence[Team], place: EnvConfig) -> tuple[Path, ...]:
    first = teams[0]
    assert first.folder is not None
    assert first.checkpoint is not None
    run = path if len(teams) > 1 else first.folder.path
    stem = f"{place.kind}-{place.name}".replace("/", "-").replace(":", "-")
    stem = f"{stem}-{first.checkpoint.frame:012d}"
    folder = run / "evaluation"
    files = [write_json(folder / f"{stem}-{form}.json", content) for form, content in result.documents.items()]
    summary: dict[str, Any] = {"task": result.task, "forms": result.summaries}
    if len(result.summaries) > 1:
        summary["agree"] = report.agree(result.summaries)
    return (*files, write_json(folder / f"{stem}-summary.json", summary))
