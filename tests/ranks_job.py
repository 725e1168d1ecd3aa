"""What each rank does in the tests of ranks.

Tensors that the test is to look at go to FOLDER/<rank>.safetensors, what is said for the user to FOLDER/<rank>.err.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import conftest
import safetensors.torch
import torch
from small import QUIET, config
from test_learner import Forgetful
from torch import Tensor

from hypermarl import cli
from hypermarl.envs import games
from hypermarl.errors import UserError
from hypermarl.marl import learner as module
from hypermarl.marl.learner import Learner
from hypermarl.marl.policy import Memory
from hypermarl.marl.ranks import Ranks
from hypermarl.marl.rollout import Batch
from hypermarl.marl.train import Experiment

assert conftest, games  # imported once, by the process that ranks are forked from
ENVS, STEPS = 6, 8
COMMON = (f"env.num_envs={ENVS}", f"train.steps={STEPS}", "algorithm.minibatches=3", "algorithm.epochs=1", "seeds=2")
GRADIENTS = {
    "games": (*COMMON, "train.micro_batch=40"),
    "values normalised, agents apart": (*COMMON, "algorithm.value_norm=true", "algorithm.normalise_advantage=agent"),
    "not normalised": (*COMMON, "algorithm.normalise_advantage=none"),
    "some dead": (*COMMON, "algorithm.value_norm=true"),
    "some dead, agents apart": (*COMMON, "algorithm.normalise_advantage=agent"),
    "gru": (*COMMON, "model=gru", "algorithm.minibatches=2"),
    "two groups": (*COMMON, "env=pettingzoo/mpe2.simple_tag_v3", "env.max_steps=5", "algorithm=mappo"),
}


def part_of(batch: Batch, rank: int, count: int) -> Batch:
    """The environments of one rank."""
    own = slice(rank * ENVS // count, (rank + 1) * ENVS // count)
    kept: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            value = value[:, own]
        elif isinstance(value, Memory):
            value = Memory(value.actor[own], value.critic[own])
        elif isinstance(value, dict):
            value = {t: tensor[own] for t, tensor in value.items()}
        kept[field.name] = value
    return Batch(**kept)


def orders(case: str, count: int, seeds: int = 2) -> list[list[Tensor]]:
    """For every minibatch the rows `[B, S]` that each rank takes of its own."""
    settings = config(*GRADIENTS[case])
    rows = ENVS // count * (1 if settings.model.recurrent else STEPS)
    chance = torch.Generator().manual_seed(7)
    drawn = [torch.stack([torch.randperm(rows, generator=chance) for _ in range(seeds)], 1) for _ in range(count)]
    parts = [each.tensor_split(settings.algorithm.minibatches) for each in drawn]
    return [list(each) for each in zip(*parts, strict=True)]


def joint(order: list[Tensor], count: int, recurrent: bool) -> Tensor:
    """The same rows as one process numbers them."""
    each = ENVS // count
    if recurrent:
        return torch.cat([index + r * each for r, index in enumerate(order)])
    return torch.cat([index // each * ENVS + r * each + index % each for r, index in enumerate(order)])


def gradients(learner: Learner, batches: Mapping[str, Batch], order: list[Tensor]) -> dict[str, Tensor]:
    """Of every minibatch, with what is reported of them and what the value statistics became."""
    found: dict[str, Tensor] = {}

    def note(optimizer: torch.optim.Optimizer, groups: Any, *_: Any) -> Tensor:
        k = sum(key.endswith(".0") for key in found)
        for i, p in enumerate(p for group in groups for p in group):
            found[f"{k}.{i}"] = torch.zeros(()) if p.grad is None else p.grad.clone()
        optimizer.zero_grad()
        return torch.zeros(2)

    module.minibatches = lambda *_: iter(order)  # type: ignore[assignment]
    module.descend = note
    learner.collector.collect = lambda *_: (dict(batches), learner_episodes(learner))  # type: ignore[method-assign]
    told = learner.iterate()
    found |= {f"terms/{n}/{term}": value for n, terms in told.terms.items() for term, value in terms.items()}
    for name, policy in learner.policies.items():
        found |= {f"norm/{name}/{key}": value for key, value in policy.value_norm.state_dict().items()}
    return found


def learner_episodes(learner: Learner) -> Any:
    returns = {name: total[0].clone() for name, total in learner.collector.returns.items()}
    return module.Episodes(returns, learner.collector.length[0].clone(), learner.collector.length[0].clone())


def compare_gradients(ranks: Ranks) -> dict[str, Tensor]:
    """Those of one process with all samples, and those of the ranks with their shares."""
    collect, result = module.Collector.collect, {}
    connected = False
    for case, words in GRADIENTS.items():
        settings = config(*words)
        whole = Learner(settings)
        whole.start()
        for _ in range(2):  # so that episodes end
            batches, _ = collect(whole.collector, whole.rngs, whole.clock)
        chance = torch.Generator().manual_seed(3)
        for batch in batches.values():
            batch.reward *= 1 + torch.arange(ENVS).view(1, -1, 1, 1)  # ranks are to be unlike
            if "dead" in case:
                batch.alive = torch.rand(batch.reward.shape, generator=chance) < torch.linspace(0.9, 0.2, ENVS).view(
                    1, -1, 1, 1
                )
        order = orders(case, ranks.count)
        recurrent = settings.model.recurrent
        one = gradients(whole, batches, [joint(each, ranks.count, recurrent) for each in order])
        whole.close()
        if connected:
            ranks.connect = lambda *_: None  # type: ignore[method-assign]
        connected = True
        own = Learner(settings, ranks)
        own.start()
        shares = {name: part_of(batch, ranks.rank, ranks.count) for name, batch in batches.items()}
        several = gradients(own, shares, [each[ranks.rank] for each in order])
        own.env.close()
        assert one.keys() == several.keys()
        result |= {f"one/{case}/{key}": value for key, value in one.items()}
        result |= {f"several/{case}/{key}": value for key, value in several.items()}
    return result


def poisoned(ranks: Ranks, *words: str) -> dict[str, Tensor]:
    """As `train`, but in the last iteration the second seed's rewards are no numbers on the last rank."""
    return train(ranks, *words, at=2)


