"""A team is loaded from disk as it was saved, or a sentence says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import trained_run as runs
from small_team import CHOICE, SIDES, config_of

from hypermarl.envs.interface import Group
from hypermarl.errors import UserError
from hypermarl.marl.team import load


@pytest.mark.parametrize("sharing", runs.SHARINGS)
@pytest.mark.parametrize("groups", [CHOICE, SIDES], ids=["one group", "two groups"])
def test_loading_gives_back_what_was_saved(tmp_path: Path, sharing: str, groups: dict[str, Group]) -> None:
    config = config_of(f"sharing={sharing}", "seed=5")
    policies = runs.make_run(tmp_path / "run", config, groups)
    team = load(tmp_path / "run")
    assert team.groups == groups
    assert team.config == config
    assert team.checkpoint is not None
    assert team.checkpoint.frame == 640
    for name, policy in policies.items():
        own = policy.actor.weights()
        for i, agent in enumerate(groups[name].agents):
            for key, tensor in team.weights(agent).items():
                torch.testing.assert_close(tensor, own[key][min(i, len(own[key]) - 1)].detach(), rtol=0, atol=0)


def test_loading_one_checkpoint_of_several(tmp_path: Path) -> None:
    config = config_of()
    policies = runs.make_run(tmp_path / "run", config, CHOICE)
    folder = load(tmp_path / "run").folder
    assert folder is not None
    changed = {f"team/{key}": tensor + 1 for key, tensor in policies["team"].state_dict().items()}
    folder.save(1280, 2, policy=changed)
    newest, older = load(tmp_path / "run"), load(tmp_path / "run" / "checkpoints" / "000000000640")
    assert (newest.checkpoint.frame, older.checkpoint.frame) == (1280, 640)
    assert not torch.equal(newest.weights("a")["layers.0.bias"], older.weights("a")["layers.0.bias"])
    with pytest.raises(UserError, match="no complete checkpoint 000000000641"):
        load(tmp_path / "run" / "checkpoints" / "000000000641")


def test_a_run_of_several_seeds_is_asked_which(tmp_path: Path) -> None:
    runs.make_seeds(tmp_path / "run", config_of("seed=4"), 3)
    with pytest.raises(UserError, match="holds seeds 4, 5, 6; say which"):
        load(tmp_path / "run")
    with pytest.raises(UserError, match="holds no seed 0"):
        load(tmp_path / "run", seed=0)
    assert load(tmp_path / "run", seed=5).config.seed == 5
    assert load(tmp_path / "run" / "seed_6").config.seed == 6
    assert load(tmp_path / "run" / "checkpoints" / "000000000640", seed=6).config.seed == 6
    with pytest.raises(UserError, match="holds seed 6, not 4"):
        load(tmp_path / "run" / "seed_6", seed=4)


def test_folders_that_are_no_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        load(tmp_path / "missing")
    runs.make_run(tmp_path / "run", config_of(), CHOICE)
    other = load(tmp_path / "run")
    other.folder.save(1280, 2, policy={"team/unknown": torch.zeros(1)})
    with pytest.raises(UserError, match="000000001280 does not fit the settings"):
        load(tmp_path / "run")


def test_a_run_that_does_not_know_its_agents_is_damaged(tmp_path: Path) -> None:
    folder = runs.RunFolder.create(tmp_path / "run", runs.settings.to_dict(config_of()), {"team": {"name": "team"}})
    folder.save(1, 1, policy={})
    with pytest.raises(UserError, match=r"config\.json .*damaged"):
        load(tmp_path / "run")


def test_a_run_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    runs.RunFolder.create(tmp_path / "run", runs.settings.to_dict(config_of()), {})
    with pytest.raises(UserError, match="has no checkpoint yet"):
        load(tmp_path / "run")
