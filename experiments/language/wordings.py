"""Which wordings of a conditional policy are obeyed? Of trained runs, wording by wording, on combinations never trained.

    OMP_NUM_THREADS=1 python experiments/language/wordings.py runs/language/conditional-hyper_reader-own_wordings-s0

`choice`: which of the policy's two words is likelier (.5 by chance), of a thing of the category and of one of another.
`test` wordings are the task's own. `choosing` ones are no task's: how descriptions are read was chosen by them.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import torch

from hypermarl.language.examination import examine
from hypermarl.language.judge import open_learner
from hypermarl.language.task import Role
from hypermarl.language.tasks.conditional import UNSEEN, Policy

ROLES, ITEMS = 60, 2
CHOOSING = (
    "A person who hands you {one} hears {a} from you, a person who hands you something different hears {b}.",
    "Your job is to spot {many}. Spotted one: {a}. Nothing spotted: {b}.",
    "The default label is {b}. {Many} alone are labelled {a}.",
    "{b}, that is what you tell people, save those who ask about {many}; these you tell {a}.",
    "Do we have {one} here? Then it is {a} we want, and {b} if we do not.",
    "We use {a} as a code for {many} and {b} as a code for the remaining words.",
    "Not {one}: {b}. {One}: {a}.",
    "Let {b} stand wherever a word has nothing to do with {many}, and {a} wherever it does.",
    "Every {kind} deserves {a}; nothing apart from that deserves more than {b}.",
    "Please shout {b} at all that is shown, but shout {a} at {many}.",
)


def said(template: str, role: Role) -> str:
    text = template.format(**Policy(*role.name.split("/")).words)
    return text[0].upper() + text[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| wording | | " + " | ".join(path.name for path in asked.runs) + " |\n|---|---|" + "---:|" * len(asked.runs))
    learners = [open_learner(path)[2] for path in asked.runs]
    tasks = [learner.task for learner in learners]
    for kind, template in [("test", text) for text in UNSEEN] + [("choosing", text) for text in CHOOSING]:
        cells = []
        for learner, task in zip(learners, tasks, strict=True):
            some = random.Random(f"wordings {template}").sample(task.of("recombined"), ROLES)
            roles = tuple(replace(role, unseen=(said(template, role),)) for role in some)
            learner.task = replace(task, roles=task.of("trained") + roles)
            found = examine(learner, ITEMS, only=["recombined"])["choice/recombined"]
            cells.append(f"{found:.2f}")
        print(f"| {template} | {kind} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