def train(ranks: Ranks, *words: str, at: int | None = None) -> dict[str, Tensor]:
    """Three iterations: what must be alike on all ranks, and what each has of its own."""
    learner = Learner(config(*words), ranks)
    learner.start()
    result = {}
    for i in range(3):
        if i == at and ranks.rank == ranks.count - 1:
            poison(learner)
        told = learner.iterate()
        for n, terms in told.terms.items():
            result |= {f"alike/{i}/{n}/{term}": value for term, value in terms.items()}
            result[f"alike/{i}/{n}/returns"] = told.episodes.returns[n]
            result[f"own/{i}/{n}/action"] = told.batches[n].action
            result[f"own/{i}/{n}/observation"] = told.batches[n].observation[0]
        result |= {f"alike/{i}/norm": told.gradient_norm, f"alike/{i}/episodes": told.episodes.count}
        result |= {f"alike/{i}/{key}": value.clone() for key, value in learner.learned().items()}
    result["alike/healthy"] = learner.healthy
    learner.close()
    return result


def poison(learner: Learner) -> None:
    step = learner.env.step

    def worse(actions: Any) -> Any:
        found = step(actions)
        for reward in found.reward.values():
            reward[1 :: len(learner.seeds)] = float("nan")
        return found

    learner.env.step = worse  # type: ignore[method-assign]


