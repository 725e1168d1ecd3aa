"""One BenchMARL run, timed; belongs into the environment that `benchmarl.sh` makes. Prints one line of JSON.

    .venv-benchmarl/bin/python experiments/speed/theirs.py dispersion --envs 256 --activation relu

BenchMARL is taken as it comes: its own collector, loss, buffer and optimisers (two, one for the actor, one for the
critic), its own defaults wherever the settings below do not speak. Evaluation and all loggers are off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from benchmarl.algorithms import IppoConfig, MappoConfig
from benchmarl.environments import VmasTask
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig
from scenes import MAX_STEPS, SCENES
from turns import wait

ACTIVATIONS = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}


@dataclass
class Setting:
    """What the issue's table fixes; the defaults are its defaults."""

    task: str = "dispersion"
    options: dict[str, Any] = field(default_factory=dict)  # of the scenario
    max_steps: int = MAX_STEPS
    envs: int = 256
    steps: int = 64
    iterations: int = 10
    algorithm: str = "mappo"
    activation: str = "tanh"
    sizes: tuple[int, ...] = (64, 64)
    epochs: int = 4
    minibatches: int = 4
    share_policy: bool = True
    share_critic: bool = True  # MAPPO: one value of the team
    continuous: bool = True
    lr: float = 5e-5
    gamma: float = 0.99
    lam: float = 0.9
    clip: float = 0.2
    entropy: float = 0.0
    value_coef: float = 1.0
    max_grad_norm: float = 5.0
    adam_eps: float = 1e-6
    seed: int = 0
    device: str = "cpu"
    folder: str = field(default_factory=tempfile.mkdtemp)

    @property
    def frames_per_iteration(self) -> int:
        return self.envs * self.steps


def build(setting: Setting, callbacks: list[Callback], evaluation_episodes: int = 1) -> Experiment:
    """A BenchMARL experiment that trains and does nothing else."""
    config = ExperimentConfig.get_from_yaml()
    config.sampling_device = config.train_device = config.buffer_device = setting.device
    config.share_policy_params = setting.share_policy
    config.prefer_continuous_actions = setting.continuous
    config.gamma, config.lr, config.adam_eps = setting.gamma, setting.lr, setting.adam_eps
    config.clip_grad_norm, config.clip_grad_val = True, setting.max_grad_norm
    config.max_n_iters, config.max_n_frames = setting.iterations, None
    config.on_policy_collected_frames_per_batch = setting.frames_per_iteration
    config.on_policy_n_envs_per_worker = setting.envs
    config.on_policy_n_minibatch_iters = setting.epochs
    config.on_policy_minibatch_size = setting.frames_per_iteration // setting.minibatches
    config.evaluation, config.render, config.loggers, config.create_json = False, False, [], False
    config.evaluation_episodes = evaluation_episodes  # environments that stand ready for it
    config.checkpoint_interval, config.save_folder = 0, setting.folder
    algorithm = (MappoConfig if setting.algorithm == "mappo" else IppoConfig).get_from_yaml()
    algorithm.share_param_critic = setting.share_critic
    algorithm.clip_epsilon, algorithm.lmbda = setting.clip, setting.lam
    algorithm.entropy_coef, algorithm.critic_coef = setting.entropy, setting.value_coef
    model = MlpConfig.get_from_yaml()
    model.num_cells, model.activation_class = list(setting.sizes), ACTIVATIONS[setting.activation]
    task = VmasTask[setting.task.upper()].get_from_yaml()
    task.config = {**task.config, "max_steps": setting.max_steps, **setting.options}
    return Experiment(
        task=task, algorithm_config=algorithm, model_config=model, seed=setting.seed, config=config, callbacks=callbacks
    )


class Stopwatch(Callback):
    """Seconds from the end of one iteration to the end of the next: collection, advantages, update, bookkeeping."""

    def __init__(self, warmup: int, synchronise: bool, stagger: bool) -> None:
        super().__init__()
        self.warmup, self.synchronise, self.stagger = warmup, synchronise, stagger
        self.done = 0
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self.collection: list[float] = []  # CPU time
        self.ended: list[int] = []  # episodes, of each iteration
        self.at_once = 0.0  # the largest share of environments that ended in one step
        self.begin = (0.0, 0.0)

    def on_batch_collected(self, batch: Any) -> None:
        if self.done < self.warmup:
            return
        self.collection.append(self._now()[0] - self.begin[0])
        done = batch["next", "done"].squeeze(-1)  # [E, T]
        self.ended.append(int(done.sum()))
        self.at_once = max(self.at_once, float(done.float().mean(0).max()))

    def on_train_end(self, training_td: Any, group: str) -> None:
        now = self._now()
        self.done += 1
        if self.done > self.warmup:
            self.cpu.append(now[0] - self.begin[0])
            self.wall.append(now[1] - self.begin[1])
        if self.stagger and self.done == 1:
            simulation = self.experiment.collector.env.base_env._env
            simulation.steps.copy_(torch.randint_like(simulation.steps, simulation.max_steps))
        if self.warmup <= self.done < self.experiment.config.max_n_iters:
            wait()
        self.begin = self._now()

    def _now(self) -> tuple[float, float]:
        if self.synchronise:
            torch.cuda.synchronize()
        return time.process_time(), time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(SCENES))
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--activation", choices=sorted(ACTIVATIONS), default="tanh")
    parser.add_argument("--independent", action="store_true", help="a policy of its own for every agent")
    parser.add_argument("--stagger", action="store_true", help="after one iteration, set all clocks at random")
    parser.add_argument("--warmup", type=int, default=3, help="iterations that do not count")
    parser.add_argument("--iterations", type=int, default=10, help="iterations that count")
    parser.add_argument("--device", default="cpu")
    words = parser.parse_args()
    torch.set_num_threads(1)
    watch = Stopwatch(words.warmup, words.device != "cpu", words.stagger)
    setting = Setting(
        task=words.task,
        options=SCENES[words.task],
        envs=words.envs,
        steps=words.steps,
        activation=words.activation,
        share_policy=not words.independent,
        iterations=words.warmup + words.iterations,
        device=words.device,
    )
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        build(setting, [watch]).run()
    collection = sum(watch.collection) / sum(watch.cpu)
    found = {
        "frames": setting.frames_per_iteration,
        "cpu": watch.cpu,
        "wall": watch.wall,
        "shares": {"collection": round(collection, 4), "training": round(1 - collection, 4)},
        "ended_per_step": sum(watch.ended) / (len(watch.ended) * words.steps),
        "most_ended_at_once": watch.at_once,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "torch": torch.__version__,
    }
    if words.device != "cpu":
        found["device"] = torch.cuda.get_device_name()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
