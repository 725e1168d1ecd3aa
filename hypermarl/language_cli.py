"""The commands `hypermarl language ...` and `hypermarl swarm ...`; what they do is loaded when one is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypermarl.completion import complete_language, complete_swarm

language = typer.Typer(no_args_is_help=True, help="Teach language agents from examples, and write their adapters.")
swarm = typer.Typer(no_args_is_help=True, help="Train swarms of language agents by reward.")

Words = list[str] | None
TaskWords = Annotated[
    Words,
    typer.Argument(metavar="KEY=VALUE", help="Settings, for instance task=roles.", autocompletion=complete_language),
]
SwarmWords = Annotated[
    Words,
    typer.Argument(
        metavar="KEY=VALUE", help="Settings, for instance env=words/specialisation.", autocompletion=complete_swarm
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print settings and parameter counts, do nothing.")]


@language.command("train", epilog="Example: hypermarl language train task=roles sharing=hyper_text seed=0")
def train_language(words: TaskWords = None, dry_run: DryRun = False) -> None:
    """Teach roles from examples: descriptions become adapters. Presets by name, all else by dotted key (--dry-run)."""
    from hypermarl.language import command

    command.train(words or [], "language", dry_run)


@swarm.command("train", epilog="Example: hypermarl swarm train env=words/specialisation sharing=hyper_text seed=0")
def train_swarm(words: SwarmWords = None, dry_run: DryRun = False) -> None:
    """Train a swarm by reward in an environment of words, a preset, kind/name, or your own my_pkg.module:make."""
    from hypermarl.language import command

    command.train(words or [], "swarm", dry_run)


@language.command(
    epilog='Example: hypermarl language generate runs/roles-hyper_text-s0 --text "Answer in capitals." --out adapters'
)
def generate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that agents of words were trained in.")],
    out: Annotated[Path, typer.Option(help="Folder for the adapters, a PEFT folder for each text.")],
    text: Annotated[list[str] | None, typer.Option(help="What the agent is to be; may be given often.")] = None,
    texts: Annotated[Path | None, typer.Option(help="A file with one text per line.")] = None,
    document: Annotated[
        list[Path] | None,
        typer.Option(help="A file read whole, in chunks if it is long; their adapters add up to one of more rank."),
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a document's chunk.", show_default="what the encoder reads")
    ] = None,
    run_seed: Annotated[int | None, typer.Option(help="Which generator of a run that trained several seeds.")] = None,
    device: Annotated[str, typer.Option(help="Where the networks run: cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Write the adapters of texts, in one forward pass each, as PEFT folders that transformers and vLLM read."""
    from hypermarl.language import command

    command.generate(run, out, list(text or []), texts, list(document or []), run_seed, device, chunk)


def joined(app: typer.Typer) -> typer.Typer:
    """`app` with these commands."""
    app.add_typer(language, name="language")
    app.add_typer(swarm, name="swarm")
    return app
