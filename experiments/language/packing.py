"""What an update spares by packing its rows without padding: forward and backward, packed and padded, in turns.

    OMP_NUM_THREADS=1 python experiments/language/packing.py

Sixteen roles of a task with the rows of its preset, adapters of the real small model. CPU time; medians.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from hypermarl.language.agents import open_backbone
from hypermarl.language.backbone import cheap_to_learn
from hypermarl.language.lessons import Lesson, lesson, surprise
from hypermarl.language.settings import BackboneConfig
from hypermarl.language.task import Example, Task
from hypermarl.language.tasks import make_task
from hypermarl.memory import keep_freed_memory

ROLES = 16
REPEATS = 15


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    config = BackboneConfig()
    backbone, target = open_backbone(config)
    cheap_to_learn(backbone)
    rng = torch.Generator().manual_seed(0)
    weights = {
        weight.name: (0.01 * torch.randn(ROLES, *weight.shape, generator=rng)).requires_grad_()
        for weight in target.spec.weights
    }

    def padded(given: Lesson) -> Tensor:
        spots = torch.nn.functional.pad(given.counts.bool(), (0, 1))
        kept = {"use_cache": False, "logits_to_keep": spots.shape[1]}
        hook = backbone.model.get_output_embeddings().register_forward_pre_hook(lambda _, x: x[0][spots])
        try:
            scores: Tensor = target.apply(weights, {**given.rows.arguments(), **kept}).logits.float()
        finally:
            hook.remove()
        return scores

    def packed(given: Lesson) -> Tensor:
        return given.scores(backbone, target, weights)

    print(f"{backbone.model.dtype}\n| rows of an update | padded tokens | packed | padded ms | packed ms | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, drawn in kinds().items():
        times: dict[str, list[float]] = {"padded": [], "packed": []}
        sizes = []
        for repeat in range(REPEATS + 1):  # the first is not counted
            examples, roles = drawn(random.Random(repeat))
            given = lesson(backbone, config.frame, examples, roles)
            sizes.append((given.rows.ids.numel(), given.rows.packed(ROLES).ids.numel()))
            turns = {"padded": padded, "packed": packed}
            for system in sorted(turns, reverse=bool(repeat % 2)):
                start = time.process_time()
                surprise(turns[system](given), given).mean().backward()
                times[system].append(1e3 * (time.process_time() - start))
        one, other = (statistics.median(each[1:]) for each in times.values())
        wide, tight = (statistics.mean(each) for each in zip(*sizes, strict=True))
        print(f"| {name} | {wide:.0f} | {tight:.0f} | {one:.0f} | {other:.0f} | {one / other:.2f} |", flush=True)


Drawn = Callable[[random.Random], tuple[list[list[Example]], list[str | None]]]


def kinds() -> dict[str, Drawn]:
    roles, conditional = make_task("roles", {}), make_task("conditional", {})
    return {
        "Roles-64, one row and an unrelated one": lambda rng: drawn(roles, rng, 1, True, False),
        "Roles-64, the role in the prompt": lambda rng: drawn(roles, rng, 1, True, True),
        "conditional policies, two rows": lambda rng: drawn(conditional, rng, 2, False, False),
        "conditional policies, the policy in the prompt": lambda rng: drawn(conditional, rng, 2, False, True),
    }


def drawn(
    task: Task, rng: random.Random, rows: int, apart: bool, prompted: bool
) -> tuple[list[list[Example]], list[str | None]]:
    picked = rng.sample(task.of("trained"), ROLES)
    examples = [[task.draw(role, rng, False) for _ in range(rows)] for role in picked]
    if apart:
        for few in examples:
            few.append(rng.choice(task.unrelated))
    return examples, [rng.choice(role.wordings) if prompted else None for role in picked]


if __name__ == "__main__":
    main()
