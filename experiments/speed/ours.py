"""One HyperMARL learner, timed: collection, advantages and update. Prints one line of JSON.

    python experiments/speed/ours.py env=vmas/dispersion sharing=shared train.steps=64 seeds=10

Words are those of `hypermarl train`. `--scene navigation` takes scenario and options from `scenes.py` and stands for
`env=vmas/navigation` with them. Frames are those of all seeds together.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import torch
from scenes import MAX_STEPS, SCENES
from turns import wait

from hypermarl import config as settings
from hypermarl.envs import parse
from hypermarl.marl.learner import Learner
from hypermarl.monitoring.progress import Clock
from hypermarl.marl.settings import ExperimentConfig


def words_of(scene: str) -> list[str]:
    """The words that say what `scenes.py` does; words that follow win."""
    options = {"continuous_actions": True, **SCENES[scene]}
    return [
        f"env=vmas/{scene}",
        f"env.max_steps={MAX_STEPS}",
        *(f"env.options.{key}={str(value).lower()}" for key, value in options.items()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--scene", choices=sorted(SCENES))
    parser.add_argument("--stagger", action="store_true", help="after one iteration, set all clocks at random")
    parser.add_argument("--warmup", type=int, default=3, help="iterations that do not count")
    parser.add_argument("--iterations", type=int, default=10, help="iterations that count")
    given = parser.parse_args()
    words = {word.partition("=")[0]: word for word in [*(words_of(given.scene) if given.scene else ()), *given.words]}
    config = settings.build(ExperimentConfig, settings.compose(list(words.values()), parse))
    learner = Learner(config)
    on_gpu = learner.device.type == "cuda"
    clock = learner.clock = Clock(torch.cuda.synchronize if on_gpu else None, now=time.process_time)
    learner.start()
    for turn in range(given.warmup):
        learner.iterate()
        if given.stagger and turn == 0:
            steps = learner.env._steps
            steps.copy_(torch.randint_like(steps, learner.env.max_steps))
    clock.restart()
    cpu: list[float] = []
    wall: list[float] = []
    ended = at_once = 0.0
    for _ in range(given.iterations):
        wait()
        begin = time.process_time(), time.perf_counter()
        iteration = learner.iterate()
        if on_gpu:
            torch.cuda.synchronize()
        cpu.append(time.process_time() - begin[0])
        wall.append(time.perf_counter() - begin[1])
        ended += float(iteration.episodes.count.sum())
        fresh = next(iter(iteration.batches.values())).fresh[1:]  # [T, E, S]
        at_once = max(at_once, float(fresh.float().mean((1, 2)).max()))
    shares = clock.shares()
    shares["rest"] = 1 - sum(shares.values())
    found: dict[str, Any] = {
        "frames": learner.frames_per_iteration * config.seeds,
        "cpu": cpu,
        "wall": wall,
        "shares": {name: round(share, 4) for name, share in shares.items()},
        "ended_per_step": ended / (given.iterations * config.train.steps),
        "most_ended_at_once": at_once,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": sum(p.numel() for policy in learner.policies.values() for p in policy.parameters()),
        "torch": torch.__version__,
    }
    if on_gpu:
        found["device"] = torch.cuda.get_device_name()
        found["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    learner.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
