"""What an experiment is, as frozen data; `hypermarl.config.build` makes it from YAML and refuses unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hypermarl.errors import UserError
from hypermarl.generator import GeneratorConfig


@dataclass(frozen=True)
class EnvConfig:
    """Which environment; `options` go to it unchanged. `num_envs` is per seed."""

    kind: str
    name: str
    num_envs: int = 16
    max_steps: int | None = None
    workers: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SharingConfig:
    """How agents share parameters: a setting of the one generator."""

    name: str
    conditioning: Literal["none", "one_hot", "table", "features"] = "table"
    embedding: int = 4
    features: tuple[tuple[float, ...], ...] = ()  # one row per agent, for conditioning "features"
    id_in_observation: bool = False
    share_embedding: bool = True  # actor and critic read one table
    share_log_std: bool = True  # one log standard deviation for all agents of a group
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)


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
    diagnose_every: int = 20  # iterations between diversity, gradient cosine, weight spread
    micro_batch: int = 2048  # rows (environment steps) per forward and backward; gradients are accumulated
    threads: int = 1
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
        positive = {
            "env.num_envs": self.env.num_envs,
            "train.frames": self.train.frames,
            "train.steps": self.train.steps,
            "train.checkpoint_every": self.train.checkpoint_every,
            "train.log_every": self.train.log_every,
            "train.micro_batch": self.train.micro_batch,
            "algorithm.epochs": self.algorithm.epochs,
            "algorithm.minibatches": self.algorithm.minibatches,
            "seeds": self.seeds,
        }
        for key, value in positive.items():
            if value < 1:
                raise UserError(f"{key} must be at least 1, not {value}.")
        rows = self.train.steps * self.env.num_envs
        if self.algorithm.minibatches > rows:
            raise UserError(
                f"algorithm.minibatches={self.algorithm.minibatches} is more than the {rows} rows of a rollout."
            )
        if self.algorithm.objective == "torchrl" and self.seeds > 1:
            raise UserError("algorithm.objective=torchrl trains one seed at a time; use seeds=1 or objective=ppo.")
