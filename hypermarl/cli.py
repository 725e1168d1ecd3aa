"""The command `hypermarl`: settings as `key=value` words, mistakes in one sentence, torch loaded only when needed."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from hypermarl import config as settings
from hypermarl.completion import complete
from hypermarl.errors import UserError
from hypermarl.language_cli import joined
from hypermarl.sweep import options

if TYPE_CHECKING:
    from rich.table import Table

    from hypermarl.marl.settings import EnvConfig, ExperimentConfig
    from hypermarl.marl.train import Result

# module that is missing -> the extra that brings it
EXTRAS = {
    "vmas": "vmas",
    "pyglet": "vmas",
    "mpe2": "mpe",
    "pygame": "butterfly",
    "pymunk": "butterfly",
    "imageio": "video",
    "imageio_ffmpeg": "video",
    "onnx": "export",
    "onnxscript": "export",
    "ray": "ray",
    "transformers": "language",
    "tokenizers": "language",
    "gguf": "language",
}
LISTS = {
    "envs": "env",
    "algorithms": "algorithm",
    "sharing": "sharing",
    "models": "model",
    "speeds": "speed",
    "tasks": "task",
    "texts": "env",
}
ANY_ENV = {
    "vmas/<scenario>": "any scenario of VMAS; its options as env.options.<name>=...",
    "pettingzoo/<module>": "any PettingZoo environment, for instance pettingzoo/mpe2.simple_tag_v3",
    "<package.module>:<function>": "your own function that returns a PettingZoo ParallelEnv or AECEnv",
}

app = joined(
    typer.Typer(
        name="hypermarl",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Train, evaluate and watch teams of agents whose weights one hypernetwork generates.",
    )
)


Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings, for instance env=vmas/dispersion.", autocompletion=complete),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its checkpoints.")]
EnvWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ENV=...", help="Another environment: env=..., env.options.<name>=... (default: the run's own)."
    ),
]
RunSeed = Annotated[int | None, typer.Option(help="Which team of a run that trained several seeds.")]
Sampled = Annotated[bool, typer.Option("--sampled", help="Draw actions from the policy instead of the likeliest.")]
Device = Annotated[str, typer.Option(help="Where the networks run: cpu, cuda, cuda:1, ...")]


class Form(StrEnum):
    vectorised = "vectorised"
    pettingzoo = "pettingzoo"
    both = "both"


class Format(StrEnum):
    onnx = "onnx"
    torch = "torch"
    both = "both"


@app.command(epilog="Example: hypermarl train env=vmas/dispersion sharing=hyper_mlp algorithm=ippo seed=3 device=cuda")
def train(
    words: Words = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print settings and parameter counts, do nothing.")
    ] = False,
) -> None:
    """Train a team. Presets are chosen by name (see `list`), every other setting by its dotted key (see --dry-run)."""
    experiment = read_experiment(words or [])
    if dry_run:
        show_plan(experiment)
        return
    from hypermarl.marl.train import Experiment

    made = Experiment(experiment)
    result = made.run()
    if made.ranks.first:
        show_result(result, experiment, made.ranks.count)


sweep = app.command(epilog=options.EXAMPLE)(options.sweep)


@app.command()
def resume(
    run: Run,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Train to this frame instead of the one first asked for.")
    ] = None,
) -> None:
    """Continue a run from its newest checkpoint, as if it had never stopped; frames of language agents are updates."""
    if of_words(run):
        from hypermarl.language import command

        command.resume(run, frames)
        return
    from hypermarl.marl.train import Experiment

    made = Experiment.resume(run, frames)
    result = made.run()
    if made.ranks.first:
        show_result(result, made.config, made.ranks.count)


@app.command(epilog="Example: hypermarl evaluate runs/quick_start --episodes 200 --json result.json")
def evaluate(
    run: Run,
    words: EnvWords = None,
    form: Annotated[Form, typer.Option(help="Many copies at once, one copy through PettingZoo, or both.")] = Form.both,
    episodes: Annotated[
        int | None,
        typer.Option(min=1, help="Episodes per form and seed of the run (default: 100).", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the episodes.")] = 10_000,
    run_seed: RunSeed = None,
    sampled: Sampled = False,
    device: Device = "cpu",
    json: Annotated[Path | None, typer.Option(help="Also write marl-eval's JSON here, one file per form.")] = None,
) -> None:
    """Play episodes and report interquartile means with bootstrap intervals; files go to RUN/evaluation/.

    Of a run that learned a task, `episodes` is how many examples are asked of each role (default: its teach.items).
    """
    if of_words(run):
        from hypermarl.language import judge

        if form == Form.vectorised:
            raise UserError("Agents of words have no vectorised form: leave out --form, or say --form pettingzoo.")
        judge.evaluate(run, words or [], episodes, seed, run_seed, not sampled, device, json)
        return
    from rich.console import Console

    from hypermarl.evaluation import write_json
    from hypermarl.marl.evaluate import FORMS, evaluate_run

    found = evaluate_run(
        run,
        env=env_for(run, words or []),
        forms=[each for each in FORMS if form in (each, Form.both)],
        episodes=episodes or 100,
        seed=seed,
        run_seed=run_seed,
        greedy=not sampled,
        device=device,
    )
    files = list(found.files)
    if json is not None:
        several = len(found.documents) > 1
        for name, content in found.documents.items():
            files.append(write_json(json.with_stem(f"{json.stem}-{name}") if several else json, content))
    Console(highlight=False).print(found.table())
    for file in files:
        print(f"wrote {file}")


@app.command(epilog="Example: hypermarl render runs/quick_start --out team.gif --episodes 3")
def render(
    run: Run,
    words: EnvWords = None,
    out: Annotated[Path | None, typer.Option(help="The film, .mp4 or .gif (default: RUN/videos/<frame>.mp4).")] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to show.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the episodes.")] = 0,
    fps: Annotated[int, typer.Option(min=1, help="Frames per second.")] = 15,
    run_seed: RunSeed = None,
    sampled: Sampled = False,
    device: Device = "cpu",
) -> None:
    """Film a team."""
    from hypermarl.marl.render import render_run

    env = env_for(run, words or [])
    made = render_run(
        run, out, env=env, episodes=episodes, seed=seed, run_seed=run_seed, fps=fps, greedy=not sampled, device=device
    )
    print(f"wrote {made}")


@app.command(epilog="Example: hypermarl export runs/quick_start --out networks --format onnx")
def export(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files, one set per agent (default: RUN/networks).")
    ] = None,
    format: Annotated[Format, typer.Option(help="ONNX, torch.export (.pt2), or both.")] = Format.both,
    run_seed: RunSeed = None,
) -> None:
    """Write each agent's generated weights as a plain network that needs no hypernetwork, and no HyperMARL, to run."""
    from hypermarl.marl.export import export as write
    from hypermarl.marl.team import load

    formats = {Format.onnx: ["onnx"], Format.torch: ["pt2"], Format.both: ["pt2", "onnx"]}[format]
    team = load(run, run_seed)
    assert team.folder is not None
    for file in write(team, out or team.folder.path / "networks", formats=formats):
        print(f"wrote {file}")


