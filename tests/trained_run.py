"""Run folders as training leaves them, made in a moment: policies with random weights instead of trained ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from hypermarl import config as settings
from hypermarl import envs
from hypermarl.envs.interface import Group
from hypermarl.marl.policy import Policy, build_policy
from hypermarl.marl.settings import ExperimentConfig
from hypermarl.runs import RunFolder

SHARINGS = ("shared", "shared_id", "independent", "hyper_linear", "hyper_mlp", "hyper_low_rank", "hyper_chunked")


@cache
def experiment(*words: str) -> ExperimentConfig:
    """Settings as the command line makes them; small networks."""
    small = ["model.actor=[8,8]", "model.critic=[8]", "model.hidden=6"]
    return settings.build(ExperimentConfig, settings.compose([*small, *words], envs.parse))


def stirred(policy: Policy, seed: int) -> Policy:
    """Random parameters: freshly built agents are equal, trained ones are not."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
    return policy


def groups_of(config: ExperimentConfig) -> dict[str, Group]:
    env = envs.make(config.env.kind, config.env.name, num_envs=1, options=config.env.options)
    groups = dict(env.groups)
    env.close()
    return groups


def make_run(
    path: Path, config: ExperimentConfig, groups: Mapping[str, Group] | None = None, frame: int = 640
) -> dict[str, Policy]:
    """A run folder with one checkpoint; returns the policies in it."""
    groups = groups or groups_of(config)
    policies = {name: stirred(build_policy(config, groups, name, config.seed), config.seed) for name in groups}
    told: dict[str, Any] = {name: asdict(group) for name, group in groups.items()}
    folder = RunFolder.create(path, settings.to_dict(config), settings.to_dict(told))
    state = {f"{n}/{key}": tensor for n, policy in policies.items() for key, tensor in policy.state_dict().items()}
    folder.save(frame, 1, policy=state)
    return policies


def make_seeds(path: Path, config: ExperimentConfig, seeds: int) -> None:
    """A run folder of several seeds, each in a folder of its own."""
    groups = groups_of(config)
    told = settings.to_dict({name: asdict(group) for name, group in groups.items()})
    folder = RunFolder.create(path, settings.to_dict(replace(config, seeds=seeds)), told)
    folder.save(640, 1, policy={})
    for k in range(seeds):
        make_run(path / f"seed_{config.seed + k}", replace(config, seed=config.seed + k, seeds=1), groups)
