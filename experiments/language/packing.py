"""What a pass with its gradient spares by packing: no padding, and what rows of one adapter begin with alike only once;
and what several answers to one prompt spare that is read once.

    OMP_NUM_THREADS=1 python experiments/language/packing.py

The batches of updates under the presets, padded and packed in turns, with adapters of the real small model; then answers
in free text to one prompt of each agent, read once for every answer and once for all in turns. CPU time; medians.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor

from hypermarl.envs.words import make_text
from hypermarl.language.agents import framed, open_backbone
from hypermarl.language.backbone import Backbone, cheap_to_learn
from hypermarl.language.converse import Question, Speech
from hypermarl.language.lessons import lesson
from hypermarl.language.packing import pack
from hypermarl.language.rows import Rows
from hypermarl.language.settings import BackboneConfig
from hypermarl.language.task import Task
from hypermarl.language.tasks import make_task
from hypermarl.memory import keep_freed_memory
from hypermarl.spec import Weights
from hypermarl.targets import LoRATarget

REPEATS = 5
AGENTS = 4
WRITTEN = ((16, 64, 8), (16, 16, 8), (4, 64, 32))  # answers of an agent, tokens of its prompt, tokens of an answer
CONFIG = BackboneConfig()


@dataclass(frozen=True)
class Batch:
    """`spots [rows, L]`, where scores are asked for."""

    rows: Rows
    adapters: int
    spots: Tensor


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    backbone, target = open_backbone(CONFIG)
    cheap_to_learn(backbone)
    print(f"{backbone.model.dtype}\n\n| a batch of | padded tokens | packed | padded ms | packed ms | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, batches in kinds(backbone).items():
        times: dict[Callable[[Backbone, LoRATarget, Weights, Batch], Tensor], list[float]] = {padded: [], packed: []}
        sizes = []
        for repeat in range(REPEATS + 1):  # the first is not counted
            batch = next(batches)
            sizes.append((batch.rows.ids.numel(), pack(batch.rows, batch.adapters).ids.numel()))
            for system in (padded, packed)[:: 1 if repeat % 2 else -1]:
                weights = drawn(target, batch.adapters)
                start = time.process_time()
                system(backbone, target, weights, batch).log_softmax(-1)[:, 0].mean().backward()
                times[system].append(1e3 * (time.process_time() - start))
        slow, fast = (statistics.median(each[1:]) for each in times.values())
        wide, tight = (statistics.mean(each) for each in zip(*sizes, strict=True))
        print(f"| {name} | {wide:.0f} | {tight:.0f} | {slow:.0f} | {fast:.0f} | {slow / fast:.2f} |", flush=True)
    print("\n| answers | read each ms | read once ms | ratio |\n|---|---:|---:|---:|")
    for copies, length, tokens in WRITTEN:
        slow, fast = answering(backbone, target, copies, length, tokens)
        name = f"{AGENTS} agents, {copies} of each, {tokens} tokens, to {length} tokens"
        print(f"| {name} | {slow:.0f} | {fast:.0f} | {slow / fast:.2f} |", flush=True)


def answering(backbone: Backbone, target: LoRATarget, copies: int, length: int, tokens: int) -> tuple[float, float]:
    """Milliseconds of writing so many answers, their prompt read for each, and once."""
    words = iter(range(1000, 1000 + AGENTS * length))
    prompts = [tuple(next(words) for _ in range(length)) for _ in range(AGENTS)]
    questions = [Question(owner, prompt, ()) for owner, prompt in enumerate(prompts) for _ in range(copies)]
    times: dict[bool, list[float]] = {True: [], False: []}
    with torch.no_grad():
        speech = Speech(backbone, target, drawn(target, AGENTS), 1.0)
        for repeat in range(REPEATS + 1):
            for once in (True, False) if repeat % 2 else (False, True):
                with patch.object(Rows, "distinct", Rows.distinct if once else lambda rows, owners: (rows, None)):
                    start = time.process_time()
                    speech.write(questions, tokens, torch.Generator().manual_seed(repeat))
                    times[once].append(1e3 * (time.process_time() - start))
    return statistics.median(times[False][1:]), statistics.median(times[True][1:])


def padded(backbone: Backbone, target: LoRATarget, weights: Weights, batch: Batch) -> Tensor:
    """As language models are usually called."""
    hook = backbone.model.get_output_embeddings().register_forward_pre_hook(lambda _, given: given[0][batch.spots])
    try:
        scores: Tensor = target.apply(weights, {**batch.rows.arguments(), "use_cache": False}).logits
    finally:
        hook.remove()
    return scores


def packed(backbone: Backbone, target: LoRATarget, weights: Weights, batch: Batch) -> Tensor:
    one = pack(batch.rows, batch.adapters, backbone.attention)
    with target.attached(target.adapters(weights), one.spread):
        return one.scores(backbone, one.where[batch.spots])


def drawn(target: LoRATarget, adapters: int) -> Weights:
    rng = torch.Generator().manual_seed(0)
    return {
        weight.name: (0.01 * torch.randn(adapters, *weight.shape, generator=rng)).requires_grad_()
        for weight in target.spec.weights
    }


def kinds(backbone: Backbone) -> dict[str, Iterator[Batch]]:
    roles, policies = make_task("roles", {}), make_task("conditional", {})
    return {
        "Roles-64": taught(backbone, roles, rows=1, apart=True),
        "Roles-64, role in the prompt, one adapter": taught(backbone, roles, rows=1, apart=True, prompted=True),
        "conditional policies": taught(backbone, policies, rows=2),
        "conditional policies, in the prompt, one adapter": taught(backbone, policies, rows=2, prompted=True),
        "Specialisation of 8": asked(backbone, 8),
        "Specialisation of 8, role in the prompt, one adapter": asked(backbone, 8, prompted=True),
    }


def taught(backbone: Backbone, task: Task, rows: int, apart: bool = False, prompted: bool = False) -> Iterator[Batch]:
    """Sixteen roles of a task, each with an unrelated example where `apart`."""
    rng = random.Random(0)
    while True:
        picked = rng.sample(task.of("trained"), 16)
        examples = [[task.draw(role, rng, False) for _ in range(rows)] for role in picked]
        if apart:
            for few in examples:
                few.append(rng.choice(task.unrelated))
        told = [rng.choice(role.wordings) if prompted else None for role in picked]
        given = lesson(backbone, CONFIG.frame, examples, told)
        spots = torch.zeros_like(given.rows.mask, dtype=torch.bool)
        spots[:, -given.counts.shape[1] - 1 : -1] = given.counts.bool()
        yield Batch(given.rows, 1 if prompted else len(picked), spots)


def asked(backbone: Backbone, agents: int, prompted: bool = False) -> Iterator[Batch]:
    """The first step of sixteen beginnings of a game."""
    env = make_text("words", "specialisation", options={"n_agents": agents})
    for seed in range(10**6):
        texts: list[Sequence[Sequence[int]]] = []
        seen = [env.reset(seed=16 * seed + beginning)[0] for beginning in range(16)]
        for agent in env.possible_agents:
            role = env.roles[agent] if prompted else None
            texts.append([framed(backbone, CONFIG.frame, each[agent], role) for each in seen])
        rows = Rows.of(texts, backbone.padding)
        spots = torch.zeros_like(rows.mask, dtype=torch.bool)
        spots[:, -1] = True
        yield Batch(rows, 1 if prompted else agents, spots)


if __name__ == "__main__":
    main()