@app.command(epilog="Example: hypermarl doctor env=my_package.my_module:make")
def doctor(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="ENV=...", help="env=..., env.options.<name>=...", autocompletion=complete),
    ] = None,
) -> None:
    """Try an environment and say in plain words what is wrong with it; exits with 2 if it cannot be trained on."""
    from rich.console import Console
    from rich.markup import escape

    from hypermarl.envs.doctor import examine

    env = read_env(words or [])
    findings = examine(env.kind, env.name, options=env.options, max_steps=env.max_steps)
    marks = {"ok": "[green]fine[/]   ", "warning": "[yellow]look at[/]", "fault": "[red]mend[/]   "}
    for finding in findings:
        Console(highlight=False).print(f"{marks[finding.level]}  {escape(finding.sentence)}", soft_wrap=True)
    if any(finding.level == "fault" for finding in findings):
        raise typer.Exit(2)


@app.command("list")
def list_presets(
    what: Annotated[str, typer.Argument(metavar="|".join(LISTS), help="Which presets.")],
) -> None:
    """Show what can be chosen by name."""
    if what not in LISTS:
        raise UserError(f"There is no list of {what!r}; did you mean {settings.nearest(what, LISTS)!r}?")
    if what == "texts":
        from hypermarl.envs.words import text_catalogue

        rows = settings.presets("env", "swarm") | {
            name: line for name, line in text_catalogue() if name not in settings.presets("env", "swarm")
        }
    else:
        rows = settings.presets(LISTS[what], "train" if what == "envs" else None)
        rows |= ANY_ENV if what == "envs" else {}
    width = max(map(len, rows))
    for name, line in rows.items():
        print(f"{LISTS[what]}={name:<{width}}  {line}")


