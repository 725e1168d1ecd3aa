"""Judge a run of language agents: what it knows by column, what it earns, and what its agents say, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hypermarl import config as settings
from hypermarl.checkpoints import find_checkpoint, folder_of
from hypermarl.envs.words import parse_text
from hypermarl.errors import UserError
from hypermarl.evaluation import Episodes, Measurement, document, merge, report, write_json
from hypermarl.evaluation import pettingzoo as playing
from hypermarl.evaluation.metrics import Document
from hypermarl.language.converse import Speech
from hypermarl.language.examination import examine
from hypermarl.language.player import WordPlayer
from hypermarl.language.rewarding import Rewarding
from hypermarl.language.run import check_base, config_of, make_learner, restore
from hypermarl.language.settings import LanguageConfig, TextEnvConfig
from hypermarl.language.teaching import Teaching
from hypermarl.runs import Checkpoint, RunFolder

Learner = Teaching | Rewarding
EPISODES = 100
WIDEST = 60  # letters of a role or an answer in a table


def open_learner(
    path: Path, seed: int | None = None, device: str = "cpu", env: TextEnvConfig | None = None
) -> tuple[RunFolder, Checkpoint, Learner]:
    """What a run has learned, at its newest checkpoint or at the one `path` names, in its own environment or `env`."""
    folder, checkpoint = find_checkpoint(path, seed)
    config = replace(config_of(folder), device=device, seeds=1)
    learner: Any = make_learner(config if env is None else replace(config, env=env), fresh=False)
    check_base(folder, learner.backbone)
    known = folder.groups.get("agents", {})
    if env is not None and list(learner.names) != list(known):
        raise UserError(
            f"A swarm of {', '.join(known)} cannot play {env.kind}/{env.name}, where {', '.join(learner.names)} play; "
            "load it in Python with hypermarl.load_swarm and let them join with add()."
        )
    restore(learner.actor, folder.load(checkpoint, ("policy",))["policy"], checkpoint.path)
    learner.update = checkpoint.iteration
    return folder, checkpoint, learner


def evaluate(
    path: Path,
    words: Sequence[str],
    episodes: int | None,
    seed: int,
    run_seed: int | None,
    greedy: bool,
    device: str,
    json: Path | None,
) -> None:
    """Print a table and write JSON to RUN/evaluation/; of several seeds all are judged, unless `run_seed` is given."""
    folder = folder_of(path)
    config = config_of(folder)
    place = environment(config, words)
    several = [] if run_seed is not None or folder.path != path else folder.seeds()
    opened = [open_learner(one, run_seed, device, place) for one in ([each.path for each in several] or [path])]
    where = (folder.path if len(opened) > 1 else opened[0][0].path) / "evaluation"
    stem = f"{(opened[0][2].config).name}-{opened[0][1].frame:012d}"
    console = Console(highlight=False)
    if config.task is not None:
        items = config.teach.items if episodes is None else episodes
        found = [_examined(learner, items, seed) for _, _, learner in opened]
        content = {f"seed_{learner.config.seed}": one for (_, _, learner), one in zip(opened, found, strict=True)}
        console.print(results_table(config, found))
        files = [write_json(where / f"{stem}.json", {"task": config.name, "items": items, "results": content})]
    else:
        played = [_played(learner, episodes or EPISODES, seed, greedy) for _, _, learner in opened]
        content, summary = _documents(opened, played)
        console.print(report.table(summary["task"], summary["forms"], played[0].agents))
        files = [write_json(where / f"{stem}-pettingzoo.json", content)]
        files.append(write_json(where / f"{stem}-summary.json", summary))
    if json is not None:
        files.append(write_json(json, content))
    for file in files:
        print(f"wrote {file}")


def environment(config: LanguageConfig, words: Sequence[str]) -> TextEnvConfig | None:
    """Where to play: None for the run's own, unless `words` change or replace that."""
    if not words:
        return None
    if config.env is None:
        raise UserError(f"A run that learned the task {config.name} has no environment; leave out {words[0]!r}.")
    for word in words:
        if word.partition("=")[0].partition(".")[0] != "env":
            raise UserError(f"{word.partition('=')[0]!r} cannot be set here, only env=... and env.<name>=...")
    given: dict[str, Any] = settings.compose(words, parse_text, "swarm")["env"]
    if not any(word.startswith("env=") for word in words):
        own = settings.to_dict(config.env)
        given = {**own, **given, "options": {**own["options"], **given.get("options", {})}}
    return settings.build(TextEnvConfig, given, "env")


