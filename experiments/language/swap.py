"""How long an orchestrator waits for another agent: from a text to attached weights, on the default model.

    python experiments/language/swap.py [RUN]

Without a run, the untrained generator of sharing=hyper_text (what it costs does not depend on what it learned). Medians
of 20 texts after 3 to warm up, one thread, by the clock and in time of the processor, which neighbours on the machine
disturb less; a text is met for the first time, so nothing is remembered.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hypermarl.config import build, compose
from hypermarl.language import run as runs
from hypermarl.language.load import Author, open_author
from hypermarl.language.settings import LanguageConfig

TEXTS = [
    f"You are the {one}; you {two} and report what you find to the others."
    for one in ("auditor", "clerk", "lawyer", "cook", "pilot", "nurse")
    for two in ("check the accounts", "keep the records", "read every contract", "watch the machines")
]
WARM, ASKED = 3, 20


def untrained(folder: Path) -> Path:
    """A run that was saved before its first update."""
    words = ["env=words/specialisation", "sharing=hyper_text", f"train.folder={folder}", "train.progress=false"]
    one = runs.Run.create(build(LanguageConfig, compose(words, root="swarm")), folder / "run")
    one.folder.save(0, 0, policy=one.learner.actor.state_dict())
    return folder / "run"


def measure(author: Author) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds of every step, text by text: by the clock, and of the processor."""
    found: dict[str, list[tuple[float, float]]] = {"encode text": [], "generate": [], "attach": [], "total": []}
    tokens = torch.tensor([author.backbone.encode("Who are you?", chat=False)])

    def timed(name: str, do: Callable[[], Any]) -> Any:
        clock, cpu = time.perf_counter(), time.process_time()
        made = do()
        found[name].append((1000 * (time.perf_counter() - clock), 1000 * (time.process_time() - cpu)))
        return made

    for text in TEXTS[: WARM + ASKED]:
        timed("total", lambda text=text: author.target.adapters(author.weights([author.code(f"{text} Be brief.")])))
        code = timed("encode text", lambda text=text: author.code(text))
        weights = timed("generate", lambda code=code: author.weights([code]))

        def attach(weights: Any = weights) -> None:
            with author.target.attached(author.target.adapters(weights)):
                pass

        timed("attach", attach)  # and restored
        with torch.no_grad(), author.target.attached(author.target.adapters(weights)) as model:
            model(input_ids=tokens, use_cache=False, logits_to_keep=1)  # what is measured next finds caches as in use
    return found


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        author = open_author(sys.argv[1] if len(sys.argv) > 1 else untrained(Path(folder)))
        found = measure(author)
    adapter = 4 * author.target.spec.numel()
    table = Table(title=f"{author.backbone.name}, {author.config.sharing.name}, {adapter:,} bytes an adapter")
    table.add_column("step")
    for name in ("ms", "ms of the processor"):
        table.add_column(name, justify="right")
    for name, times in found.items():
        table.add_row(name, *(f"{statistics.median(each):.2f}" for each in zip(*times[WARM:], strict=True)))
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
