"""The command `hypermarl`: settings as `key=value` words, one sentence for what went wrong, torch loaded only when needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from hypermarl import config as settings
from hypermarl.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from hypermarl.marl.settings import ExperimentConfig

# module that is missing -> the extra that brings it
EXTRAS = {
    "vmas": "vmas",
    "pyglet": "vmas",
    "mpe2": "mpe",
    "pygame": "butterfly",
    "pymunk": "butterfly",
    "imageio": "video",
    "imageio_ffmpeg": "video",
    "moviepy": "video",
    "PIL": "video",
    "onnx": "export",
    "onnxruntime": "export",
}
LISTS = {"envs": "env", "algorithms": "algorithm", "sharing": "sharing", "models": "model"}
ANY_ENV = {
    "vmas/<scenario>": "any scenario of VMAS; its options as env.options.<name>=...",
    "pettingzoo/<module>": "any PettingZoo environment, for instance pettingzoo/mpe2.simple_tag_v3",
    "<package.module>:<function>": "your own function that returns a PettingZoo ParallelEnv or AECEnv",
}

app = typer.Typer(
    name="hypermarl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, evaluate and watch teams of agents whose weights one hypernetwork generates.",
)


def _complete(incomplete: str) -> list[str]:
    """Shell completion: `env=`, `sharing=`, ... and the names of their presets."""
    words = [f"{group}=" for group in settings.groups()]
    for group in settings.groups():
        if incomplete.startswith(f"{group}="):
            words = [f"{group}={name}" for name in settings.presets(group)]
    return [word for word in words if word.startswith(incomplete)]


Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings, for instance env=vmas/dispersion.", autocompletion=_complete),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its checkpoints.")]
Seed = Annotated[int, typer.Option(help="Seed of the episodes.")]
TeamSeed = Annotated[int | None, typer.Option(help="Which team of a run that trained several seeds.")]


@app.command(epilog="Example: hypermarl train env=vmas/dispersion sharing=hyper_mlp algorithm=ippo seed=3 device=cuda")
def train(
    words: Words = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print settings and parameter counts, do nothing.")] = False,
) -> None:
    """Train a team. Presets are chosen by name (see `list`), every other setting by its dotted key (see --dry-run)."""
    experiment = read_experiment(words or [])
    if dry_run:
        show_plan(experiment)
        return
    from hypermarl.marl.train import Experiment

    Experiment(experiment).run()


@app.command()
def resume(run: Run) -> None:
    """Continue a run from its newest checkpoint, as if it had never stopped."""
    from hypermarl.marl.train import Experiment

    Experiment.resume(run).run()


@app.command("list")
def list_presets(
    what: Annotated[str, typer.Argument(metavar="envs|algorithms|sharing|models", help="Which presets.")],
) -> None:
    """Show what can be chosen by name."""
    if what not in LISTS:
        raise UserError(f"There is no list of {what!r}; did you mean {settings.nearest(what, LISTS)!r}?")
    rows = settings.presets(LISTS[what]) | (ANY_ENV if what == "envs" else {})
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
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)
