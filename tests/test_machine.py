"""What `hypermarl.machine` finds out about a machine, and training with what it offers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import close, config

from hypermarl import machine
from hypermarl.errors import UserError
from hypermarl.marl.learner import Learner

GAME = ("env=games/specialisation", "env.num_envs=6", "train.steps=7", "algorithm.minibatches=2")
CPU = torch.device("cpu")


def test_devices_by_name() -> None:
    assert machine.torch_device("cpu").type == "cpu"
    for name in ("tpu9", "nowhere"):
        with pytest.raises(UserError, match=f"device={name} cannot be used here"):
            machine.torch_device(name)


@pytest.mark.parametrize("able", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bfloat16_only_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch, able: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {able: True})
    machine.check_precision("bf16", CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {able: False, "avx2": True})
    machine.check_precision("fp32", CPU)
    with pytest.raises(UserError, match=r"train.precision=bf16 needs bfloat16 products, which this cpu has not"):
        Learner(config(*GAME, "train.precision=bf16"))


def test_no_compiler_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no g++\nand a long trace")

    monkeypatch.setattr(machine, "compiled", broken)
    with pytest.raises(UserError, match=r"^train.compile=true needs a compiler: no g\+\+$"):
        machine.check_compiler(CPU)


def trained(*words: str, iterations: int = 2) -> tuple[Learner, list[torch.Tensor]]:
    learner = Learner(config(*GAME, *words))
    learner.start()
    for _ in range(iterations):
        learner.iterate()
    return learner, [p.detach().clone() for policy in learner.policies.values() for p in policy.parameters()]


@pytest.mark.parametrize("model", ["mlp", "gru"])
def test_training_in_bfloat16_is_nearly_that_in_fp32(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """Products are rounded, everything kept and everything learnt from is fp32; evaluation is exact."""
    monkeypatch.setattr(machine, "check_precision", lambda *_: None)  # slow without the hardware, but it works
    monkeypatch.setattr("hypermarl.marl.learner.check_precision", lambda *_: None)
    words = (f"model={model}", "algorithm.lr=1e-3")
    _, start = trained(*words, iterations=0)
    narrow, found = trained(*words, "train.precision=bf16")
    exact, wanted = trained(*words)
    assert all(p.dtype == torch.float32 for p in found)
    batch = narrow.collector.collect(narrow.rngs, narrow.clock)[0]["agents"]
    assert batch.log_prob.dtype == batch.observation.dtype == torch.float32
    assert any(not torch.equal(a, b) for a, b in zip(found, wanted, strict=True)), "bf16 was not used"
    a, b, c = (torch.cat([p.flatten() for p in each]) for each in (found, wanted, start))
    assert torch.nn.functional.cosine_similarity(a - c, b - c, dim=0) > 0.7
    policy, other = narrow.policies["agents"], exact.policies["agents"]
    other.load_state_dict(policy.state_dict())
    if model == "mlp":
        seen = torch.randn(5, 1, len(policy.group.agents), policy.group.observation)
        rounded = policy.parameters_of(seen)[0]["logits"]
        assert rounded.dtype == torch.float32
        truth = other.parameters_of(seen)[0]["logits"]
        assert not torch.equal(rounded, truth)
        with policy.exact():
            assert torch.equal(policy.parameters_of(seen)[0]["logits"], truth)
        assert torch.equal(policy.parameters_of(seen)[0]["logits"], rounded)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_compiled_update_is_the_same_update(activation: str) -> None:
    words = (f"model.activation={activation}", "seeds=2")
    _, found = trained(*words, "train.compile=true")
    _, wanted = trained(*words)
    for a, b in zip(found, wanted, strict=True):
        close(a, b, atol=1e-4)
