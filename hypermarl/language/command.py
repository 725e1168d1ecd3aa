"""What `hypermarl language ...`, `hypermarl swarm ...` and `hypermarl resume` of their runs do and print."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from hypermarl import config as settings
from hypermarl.checkpoints import folder_of
from hypermarl.envs.words import parse_text
from hypermarl.errors import UserError
from hypermarl.language import judge
from hypermarl.language import run as runs
from hypermarl.language.compose import composed, cut, measure, read_text
from hypermarl.language.export import SERVED, served, write_adapter
from hypermarl.language.load import Author, open_author
from hypermarl.language.settings import LanguageConfig


def train(words: Sequence[str], root: str, dry_run: bool = False) -> None:
    """`root` is `language` or `swarm`, whose presets the words choose from."""
    config = settings.build(LanguageConfig, settings.compose(words, parse_text, root))
    if dry_run:
        show_plan(config)
        return
    show(runs.train(config), config)


def resume(path: Path, updates: int | None) -> None:
    folder = folder_of(path)
    results = runs.resume(folder.path, updates)
    show(results, runs.config_of(folder))


def generate(
    path: Path,
    out: Path,
    texts: Sequence[str],
    file: Path | None,
    documents: Sequence[Path],
    run_seed: int | None,
    device: str,
    chunk: int | None = None,
) -> None:
    """A PEFT folder in `out` for every text, every line of `file` and every document."""
    told = [*texts, *(line for line in (read_text(file).splitlines() if file else ()) if line.strip())]
    wanted = {document: read_text(document) for document in documents}
    if not told and not wanted:
        raise UserError("Say what the adapters are for: --text, --texts or --document.")
    author = open_author(path, run_seed, device)
    author.check_reads()
    taken: set[str] = set()
    for text in told:
        write(author, out / _name(text, taken), [text], text)
    for document, text in wanted.items():
        tokens, window = measure(author.config, author.backbone)
        if chunk is not None and chunk > window:
            raise UserError(f"--chunk {chunk} is more than the {window} tokens that the encoder reads.")
        write(author, out / _name(document.stem, taken), cut(text, tokens, chunk or window), text)
    print(f"Prompts go in the frame they were trained in, {author.config.backbone.frame!r}.")


def write(author: Author, folder: Path, chunks: Sequence[str], text: str) -> None:
    """The adapter of a text in one or several chunks."""
    generated = author.weights([author.code(each) for each in chunks])
    target, weights = composed(author.target, generated, author.shared())
    frame = author.config.backbone.frame
    write_adapter(folder, author.backbone, target, weights, generator=author.sha256, text=text, frame=frame)
    most = served(target.rank)
    if most is None:
        sentence = f"the rank {target.rank} of {folder} is more than the {SERVED[-1]} that vLLM serves"
        print(f"warning: {sentence}; larger chunks give fewer ranks.", file=sys.stderr)
    serving = f"; vLLM serves it with --max-lora-rank {most}" if most else ""
    several = f" of {len(chunks)} chunks" if len(chunks) > 1 else ""
    print(f"wrote {folder}  (rank {target.rank}{several}{serving})")


def _name(text: str, taken: set[str]) -> str:
    """A folder's name out of a text, none given twice."""
    plain = "-".join(re.findall(r"[a-z0-9]+", text.lower()))[:40].strip("-") or "adapter"
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    taken.add(name)
    return name


def show(results: Sequence[runs.Result], config: LanguageConfig) -> None:
    """What a person wants to know when training ends: how good it is, what is said now, and what to do next."""
    console = Console(highlight=False)
    last = results[-1]
    whole = last.folder.parent if config.seeds > 1 else last.folder
    print(f"{'Trained' if last.finished else 'Stopped after'} {last.update:,} updates, sharing={config.sharing.name}.")
    finished = [result for result in results if result.finished]
    if finished:
        console.print(judge.results_table(config, [result.results for result in finished]))
    if config.env is not None and last.update > 0:
        console.print(judge.answers(last.folder, config.device))
    print(f"Run folder:  {whole}")
    print(f"Curves:      tensorboard --logdir {whole}")
    if not last.finished:
        print(f"Next:        hypermarl resume {whole}")
        return
    print(f"Next:        hypermarl evaluate {whole}")
    if config.reads:
        print(f'             hypermarl language generate {last.folder} --text "..." --out adapters')
    print(f'             hypermarl.load_swarm("{last.folder}") in Python')


def show_plan(config: LanguageConfig) -> None:
    """Print the settings as YAML, then what would be trained and how large an adapter is."""
    learner: Any = runs.make_learner(config, fresh=False)
    print(yaml.safe_dump(settings.to_dict(config), sort_keys=False, default_flow_style=None, width=100).rstrip())
    actor = learner.actor
    counts = {
        part: sum(p.numel() for p in module.parameters() if p.requires_grad)
        for part, module in (("conditioner", actor.conditioner), ("generator", actor.generator))
    }
    table = Table(title="Trained parameters", caption_justify="left")
    for name in (*counts, "all", "one adapter", "bytes of an adapter"):
        table.add_column(name, justify="right")
    numel = learner.target.spec.numel()
    row = (*counts.values(), sum(counts.values()), numel, 4 * numel)
    table.add_row(*(f"{each:,}" for each in row))
    Console(highlight=False).print(table)