def pieces(ranks: Ranks) -> dict[str, Tensor]:
    """What ranks can say to each other, checked by each."""
    r, count = ranks.rank, ranks.count
    assert ranks.told("word", f"from {r}") == "from 0"
    ranks.connect(torch.device("cpu"), 60.0)
    x, y = ranks.totals([torch.full((2, 3), float(r)), torch.arange(4.0) * r])
    sum_of_ranks = count * (count - 1) / 2
    assert torch.equal(x, torch.full((2, 3), sum_of_ranks))
    assert torch.equal(y, torch.arange(4.0) * sum_of_ranks)
    assert ranks.any(r == count - 1)
    assert not ranks.any(False)
    copied = [torch.full((3, 2), float(r)).t(), torch.tensor(r, dtype=torch.float64)]
    ranks.copy_first(copied)
    assert all(bool((tensor == 0).all()) for tensor in copied)
    words, tensors = ranks.spread({"a": [r]}, {"x": torch.arange(3) + r, "y": torch.zeros(0, dtype=torch.bool)})
    assert words == {"a": [0]}
    assert tensors["x"].tolist() == [0, 1, 2]
    assert tensors["y"].dtype == torch.bool
    state = ranks.gather({"x.y": torch.full((r + 1,), r), "z": torch.tensor(r > 0)})  # of unlike sizes
    if ranks.first:
        assert {k: v.tolist() for k, v in state.items() if "x.y" in k} == {
            f"rank.{i}.x.y": [i] * (i + 1) for i in range(count)
        }
        own = Ranks(count - 1, count).mine({**state, "healthy": torch.ones(1)})
        assert own is not None
        assert own["x.y"].tolist() == [count - 1] * count
        assert Ranks(0, count + 1).mine(state) is None
        assert Ranks().mine(state) is None
    else:
        assert state == {}
    ranks.insist_alike({"x": torch.ones(3)})
    told = ranks.tells()
    assert ranks.totals([torch.tensor([float(told)])])[0] == 1
    ranks.close()
    ranks.close()
    return {}


def drift(ranks: Ranks) -> dict[str, Tensor]:
    """The last bit of a parameter differs on the last rank."""
    ranks.connect(torch.device("cpu"), 60.0)
    x = torch.ones(3)
    if ranks.rank == ranks.count - 1:
        x[1] = torch.nextafter(x[1], torch.tensor(2.0))
    ranks.insist_alike({"x": x})
    return {}


def run(ranks: Ranks, folder: str, *words: str) -> dict[str, Tensor]:
    """A whole run, or with `frames=...` one that goes on; `signal=<rank>` interrupts that rank in its third iteration.

    With `forgetful=yes` the environment cannot tell its state.
    """
    given = dict(word.split("=", 1) for word in words if word.startswith(("frames=", "signal=", "forgetful=")))
    if "forgetful" in given:
        make = module.envs.make
        module.envs.make = lambda *args, **options: Forgetful(make(*args, **options))  # type: ignore[assignment]
    if given.get("signal") == str(ranks.rank):
        iterate = Learner.iterate

        def interrupted(self: Learner) -> Any:
            if self.iteration == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return iterate(self)

        Learner.iterate = interrupted  # type: ignore[method-assign]
    if "frames" in given:
        made = Experiment.resume(Path(folder) / "one", int(given["frames"]))
    else:
        own = [word for word in words if word.partition("=")[0] not in given]
        made = Experiment(config(*own, f"train.folder={folder}", "train.run=one", *QUIET))
    result = made.run()
    assert result.folder == Path(folder) / "one"
    assert bool(result.episodes) == (ranks.first and result.finished)
    return {"frame": torch.tensor(result.frame), "finished": torch.tensor(result.finished)}


TASKS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "gradients": compare_gradients,
    "train": train,
    "poisoned": poisoned,
    "pieces": pieces,
    "drift": drift,
    "run": run,
}


def work(place: Mapping[str, str], task: str, folder: str, words: Sequence[str]) -> None:
    """What a process of its own does, with the environment that torchrun would give it."""
    os.environ.update(place)
    rank = place["RANK"]
    errors = os.open(f"{folder}/{rank}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, 2)
    try:
        found = TASKS[task](Ranks.of_environment(), *([folder] if task == "run" else []), *words)
    except UserError as error:
        cli._leave(str(error))
    contiguous = {key: tensor.detach().clone().contiguous() for key, tensor in found.items()}
    safetensors.torch.save_file(contiguous, f"{folder}/{rank}.safetensors")
