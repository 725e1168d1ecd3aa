"""PettingZoo's `mpe2.simple_spread_v3`, several copies with given random actions. Prints one line of JSON.

    python experiments/speed/spread.py serial|ours [--envs 8] [--workers 1]

`serial` is TorchRL's `SerialEnv` of its `PettingZooWrapper`, stepped as its collector does (`step_and_maybe_reset`);
`ours` is `pettingzoo/mpe2.simple_spread_v3`. CPU time is that of this process, so of no use with several workers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from turns import wait

NAME = "mpe2.simple_spread_v3"
OPTIONS: dict[str, Any] = {"N": 3, "local_ratio": 0.5, "max_cycles": 25, "continuous_actions": False}
CHOICES = 5


def serial(envs: int, drawn: torch.Tensor) -> Callable[[int], None]:
    """One step of TorchRL's copies with actions `drawn[t] [E, N]`; of the time, copying them in is a part."""
    from mpe2 import simple_spread_v3
    from torchrl.envs import PettingZooWrapper, SerialEnv

    env = SerialEnv(envs, lambda: PettingZooWrapper(simple_spread_v3.parallel_env(**OPTIONS), categorical_actions=True))
    env.set_seed(0)
    state = env.reset()

    def step(t: int) -> None:
        nonlocal state
        state["agent", "action"] = drawn[t % len(drawn)]
        _, state = env.step_and_maybe_reset(state)

    return step


def ours(envs: int, drawn: torch.Tensor, workers: int) -> tuple[Callable[[int], None], Callable[[], None]]:
    """One step of ours, and its end."""
    from hypermarl.envs import make

    env = make("pettingzoo", NAME, num_envs=envs, workers=workers, options=OPTIONS)
    (name,) = env.groups
    env.reset(0)

    def step(t: int) -> None:
        env.step({name: drawn[t % len(drawn)]})

    return step, env.close


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("serial", "ours"))
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100, help="of one iteration")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    drawn = torch.randint(CHOICES, (97, given.envs, OPTIONS["N"]))
    close: Callable[[], None] | None = None
    if given.side == "ours":
        step, close = ours(given.envs, drawn, given.workers)
    else:
        step = serial(given.envs, drawn)
    cpu: list[float] = []
    wall: list[float] = []
    for turn in range(given.warmup + given.iterations):
        if turn >= given.warmup:
            wait()
        begin = time.process_time(), time.perf_counter()
        for t in range(turn * given.steps, (turn + 1) * given.steps):
            step(t)
        if turn >= given.warmup:
            cpu.append(time.process_time() - begin[0])
            wall.append(time.perf_counter() - begin[1])
    print(json.dumps({"frames": given.envs * given.steps, "cpu": cpu, "wall": wall, "torch": torch.__version__}))
    if close is not None:
        close()


if __name__ == "__main__":
    main()
