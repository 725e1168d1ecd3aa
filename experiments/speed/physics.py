"""Only the physics: VMAS steps with given random actions. Prints one line of JSON.

    python experiments/speed/physics.py navigation --envs 256 [--ours]

Plain, it is `vmas.make_env(...).step(actions)` and nothing else, without resets or time limit: the **physics limit**.
With `--ours` it is our environment, which starts anew what has come to its end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from scenes import MAX_STEPS, SCENES
from turns import wait


def plain(scene: str, envs: int, device: str) -> Callable[[], object]:
    """One step of VMAS itself; actions are drawn beforehand."""
    import vmas

    env = vmas.make_env(scene, num_envs=envs, device=device, continuous_actions=True, seed=0, **SCENES[scene])
    sizes = [env.get_agent_action_size(agent) for agent in env.agents]
    ranges = [agent.action.u_range_tensor.to(device) for agent in env.agents]
    drawn = [
        [(2 * torch.rand(envs, size, device=device) - 1) * r[:size] for size, r in zip(sizes, ranges, strict=True)]
        for _ in range(MAX_STEPS)
    ]
    env.reset()
    return _with(env.step, drawn)


def ours(scene: str, envs: int, device: str) -> Callable[[], object]:
    """One step of our environment."""
    from hypermarl.envs import make
    from hypermarl.envs.interface import Continuous

    options = {"continuous_actions": True, **SCENES[scene]}
    env = make("vmas", scene, num_envs=envs, device=device, max_steps=MAX_STEPS, options=options)
    drawn = []
    for _ in range(MAX_STEPS):
        actions = {}
        for name, group in env.groups.items():
            assert isinstance(group.action, Continuous)
            low, high = (torch.tensor(bound, device=device) for bound in (group.action.low, group.action.high))
            actions[name] = low + (high - low) * torch.rand(envs, len(group.agents), len(low), device=device)
        drawn.append(actions)
    env.reset(0)
    return _with(env.step, drawn)


def _with(step: Callable[[Any], object], drawn: list[Any]) -> Callable[[], object]:
    turn = iter(range(2**62))
    return lambda: step(drawn[next(turn) % len(drawn)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", choices=sorted(SCENES))
    parser.add_argument("--ours", action="store_true")
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--steps", type=int, default=64, help="of one iteration")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    step = (ours if given.ours else plain)(given.scene, given.envs, given.device)
    cpu: list[float] = []
    wall: list[float] = []
    for turn in range(given.warmup + given.iterations):
        if turn >= given.warmup:
            wait()
        begin = time.process_time(), time.perf_counter()
        for _ in range(given.steps):
            step()
        if given.device != "cpu":
            torch.cuda.synchronize()
        if turn >= given.warmup:
            cpu.append(time.process_time() - begin[0])
            wall.append(time.perf_counter() - begin[1])
    print(json.dumps({"frames": given.envs * given.steps, "cpu": cpu, "wall": wall, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
