"""What a run of language agents is, as frozen data; `hypermarl.config.build` makes it and refuses unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hypermarl.config import check_ranges
from hypermarl.errors import UserError
from hypermarl.language.backbone import SMOLLM2
from hypermarl.sharing import SharingConfig

TEXT = ("text", "text_and_id", "reader")
"""Kinds of conditioning that read words."""


@dataclass(frozen=True)
class BackboneConfig:
    """The frozen model, and what of it is adapted. `dtype=auto` is bf16 where the machine multiplies it, else fp32."""

    model: str = SMOLLM2  # or a Hugging Face folder
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    modules: tuple[str, ...] = ("q_proj", "v_proj")
    rank: int = 8
    alpha: float = 16.0
    frame: str = "\n{prompt} ->"  # what surrounds a prompt, or "chat": the model's own template


@dataclass(frozen=True)
class DescriptionConfig:
    """How words become numbers: `sentence` is one vector of a sentence encoder, `states` the frozen model's own,
    `both` the one and then the other."""

    encoder: Literal["sentence", "states", "both"] = "sentence"
    layers: tuple[int, ...] = (12, 20)  # whose states a reader reads, or `both` averages; `states` takes the last one
    sentences: bool = False  # a text is the sum of its sentences, each encoded by itself: for documents
    width: int = 128  # of a reader
    queries: int = 8
    blocks: int = 1
    twice: bool = False  # a reader has a text read twice and looks at the second time, when its end is known
    contrast: int = 0  # steps in which a reader learns to tell descriptions apart; then it is fixed. 0: with the rest


@dataclass(frozen=True)
class TaskConfig:
    """What is taught; options go to the task unchanged."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TextEnvConfig:
    """Where a swarm acts; `num_envs` copies are played side by side."""

    kind: str
    name: str
    num_envs: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunConfig:
    """How long, how often, where. An update is one step of the optimiser."""

    updates: int = 300
    lr: float = 1e-3
    warmup: float = 0.1  # share of the updates in which the rate rises; then it falls to a tenth along a cosine
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    average: float = 0.0  # decay of a running average of the generator, which is then what is judged and saved; 0: none
    checkpoint_every: int = 25
    keep_checkpoints: int = 2
    log_every: int = 1
    evaluate_every: int = 0  # updates; 0 = only at the end
    threads: int = 1
    folder: str = "runs"
    run: str | None = None  # name of the run folder; default: made from task or environment, sharing and seed
    tensorboard: bool = True
    progress: bool = True


@dataclass(frozen=True)
class TeachConfig:
    """Supervision. A batch is `roles` roles with `rows` examples each, every role under one of its wordings."""

    roles: int = 8
    rows: int = 2
    unrelated: float = 0.0  # weight of the divergence from the frozen model on what has nothing to do with any role
    unrelated_every: int = 4  # updates from one that asks for that to the next
    distil: float = 0.0  # share of the loss that imitates the frozen model with the description in its prompt
    noise: float = 0.0  # added to encoded descriptions in training, in units of how far they are apart
    mix: float = 0.0  # share of another role's description that is mixed into a role's in training, at most
    fade: float = 0.0  # share by which descriptions are drawn to the mean of all in training, at most
    shuffled: bool = False  # the control: in training every role is described by another's words
    items: int = 4  # examples per role and column of an evaluation
    asked: int | None = None  # roles of a column at most, evenly spaced; by default all


@dataclass(frozen=True)
class RewardConfig:
    """Learning from reward. An update plays every copy of the environment through `episodes` episodes."""

    objective: Literal["reinforce", "grpo"] = "reinforce"
    episodes: int = 1
    group: int = 16  # copies that begin alike, so that fewer prompts are read and more is said to each
    epochs: int = 1  # of grpo
    clip: float = 0.2  # of grpo
    gamma: float = 1.0
    normalise: Literal["auto", "agent", "prompt", "team", "none"] = "auto"  # of a prompt for grpo, else of an agent
    kl: float = 0.0  # weight of the divergence from the frozen model
    entropy: float = 0.0  # bonus for speaking in many ways
    entropy_end: float | None = None  # what it falls to, in a line; by default it stays
    entropy_fall: tuple[float, float] = (0.0, 0.5)  # when it falls, from and until, in shares of the updates
    temperature: float = 1.0
    tokens: int = 16  # of an answer in free text
    test_episodes: int = 64


