"""What an experiment is, as frozen data; `hypermarl.config.build` makes it from YAML and refuses unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hypermarl.config import check_ranges
from hypermarl.errors import UserError
from hypermarl.sharing import SharingConfig


@dataclass(frozen=True)
class EnvConfig:
    """Which environment; `options` go to it unchanged. `num_envs` is per seed, of all ranks together."""

    kind: str
    name: str
    num_envs: int = 16
    max_steps: int | None = None
    workers: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    """The target networks: the sizes of what is generated."""

    actor: tuple[int, ...] = (64, 64)
    critic: tuple[int, ...] = (64, 64)
    activation: Literal["relu", "tanh", "silu", "elu", "gelu"] = "relu"
    recurrent: bool = False
    hidden: int = 64  # GRU width
    body: Literal["shared", "generated"] = "shared"  # of a recurrent policy; its head is always generated
    distribution: Literal["auto", "normal", "tanh_normal"] = "auto"  # of continuous actions; auto is normal


@dataclass(frozen=True)
class AlgorithmConfig:
    """PPO with independent (IPPO) or centralised (MAPPO) critics."""

    name: Literal["ippo", "mappo"] = "ippo"
    objective: Literal["ppo", "torchrl"] = "ppo"
    lr: float = 5e-4
    epochs: int = 4
    minibatches: int = 2
    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    clip_value: bool = True
    entropy: float = 0.01
    value_coef: float = 0.5
    max_grad_norm: float = 0.5
    value_norm: bool = False
    share_critic: bool = False  # one critic for all agents of a group, whatever the sharing of their policies
    normalise_advantage: Literal["all", "agent", "none"] = "all"
    adam_eps: float = 1e-5
    anneal_lr: bool = False

    @property
    def centralised(self) -> bool:
        return self.name == "mappo"


@dataclass(frozen=True)
class TrainConfig:
    """How long, how often, where. A frame is one step of one environment, all agents together; counted per seed."""

    frames: int = 1_000_000
    steps: int = 128  # T, environment steps per rollout
    checkpoint_every: int = 50  # iterations
    keep_checkpoints: int = 3
    log_every: int = 1  # iterations
    diagnose_every: int = 20  # iterations between diversity, gradient cosine, weight spread; 0 = never
    micro_batch: int = 8192  # steps of agents per forward and backward: what fits a core's cache
    precision: Literal["fp32", "bf16"] = "fp32"  # of the networks' matrix products; the rest is always fp32
    compile: bool = False  # fuse networks and losses with torch.compile
    threads: int = 1
    rank_timeout: float = 600.0  # seconds to wait for another rank (torchrun), and for the first while it evaluates
    folder: str = "runs"
    run: str | None = None  # name of the run folder; default: made from environment, sharing, algorithm, seed
    tensorboard: bool = True
    progress: bool = True


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation during training; every = frames between evaluations, 0 = only after the last iteration."""

    every: int = 0
    episodes: int = 32
    greedy: bool = True
    video: bool = True
    seed: int = 10_000


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything that decides an experiment."""

    env: EnvConfig
    sharing: SharingConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0
    seeds: int = 1
    device: str = "cpu"

    @property
    def all_seeds(self) -> list[int]:
        """The seeds that are trained side by side."""
        return list(range(self.seed, self.seed + self.seeds))

    def __post_init__(self) -> None:
        self._check_ranges()
        self.check_minibatches(self.env.num_envs)
        if self.algorithm.objective == "torchrl" and (self.seeds > 1 or self.model.recurrent):
            raise UserError("algorithm.objective=torchrl trains one seed at a time, without memory; use objective=ppo.")
        if self.algorithm.objective == "torchrl" and self.train.compile:
            raise UserError("train.compile=true fuses our own loss only; use algorithm.objective=ppo.")

    def check_minibatches(self, num_envs: int) -> None:
        """Refuse more of them than `num_envs` environments, those of one rank, give rows."""
        rows = num_envs * (1 if self.model.recurrent else self.train.steps)
        if self.algorithm.minibatches > rows:
            whole = ", since a recurrent policy learns from whole sequences" if self.model.recurrent else ""
            own = "" if num_envs == self.env.num_envs else " on each rank"
            raise UserError(
                f"algorithm.minibatches={self.algorithm.minibatches} is more than the {rows} rows of a rollout"
                f"{own}{whole}."
            )

    def _check_ranges(self) -> None:
        """Refuse numbers with which nothing could work."""
        env, train, algorithm, model, evaluation = self.env, self.train, self.algorithm, self.model, self.evaluation
        at_least_one: dict[str, float | None] = {
            "env.num_envs": env.num_envs,
            "env.max_steps": env.max_steps,
            "env.workers": env.workers,
            "sharing.embedding": self.sharing.embedding,
            "model.actor": min(model.actor, default=None),
            "model.critic": min(model.critic, default=None),
            "model.hidden": model.hidden,
            "algorithm.epochs": algorithm.epochs,
            "algorithm.minibatches": algorithm.minibatches,
            "train.frames": train.frames,
            "train.steps": train.steps,
            "train.checkpoint_every": train.checkpoint_every,
            "train.keep_checkpoints": train.keep_checkpoints,
            "train.log_every": train.log_every,
            "train.micro_batch": train.micro_batch,
            "train.threads": train.threads,
            "evaluation.episodes": evaluation.episodes,
            "seeds": self.seeds,
        }
        not_negative: dict[str, float | None] = {
            "algorithm.entropy": algorithm.entropy,
            "algorithm.value_coef": algorithm.value_coef,
            "train.diagnose_every": train.diagnose_every,
            "evaluation.every": evaluation.every,
            "seed": self.seed,
        }
        positive: dict[str, float | None] = {
            "algorithm.lr": algorithm.lr,
            "algorithm.clip": algorithm.clip,
            "algorithm.max_grad_norm": algorithm.max_grad_norm,
            "algorithm.adam_eps": algorithm.adam_eps,
            "train.rank_timeout": train.rank_timeout,
        }
        shares: dict[str, float | None] = {"algorithm.gamma": algorithm.gamma, "algorithm.lam": algorithm.lam}
        check_ranges(at_least_one=at_least_one, not_negative=not_negative, positive=positive, shares=shares)
