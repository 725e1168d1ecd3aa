"""One update of N agents' actors: generate, forward, backward, generator's backward; 4,096 samples, 2 x 64, ReLU.

    python experiments/speed/update.py                                   a table: all sides in turns, in one process
    python experiments/speed/update.py hyper_mlp --agents 64             one side; one line of JSON

`hyper_mlp`, `independent`, `ours_id` (the preset `shared_id`), `low_rank_whole`, `low_rank_factored`, `low_rank_auto`
(the preset `hyper_low_rank`) are ours, as the learner runs them. `shared_id` is one network of `nn.Linear` layers whose
inputs end in the one-hot id, written there beforehand. `all_networks` is the way of published code: every agent's
network on every sample, of which each agent's own outputs are selected; its weights are there, nothing is generated.
All get the same observations (18 numbers), and a given gradient of the outputs (5) for the loss.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from turns import wait

from hypermarl import config as settings
from hypermarl.envs import parse
from hypermarl.envs.interface import Discrete, Group
from hypermarl.marl.policy import Policy, build_policies
from hypermarl.marl.settings import ExperimentConfig
from hypermarl.memory import keep_freed_memory

SAMPLES, OBSERVATION, HIDDEN, ACTIONS = 4096, 18, 64, 5
AGENTS = (4, 16, 64, 256)
LONGEST = 2.0  # seconds of one update of `all_networks` that the table still waits for
OURS: Mapping[str, tuple[str, ...]] = {
    "hyper_mlp": ("sharing=hyper_mlp",),
    "independent": ("sharing=independent",),
    "ours_id": ("sharing=shared_id",),
    "low_rank_whole": ("sharing=hyper_low_rank", "sharing.generator.apply=whole"),
    "low_rank_factored": ("sharing=hyper_low_rank", "sharing.generator.apply=factored"),
    "low_rank_auto": ("sharing=hyper_low_rank",),
}
SIDES = ("shared_id", *OURS, "all_networks")
Update = Callable[[], list[Tensor]]
"""One update; gives the parameters whose gradients it left."""


def inputs(agents: int) -> tuple[Tensor, Tensor]:
    """Observations `[B, 1, N, O]` and the gradient of the outputs `[B, 1, N, A]`."""
    rng = torch.Generator().manual_seed(1)
    shape = (SAMPLES // agents, 1, agents)
    return torch.randn(*shape, OBSERVATION, generator=rng), torch.randn(*shape, ACTIONS, generator=rng)


def ours(agents: int, words: tuple[str, ...]) -> Update:
    names = tuple(f"agent_{i}" for i in range(agents))
    group = Group("agents", names, OBSERVATION, Discrete(ACTIONS))
    sizes = (f"model.actor=[{HIDDEN},{HIDDEN}]", "model.activation=relu", "env=games/specialisation")
    config = settings.build(ExperimentConfig, settings.compose([*sizes, *words], parse))
    policy: Policy = build_policies(config, {"agents": group}, [0])["agents"]
    parameters = [p for p in policy.actor.parameters() if p.requires_grad]
    x, gradient = inputs(agents)

    def update() -> list[Tensor]:
        for parameter in parameters:
            parameter.grad = None
        weights = policy.actor.weights(rows=len(x))
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        outputs, _ = policy.outputs(x, weights=leaves)
        torch.autograd.backward(outputs, gradient)
        made = [(tensor, leaves[name].grad) for name, tensor in weights.items()]
        made = [(tensor, found) for tensor, found in made if found is not None]
        torch.autograd.backward([tensor for tensor, _ in made], [found for _, found in made])
        return parameters

    return update


def shared_id(agents: int) -> Update:
    sizes = (OBSERVATION + agents, HIDDEN, HIDDEN, ACTIONS)
    first, *rest = (nn.Linear(*pair) for pair in pairwise(sizes))
    net = nn.Sequential(first, *(part for layer in rest for part in (nn.ReLU(), layer)))
    x, gradient = inputs(agents)
    x = torch.cat([x, torch.eye(agents).expand(*x.shape[:-1], agents)], -1)
    parameters: list[Tensor] = list(net.parameters())

    def update() -> list[Tensor]:
        for parameter in parameters:
            parameter.grad = None
        torch.autograd.backward(net(x), gradient)
        return parameters

    return update


def all_networks(agents: int) -> Update:
    sizes = (OBSERVATION, HIDDEN, HIDDEN, ACTIONS)
    rng = torch.Generator().manual_seed(2)
    pairs = list(pairwise(sizes))
    matrices = [(torch.randn(agents, *pair, generator=rng) * 0.1).requires_grad_() for pair in pairs]
    biases = [torch.zeros(agents, 1, out, requires_grad=True) for _, out in pairs]
    x, gradient = inputs(agents)
    flat, flat_gradient = x.reshape(-1, OBSERVATION), gradient.reshape(-1, ACTIONS)
    who, sample = torch.arange(agents).repeat(SAMPLES // agents), torch.arange(SAMPLES)
    parameters: list[Tensor] = [*matrices, *biases]

    def update() -> list[Tensor]:
        for parameter in parameters:
            parameter.grad = None
        y = flat.expand(agents, -1, -1)
        for i, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
            y = torch.baddbmm(bias, y, matrix)
            y = torch.relu(y) if i < len(matrices) - 1 else y
        torch.autograd.backward(y[who, sample], flat_gradient)
        return parameters

    return update


def make(side: str, agents: int) -> Update:
    if side in OURS:
        return ours(agents, OURS[side])
    return {"shared_id": shared_id, "all_networks": all_networks}[side](agents)


def seconds(update: Update, times: int) -> float:
    """CPU seconds of one update, the mean of `times`."""
    begin = time.process_time()
    for _ in range(times):
        update()
    return (time.process_time() - begin) / times


def one_side(side: str, agents: int, warmup: int, iterations: int) -> None:
    update = make(side, agents)
    times = max(1, min(20, int(0.2 / max(seconds(update, 1), 1e-4))))
    cpu: list[float] = []
    wall: list[float] = []
    for turn in range(warmup + iterations):
        if turn >= warmup:
            wait()
        begin = time.process_time(), time.perf_counter()
        for _ in range(times):
            update()
        if turn >= warmup:
            cpu.append(time.process_time() - begin[0])
            wall.append(time.perf_counter() - begin[1])
    print(json.dumps({"frames": times * SAMPLES // agents, "cpu": cpu, "wall": wall, "torch": torch.__version__}))


def table(rounds: int, sizes: tuple[int, ...]) -> None:
    """All sides in turns; medians of single updates, in milliseconds and as multiples of `shared_id`."""
    rows = []
    for agents in sizes:
        updates = {side: make(side, agents) for side in SIDES}
        if seconds(updates["all_networks"], 1) > LONGEST:
            del updates["all_networks"]
        found: dict[str, list[float]] = {side: [] for side in updates}
        for _ in range(rounds):
            for side, update in updates.items():
                if side == "all_networks" and len(found[side]) >= 5:
                    continue
                found[side].append(seconds(update, 1))
        medians = {side: statistics.median(times) * 1e3 for side, times in found.items()}
        print(
            json.dumps({"agents": agents, "milliseconds": {s: round(ms, 3) for s, ms in medians.items()}}), flush=True
        )
        rows.append((agents, medians))
    print("\n| N | " + " | ".join(f"`{side}`" for side in SIDES) + " |")
    print("|" + "---|" * (len(SIDES) + 1))
    for agents, medians in rows:
        first = medians["shared_id"]
        cells = [f"{medians[s]:.2f} ms ({medians[s] / first:.2f}x)" if s in medians else "over 2 s" for s in SIDES]
        print(f"| {agents} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", nargs="?", choices=SIDES)
    parser.add_argument("--agents", type=int, nargs="+", default=AGENTS)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=15, help="rounds that count")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if given.side is None:
        table(given.iterations, tuple(given.agents))
    elif len(given.agents) != 1:
        sys.exit("One side needs one number of agents.")
    else:
        one_side(given.side, given.agents[0], given.warmup, given.iterations)


if __name__ == "__main__":
    main()
