"""The frozen model on the tasks of this folder, nothing trained: alone, with the description in its prompt, and with what
plain retrieval finds of it.

    OMP_NUM_THREADS=1 python experiments/language/baselines.py roles documents --out experiments/language/baselines.json
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from cells import CELLS

from hypermarl import config as settings
from hypermarl.language.examination import examine
from hypermarl.language.lessons import chosen, lesson, right
from hypermarl.language.settings import LanguageConfig
from hypermarl.language.tasks.documents import top_chunks
from hypermarl.language.teaching import Teaching

FRAMES = {"as trained": (), "chat": ("backbone.frame=chat",)}


def untrained(task: str, sharing: str, frame: tuple[str, ...], more: tuple[str, ...] = ()) -> Teaching:
    """B starts at zero, so before the first update adapters change nothing."""
    words = next(iter(CELLS[task].values())).split()
    kept = [word for word in words if word.startswith(("task", "task.options", "description", "teach.items"))]
    composed = settings.compose([*kept, f"sharing={sharing}", *frame, *more], root="language")
    return Teaching(settings.build(LanguageConfig, composed), fresh=False)


@torch.no_grad()
def retrieved(learner: Teaching, items: int) -> dict[str, float]:
    """The three best chunks of a document in the prompt, for the documents that are never trained."""
    exact, choice = [], []
    rng = random.Random("exam/0/new")
    for role in learner.task.of("new"):
        examples = [learner.task.draw(role, rng, True) for _ in range(items)]
        for example in examples:
            given = lesson(
                learner.backbone,
                learner.config.backbone.frame,
                [[example]],
                [top_chunks(role.wordings[0], example.prompt, 3)],
            )
            scores = learner.scores(given)
            exact += right(scores, given).tolist()
            choice += chosen(learner.backbone, learner.config.backbone.frame, scores, given, [example])
    return {"exact/new": sum(exact) / len(exact), "choice/new": sum(choice) / len(choice)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=[task for task in CELLS if task != "swarm"])
    parser.add_argument("--items", type=int, default=4)
    parser.add_argument(
        "--more", nargs="+", default=[], help="settings beside those of cells.py, such as a smaller task"
    )
    parser.add_argument("--out", type=Path, help="other tasks' numbers in it are kept")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    more = tuple(asked.more)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for task in asked.tasks:
        rows = found.setdefault(task, {})
        for name, frame in FRAMES.items():
            only = (
                ["new", "shuffled"]
                if task == "documents"
                else ["unseen", "recombined", "recombined_seen", "new", "unrelated"]
            )
            if not frame:
                rows["base"] = examine(untrained(task, "shared", frame, more), asked.items, only=["seen", *only])
                print(task, "base", rows["base"], flush=True)
            told = untrained(task, "shared_id", frame, more)
            rows[f"base, description in the prompt, {name}"] = examine(told, asked.items, only=only)
            if task == "documents":
                rows[f"base, retrieved chunks in the prompt, {name}"] = retrieved(told, asked.items)
            for row, values in rows.items():
                print(task, row, values, flush=True)
    if asked.out:
        before = json.loads(asked.out.read_text()) if asked.out.exists() else {}
        asked.out.write_text(json.dumps(before | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
