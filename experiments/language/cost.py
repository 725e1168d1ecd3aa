"""What a role costs, in bytes kept and in milliseconds per call: written by a generator, stored, or said in the prompt.

    OMP_NUM_THREADS=1 python experiments/language/cost.py runs/language/roles-hyper_text-s0

Sixteen roles of Roles-64 are asked for one answer each, in one forward pass (the first token of the answer): with their adapters,
and with their descriptions in the prompts of the bare model. Milliseconds of CPU time, medians, both in turns.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hypermarl.language.agents import framed
from hypermarl.language.judge import open_learner
from hypermarl.language.rows import Rows
from hypermarl.language.teaching import Teaching

ROLES, REPEATS = 16, 15


def in_turns(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS + 2):
        for name, run in runs.items():
            start = time.process_time()
            run()
            taken[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(times[2:]) for name, times in taken.items()}


@torch.no_grad()
def main(path: str) -> None:
    torch.set_num_threads(1)
    _, _, learner = open_learner(Path(path))
    assert isinstance(learner, Teaching)
    rng = random.Random(0)
    roles = rng.sample(learner.learned, ROLES)
    texts = [rng.choice(role.wordings) for role in roles]
    asked = [learner.task.draw(role, rng, True).prompt for role in roles]
    backbone, frame = learner.backbone, learner.config.backbone.frame
    short = Rows.of([[framed(backbone, frame, prompt)] for prompt in asked], backbone.padding)
    long = Rows.of([[framed(backbone, frame, p, text)] for p, text in zip(asked, texts, strict=True)], backbone.padding)
    options = {"use_cache": False, "logits_to_keep": 1}
    learner.descriptions(texts)  # read once, as whoever keeps a description does
    weights = learner.actor.weights(learner.who(roles, texts))
    adapters = learner.target.adapters(weights)

    def carried() -> object:
        with learner.target.attached(adapters) as model:
            return model(**short.arguments(), **options)

    spent = in_turns(
        {
            f"{ROLES} answers, adapters ({int(short.mask.sum()) / ROLES:.0f} tokens a prompt)": carried,
            f"{ROLES} answers, role in the prompt ({int(long.mask.sum()) / ROLES:.0f} tokens)": lambda: backbone.model(
                **long.arguments(), **options
            ),
            f"{ROLES} adapters written, texts encoded before": lambda: learner.actor.weights(learner.who(roles, texts)),
            "one text encoded": lambda: learner.descriptions._encode(texts[0]),
        }
    )
    print("| what | CPU ms |\n|---|---:|")
    for name, value in spent.items():
        print(f"| {name} | {value:.1f} |")
    kept = sum(parameter.numel() for parameter in learner.actor.parameters()) * 4
    one = 4 * learner.target.spec.numel()
    print(f"\nbytes: generator for all roles {kept:,}; a stored adapter {one:,} (as much as {kept / one:.0f} of them)")


if __name__ == "__main__":
    main(sys.argv[1])
