"""Training iterations of one team of N agents at equal numbers of samples: time per sample, memory, parameters.

    python experiments/speed/agents.py                                      a table: N by sharing mode, a process each
    python experiments/speed/agents.py --agents 1024 --sharing hyper_mlp    one case; one line of JSON

Blind-Particle Spread with N agents in 3 colours (`env=spread/bps_1 env.options.n_agents=N`), through the learner:
64 steps, 4 epochs x 4 minibatches, networks of 2 x 64, IPPO. More agents play in fewer copies: 4,096 agents at a time,
so 262,144 samples (steps of one agent) in every iteration. `frames` are samples. Memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from turns import wait

from hypermarl import config as settings
from hypermarl.envs import parse
from hypermarl.marl.learner import Learner
from hypermarl.monitoring.progress import Clock
from hypermarl.marl.settings import ExperimentConfig

PLAYING, STEPS = 4096, 64
AGENTS = (4, 64, 256, 1024, 4096)
SHARINGS = ("shared", "shared_id", "independent", "hyper_mlp", "hyper_low_rank")


def one_case(agents: int, sharing: str, words: list[str], warmup: int, iterations: int) -> dict[str, Any]:
    given = [
        "env=spread/bps_1",
        f"env.options.n_agents={agents}",
        f"env.num_envs={max(1, PLAYING // agents)}",
        f"train.steps={STEPS}",
        f"sharing={sharing}",
        "algorithm.epochs=4",
        "algorithm.minibatches=4",
        "model.actor=[64,64]",
        "model.critic=[64,64]",
    ]
    chosen = {word.partition("=")[0]: word for word in [*given, *words]}  # later wins
    learner = Learner(settings.build(ExperimentConfig, settings.compose(list(chosen.values()), parse)))
    clock = learner.clock = Clock(now=time.process_time)
    learner.start()
    for _ in range(warmup):
        learner.iterate()
    clock.restart()
    cpu: list[float] = []
    wall: list[float] = []
    for _ in range(iterations):
        wait()
        begin = time.process_time(), time.perf_counter()
        learner.iterate()
        cpu.append(time.process_time() - begin[0])
        wall.append(time.perf_counter() - begin[1])
    shares = {name: round(share, 4) for name, share in clock.shares().items()}
    learner.close()
    return {
        "frames": learner.frames_per_iteration * agents,
        "cpu": cpu,
        "wall": wall,
        "shares": shares,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": sum(p.numel() for policy in learner.policies.values() for p in policy.parameters()),
        "torch": torch.__version__,
    }


def table(sizes: list[int], sharings: list[str], words: list[str], rounds: int, iterations: int) -> None:
    """Each case in a process of its own, all cases once per round; medians."""
    cases = [(agents, sharing) for sharing in sharings for agents in sizes]
    found: dict[tuple[int, str], list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for agents, sharing in cases:
            counts = ["--agents", str(agents), "--sharing", sharing, "--iterations", str(iterations), "--warmup", "1"]
            done = subprocess.run(
                [sys.executable, __file__, *counts, *words], check=True, stdout=subprocess.PIPE, text=True
            )
            found[agents, sharing].append(json.loads(done.stdout))
            last = found[agents, sharing][-1]
            print(json.dumps({"agents": agents, "sharing": sharing, **last}), flush=True)
    print("\n| sharing | " + " | ".join(f"N = {agents:,}" for agents in sizes) + " |\n|" + "---|" * (len(sizes) + 1))
    for sharing in sharings:
        cells = []
        for agents in sizes:
            several = found[agents, sharing]
            each = statistics.median(t for one in several for t in one["cpu"]) / several[0]["frames"]
            peak = max(one["peak_mib"] for one in several)
            cells.append(f"{each * 1e6:.1f} us, {peak:,.0f} MiB, {several[0]['parameters']:,}")
        print(f"| `{sharing}` | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="as of `hypermarl train`")
    parser.add_argument("--agents", type=int, nargs="+", default=list(AGENTS))
    parser.add_argument("--sharing", nargs="+", default=None)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="of the table")
    given = parser.parse_args()
    if len(given.agents) == 1 and (given.sharing is None or len(given.sharing) == 1):
        (sharing,) = given.sharing or ["hyper_mlp"]
        print(json.dumps(one_case(given.agents[0], sharing, given.words, given.warmup, given.iterations)))
    else:
        table(given.agents, given.sharing or list(SHARINGS), given.words, given.rounds, given.iterations)


if __name__ == "__main__":
    main()