def results_table(config: LanguageConfig, found: Sequence[Mapping[str, float]]) -> Table:
    """Of one or several runs: shares by column where a task was learned, else what was earned."""
    seeds = f", mean of {len(found)} seeds" if len(found) > 1 else ""
    table = Table()
    means = {name: float(np.mean([one[name] for one in found if name in one])) for name in found[0]}
    table.add_column(f"{config.name}{seeds}", no_wrap=True)
    if config.task is None:
        table.add_column("return", justify="right")
        for name, value in means.items():
            table.add_row(name.removeprefix("return/"), f"{value:.3f}")
        return table
    rows = list(dict.fromkeys(name.partition("/")[0] for name in means))
    columns = list(dict.fromkeys(name.partition("/")[2] for name in means))
    for row in rows:
        table.add_column(row, justify="right")
    for column in columns:
        cells = (means.get(f"{row}/{column}") for row in rows)
        table.add_row(column, *("-" if cell is None else f"{cell:.3f}" for cell in cells))
    return table


def answers(path: Path, device: str = "cpu", seed: int = 0) -> Table:
    """One episode, as the frozen model plays it, where adapters start, and as the trained swarm does."""
    _, _, learner = open_learner(path, None, device)
    assert isinstance(learner, Rewarding)
    weights = {name: tensor.detach() for name, tensor in learner.actor.weights(learner.who()).items()}
    before, _ = _episode(learner, None, seed)
    after, earned = _episode(learner, weights, seed)
    table = Table(title=f"One episode of {learner.config.name}", title_justify="left")
    for name in ("agent", "role", "answer before", "answer after"):
        table.add_column(name)
    table.add_column("reward", justify="right")
    for agent in learner.agents:
        texts = (learner.roles[agent], before.get(agent, "-"), after.get(agent, "-"))
        table.add_row(escape(agent), *(_short(text) for text in texts), f"{earned.agent(agent)[0]:.3g}")
    return table


class _Noting:
    """A player whose first answers are kept."""

    def __init__(self, player: WordPlayer) -> None:
        self.player = player
        self.said: dict[str, str] = {}

    def reset(self, agents: list[str], seed: int | None = None) -> None:
        self.player.reset(agents, seed)

    def act(self, observations: Mapping[str, Any], masks: Mapping[str, NDArray[Any]] | None = None) -> dict[str, str]:
        said = self.player.act(observations, masks)
        self.said = said | self.said
        return said


def _episode(learner: Rewarding, weights: dict[str, Any] | None, seed: int) -> tuple[dict[str, str], Episodes]:
    """What each agent says first, and what it earns."""
    config = learner.config.reward
    speech = Speech(learner.backbone, learner.target, weights, config.temperature)
    player = WordPlayer(learner.asking, speech, config.tokens)
    noting = _Noting(player)
    earned = playing.evaluate(noting, lambda: player.attach(learner.make_env()), 1, seed)
    return noting.said, earned


def _examined(learner: Learner, items: int, seed: int) -> dict[str, float]:
    assert isinstance(learner, Teaching)
    return examine(learner, items, seed=seed)


def _played(learner: Learner, episodes: int, seed: int, greedy: bool) -> Episodes:
    assert isinstance(learner, Rewarding)
    # runs of one experiment do not meet the very same episodes
    own = int(np.random.SeedSequence([seed, learner.config.seed]).generate_state(1)[0]) & 0x7FFFFFFF
    return learner.play(episodes, own, greedy)


def _documents(
    opened: Sequence[tuple[RunFolder, Checkpoint, Learner]], played: Sequence[Episodes]
) -> tuple[Document, dict[str, Any]]:
    """marl-eval's JSON, and the summary that the table shows."""
    parts = []
    for (_, checkpoint, learner), episodes in zip(opened, played, strict=True):
        config = learner.config
        assert config.env is not None
        algorithm = f"{config.reward.objective}_{config.sharing.name}"
        measured = [Measurement(checkpoint.frame, episodes)]
        parts.append(document(config.env.kind, config.env.name, algorithm, config.seed, measured))
    place = opened[0][2].config.env
    assert place is not None
    summary = {"task": f"{place.kind}/{place.name}", "forms": {"pettingzoo": report.summarise(played)}}
    return merge(*parts), summary


def _short(text: str) -> str:
    text = " ".join(text.split())
    return escape(text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}...")