@dataclass(frozen=True)
class LanguageConfig:
    """Everything that decides a run: a `task` is taught, or in an `env` reward is earned."""

    sharing: SharingConfig
    task: TaskConfig | None = None
    env: TextEnvConfig | None = None
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    description: DescriptionConfig = field(default_factory=DescriptionConfig)
    train: RunConfig = field(default_factory=RunConfig)
    teach: TeachConfig = field(default_factory=TeachConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    seed: int = 0
    seeds: int = 1
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Of the task or environment."""
        if self.task is not None:
            return self.task.name
        assert self.env is not None
        return f"{self.env.kind}-{self.env.name}".replace("/", "-").replace(":", ".")

    @property
    def reads(self) -> bool:
        """Whether agents are known to the generator by what is said of them."""
        return self.sharing.conditioning in TEXT

    def __post_init__(self) -> None:
        if (self.task is None) == (self.env is None):
            raise UserError("Say either what is taught, task=..., or where reward is earned, env=...")
        if self.sharing.conditioning == "features":
            raise UserError("Language agents are described in words: sharing.conditioning=text, not features.")
        if self.description.encoder != "states" and self.sharing.conditioning == "reader":
            object.__setattr__(self, "description", replace(self.description, encoder="states"))
        if self.env is not None and self.description.contrast and self.sharing.conditioning == "reader":
            raise UserError(
                "description.contrast compares several wordings of a role; in an environment there is one: set it to 0."
            )
        if self.backbone.frame != "chat" and self.backbone.frame.count("{prompt}") != 1:
            raise UserError("backbone.frame must be chat, or a text with {prompt} in it once.")
        self._check_ranges()

    def _check_ranges(self) -> None:
        train, teach, reward, seen = self.train, self.teach, self.reward, self.description
        at_least_one: dict[str, float | None] = {
            "train.updates": train.updates,
            "train.checkpoint_every": train.checkpoint_every,
            "train.keep_checkpoints": train.keep_checkpoints,
            "train.log_every": train.log_every,
            "train.threads": train.threads,
            "teach.roles": teach.roles,
            "teach.rows": teach.rows,
            "teach.items": teach.items,
            "teach.asked": teach.asked,
            "teach.unrelated_every": teach.unrelated_every,
            "reward.episodes": reward.episodes,
            "reward.group": reward.group,
            "reward.epochs": reward.epochs,
            "reward.tokens": reward.tokens,
            "reward.test_episodes": reward.test_episodes,
            "description.width": seen.width,
            "description.queries": seen.queries,
            "description.blocks": seen.blocks,
            "description.layers": len(seen.layers),
            "sharing.embedding": self.sharing.embedding,
            "env.num_envs": self.env.num_envs if self.env else 1,
            "seeds": self.seeds,
        }
        not_negative = {
            "train.weight_decay": train.weight_decay,
            "train.evaluate_every": train.evaluate_every,
            "teach.unrelated": teach.unrelated,
            "teach.noise": teach.noise,
            "reward.kl": reward.kl,
            "reward.entropy": reward.entropy,
            "reward.entropy_end": reward.entropy_end or 0.0,
            "description.contrast": seen.contrast,
            "seed": self.seed,
        }
        positive = {
            "train.lr": train.lr,
            "train.max_grad_norm": train.max_grad_norm,
            "reward.clip": reward.clip,
            "reward.temperature": reward.temperature,
        }
        shares = {
            "train.warmup": train.warmup,
            "train.average": train.average,
            "teach.distil": teach.distil,
            "teach.mix": teach.mix,
            "teach.fade": teach.fade,
            "reward.gamma": reward.gamma,
        }
        if not 0 <= reward.entropy_fall[0] <= reward.entropy_fall[1] <= 1:
            raise UserError(
                "reward.entropy_fall must be two shares of the updates, the earlier one first, not "
                f"{list(reward.entropy_fall)}."
            )
        check_ranges(at_least_one=at_least_one, not_negative=not_negative, positive=positive, shares=shares)
