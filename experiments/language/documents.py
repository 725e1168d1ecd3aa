"""What a document's adapter knows of it, against the document in the prompt, what retrieval finds of it, nothing, and another's adapter.

    OMP_NUM_THREADS=1 python experiments/language/documents.py runs/language/documents-hyper_document-s*

Questions in words that training has not; `choice` is among the eight values of a topic (.125 by chance). Of several runs (seeds) a document
counts by its mean; intervals are 95 % bootstrap intervals over documents.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from hypermarl.evaluation.statistics import interval, mean
from hypermarl.language.judge import open_learner
from hypermarl.language.lessons import chosen, lesson, right
from hypermarl.language.task import Example, Role
from hypermarl.language.tasks.documents import top_chunks
from hypermarl.language.teaching import Teaching

Scored = tuple[float, float]  # exact, choice
PARTS = {"trained": "trained on", "new": "never seen"}


def asked(learner: Teaching, few: Sequence[Example], prefixes: Sequence[str | None], reader: Role | None) -> Scored:
    """Shares of the examples answered, each after its prefix, under the adapter of `reader`, if any."""
    backbone, frame = learner.backbone, learner.config.backbone.frame
    weights = None if reader is None else learner.actor.weights(learner.who([reader], [reader.wordings[0]]))
    exact, choice = [], []
    for example, prefix in zip(few, prefixes, strict=True):  # one by one: a batch of documents would not fit
        given = lesson(backbone, frame, [[example]], [prefix])
        scores = learner.scores(given, weights)
        exact += right(scores, given).tolist()
        choice += chosen(backbone, frame, scores, given, [example])
    return sum(exact) / len(exact), sum(choice) / len(choice)


def opened(path: Path) -> Teaching:
    _, _, learner = open_learner(path)
    assert isinstance(learner, Teaching)
    return learner


def averaged(scores: Sequence[Scored]) -> Scored:
    exact, choice = zip(*scores, strict=True)
    return sum(exact) / len(scores), sum(choice) / len(scores)


def cell(values: Sequence[float]) -> str:
    found = interval(mean, list(values))
    return f"{found.point:.2f} [{found.low:.2f}, {found.high:.2f}]"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="seeds of one system")
    parser.add_argument("--items", type=int, default=6, help="questions to a document")
    parser.add_argument("--most", type=int, default=60, help="documents of each part")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    learners = [opened(path) for path in wanted.runs]
    print("| documents | system | exact | choice |\n|---|---|---|---|")
    for part in wanted.parts:
        name, roles = PARTS[part], learners[0].task.of(part)[: wanted.most]
        rng = random.Random(f"documents/{part}")
        questions = [[learners[0].task.draw(role, rng, True) for _ in range(wanted.items)] for role in roles]
        nothing = [None] * wanted.items
        rows: dict[str, list[Scored]] = {}
        for i, (role, few) in enumerate(zip(roles, questions, strict=True)):
            text = role.wordings[0]
            other = roles[(i + len(roles) // 3) % len(roles)]
            for system, reader in (("its adapter", role), ("another document's adapter", other)):
                scores = [asked(learner, few, nothing, reader) for learner in learners]
                rows.setdefault(system, []).append(averaged(scores))
            for system, prefixes in (
                ("nothing", nothing),
                ("retrieved in the prompt", [top_chunks(text, example.prompt, 3) for example in few]),
                ("in the prompt", [text] * wanted.items),
            ):
                rows.setdefault(system, []).append(asked(learners[0], few, prefixes, None))
        for system, scored in rows.items():
            cells = " | ".join(cell([one[kind] for one in scored]) for kind in (0, 1))
            print(f"| {name} ({len(roles)}) | {system} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
