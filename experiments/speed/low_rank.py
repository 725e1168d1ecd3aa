"""A low rank multiplied out against one left in factors: CPU time of one update, by the rows each agent has.

    python experiments/speed/low_rank.py [--seeds 1 5] [--widths 64 128 256] [--agents 4 64 256] [--rows 4 16 64 256]

Generate, forward, backward, generator's backward of a network of two hidden layers, alternating; medians. Prints the
ratio whole / factored: above 1 the factors are cheaper. At the bottom is the rule of `sharing.generator.apply=auto`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch

from hypermarl.actor import GeneratedActor
from hypermarl.conditioning import AgentTable
from hypermarl.generator import Generator, GeneratorConfig
from hypermarl.memory import keep_freed_memory
from hypermarl.stacking import stacked
from hypermarl.targets import MLPTarget

Apply = Literal["whole", "factored"]
APPLY: tuple[Apply, ...] = ("whole", "factored")
OBSERVATION, ACTIONS = 18, 5
MOST = 2**24
"""Numbers in the hidden activations or in the generated matrices of a case, at most."""


def update(seeds: int, agents: int, width: int, rows: int, rank: int, apply: Apply) -> Callable[[], None]:
    target = MLPTarget((OBSERVATION, width, width, ACTIONS))
    config = GeneratorConfig(trunk=(8,), head="low_rank", rank=rank, normalise=True, scale=0.5, apply=apply)

    def one(seed: int) -> GeneratedActor:
        rng = torch.Generator().manual_seed(seed)
        generator = Generator(target.spec, 4, config=config, rng=rng)
        return GeneratedActor(AgentTable(agents, 4, rng), generator, target)

    actor = stacked([one(seed) for seed in range(seeds)])
    parameters = list(actor.parameters())
    x, gradient = torch.randn(rows, seeds, agents, OBSERVATION), torch.randn(rows, seeds, agents, ACTIONS)

    def run() -> None:
        for parameter in parameters:
            parameter.grad = None
        weights = actor.weights(rows=rows)
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        torch.autograd.backward(actor(x, leaves), gradient)
        torch.autograd.backward(list(weights.values()), [leaf.grad for leaf in leaves.values()])

    return run


def ratio(seeds: int, agents: int, width: int, rows: int, rank: int, rounds: int) -> tuple[float, float]:
    """Seconds of the whole and of the factored one."""
    sides = {apply: update(seeds, agents, width, rows, rank, apply) for apply in APPLY}
    found: dict[Apply, list[float]] = {apply: [] for apply in APPLY}
    for turn in range(rounds + 1):
        for apply, run in sides.items():
            begin = time.process_time()
            run()
            if turn:
                found[apply].append(time.process_time() - begin)
    return statistics.median(found["whole"]), statistics.median(found["factored"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--agents", type=int, nargs="+", default=[4, 64, 256])
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 16, 32, 64, 128, 256])
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    lines = []
    for seeds in given.seeds:
        for width in given.widths:
            for agents in given.agents:
                cells = []
                for rows in given.rows:
                    networks = seeds * agents
                    if max(networks * width * rows, networks * width * width) > MOST:
                        cells.append("")
                        continue
                    whole, factored = ratio(seeds, agents, width, rows, given.rank, given.rounds)
                    case = {"seeds": seeds, "width": width, "agents": agents, "rows": rows, "rank": given.rank}
                    print(json.dumps({**case, "whole": whole, "factored": factored}), flush=True)
                    cells.append(f"{whole / factored:.2f}")
                lines.append(f"| {seeds} | {width} | {agents} | " + " | ".join(cells) + " |")
    print("\n| S | width | N | " + " | ".join(f"{rows} rows" for rows in given.rows) + " |")
    print("|" + "---|" * (3 + len(given.rows)))
    print("\n".join(lines))
    print("\nauto: factors below " + ", ".join(f"{3 * w / 8:.0f} rows at width {w}" for w in given.widths))


if __name__ == "__main__":
    main()
