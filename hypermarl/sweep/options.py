"""The options of `hypermarl sweep`; what it does is in `command`, loaded when it is called."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hypermarl.completion import complete_sweep

EXAMPLE = "Example: hypermarl sweep env=games/specialisation,vmas/dispersion sharing=hyper_mlp,shared_id seed=0,1,2"


class Launcher(StrEnum):
    local = "local"
    ray = "ray"


def sweep(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=A,B",
            help="Settings as of train; several values span a grid. Also launcher=, jobs=, retries=.",
            autocompletion=complete_sweep,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The sweep's folder (default: one in train.folder, the same for the same grid).")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the sweep in this folder.")] = None,
    launcher: Annotated[
        Launcher | None,
        typer.Option(
            help="Processes of this machine, or a running Ray cluster (RAY_ADDRESS), "
            "whose nodes must all see the sweep's folder.",
            show_default="local",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cells at a time.", show_default="by cores; with Ray no limit")
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(min=0, help="How often a cell whose process dies is tried again.", show_default="1"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all cells and list them, do nothing.")] = False,
) -> None:
    """Train a grid of experiments and put them in one table; again, it goes on where it stopped.

    Exit code 0: all cells finished; 1: some failed; 2: a mistake in the command, nothing started; 130: stopped.
    """
    from hypermarl.sweep.command import Options, run

    options = Options(out, launcher.value if launcher else None, jobs, retries)
    code = run(words or [], options, resume=resume, dry_run=dry_run)
    if code:
        raise typer.Exit(code)