@app.command()
def version() -> None:
    """Print the versions of HyperMARL and of what it stands on."""
    from importlib import metadata

    for package in ("hypermarl", "torch", "torchrl", "tensordict", "vmas", "pettingzoo", "mpe2"):
        try:
            print(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            print(f"{package} is not installed")


def read_experiment(words: list[str]) -> ExperimentConfig:
    """Settings from `key=value` words, checked."""
    from hypermarl.envs import parse
    from hypermarl.marl.settings import ExperimentConfig

    return settings.build(ExperimentConfig, settings.compose(words, parse))


def read_env(words: list[str], own: dict[str, Any] | None = None) -> EnvConfig:
    """The environment of `env=...` and `env.<key>=...` words; without `env=`, `own` with those keys changed."""
    from hypermarl.envs import parse
    from hypermarl.marl.settings import EnvConfig

    for word in words:
        key = word.partition("=")[0]
        if key.partition(".")[0] != "env":
            raise UserError(f"{key!r} cannot be set here, only env=... and env.<name>=...")
    given = settings.compose(words, parse)["env"]
    if own is not None and not any(word.startswith("env=") for word in words):
        given = {**own, **given, "options": {**own.get("options", {}), **given.get("options", {})}}
    return settings.build(EnvConfig, given, "env")


def env_for(run: Path, words: list[str]) -> EnvConfig | None:
    """Where a run's team is to play: None for its own environment, unless `words` change or replace that."""
    from hypermarl.checkpoints import folder_of

    return read_env(words, folder_of(run).config["env"]) if words else None


def of_words(run: Path) -> bool:
    """Whether a run, or the run of a checkpoint, is one of language agents."""
    from hypermarl.checkpoints import folder_of

    return "backbone" in folder_of(run).config


def show_result(result: Result, experiment: ExperimentConfig, ranks: int = 1) -> None:
    """What a person wants to know when training ends: how good it is, and what to do next."""
    from rich.console import Console

    from hypermarl.evaluation import report

    if result.episodes:
        task = f"{experiment.env.kind}/{experiment.env.name}"
        summary = {"final evaluation": report.summarise(result.episodes)}
        print(f"Trained {result.frame:,} frames with sharing={experiment.sharing.name}.")
        Console(highlight=False).print(report.table(task, summary, result.episodes[0].agents))
    else:
        several = f"torchrun --nproc-per-node={ranks} -m " if ranks > 1 else ""
        print(f"Stopped after {result.frame:,} frames; continue with: {several}hypermarl resume {result.folder}")
    print(f"Run folder:  {result.folder}")
    print(f"Curves:      tensorboard --logdir {result.folder}")
    one = result.folder / f"seed_{experiment.seed}" if experiment.seeds > 1 else result.folder
    print(f"Next:        hypermarl evaluate {result.folder}")
    print(f"             hypermarl render {one}")


def show_plan(experiment: ExperimentConfig) -> None:
    """Print the settings as YAML, then what would be trained by group."""
    import yaml
    from rich.console import Console

    from hypermarl import envs
    from hypermarl.marl.policy import parameter_counts

    env = experiment.env
    made = envs.make(env.kind, env.name, num_envs=1, max_steps=env.max_steps, options=env.options)
    try:
        counts = parameter_counts(experiment, made.groups)
        agents = {name: len(group.agents) for name, group in made.groups.items()}
    finally:
        made.close()
    print(yaml.safe_dump(settings.to_dict(experiment), sort_keys=False, default_flow_style=None, width=100).rstrip())
    Console(highlight=False).print(_count_table(counts, agents))


def _count_table(counts: dict[str, dict[str, int]], agents: dict[str, int]) -> Table:
    from rich.table import Table

    table = Table(title="Trained parameters")
    table.add_column("group")
    table.add_column("agents", justify="right")
    columns = list(next(iter(counts.values())))
    for name in columns:
        table.add_column("one agent's networks" if name == "target" else name, justify="right")
    for group, row in counts.items():
        table.add_row(group, str(agents[group]), *(f"{row[name]:,}" for name in columns))
    if len(counts) > 1:
        sums = (sum(row[name] for row in counts.values()) for name in columns)
        table.add_row("all", str(sum(agents.values())), *(f"{each:,}" for each in sums))
    return table


def main() -> None:
    """The entry point: what the user can mend is one sentence on stderr and exit code 2."""
    try:
        app()
    except Exception as error:
        if os.environ.get("HYPERMARL_DEBUG") == "1":
            raise
        sentence = _sentence(error)
        if sentence is None:
            raise
        _leave(sentence)


def _sentence(error: Exception) -> str | None:
    """What to tell the user, or None for a fault of ours, which deserves its traceback."""
    interface = sys.modules.get("hypermarl.envs.interface")  # not loaded, so nothing in it was raised
    if isinstance(error, UserError) or (interface and isinstance(error, interface.EnvironmentFault)):
        return " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in EXTRAS:
            return f"The package {package!r} is missing; install it with: pip install 'hypermarl[{EXTRAS[package]}]'."
    return None


def _leave(sentence: str) -> NoReturn:
    if _tells():
        print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def _tells() -> bool:
    """Whether it is for this process to speak: of those that torchrun started, the first that fails."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    from hypermarl.marl.ranks import Ranks

    return Ranks.of_environment().tells()
