"""A trained swarm: it is what was trained, newcomers join without training, and its adapters go elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_language as tiny
import torch
from small import close
from small_runs import GAME, TASK, config, taught

import hypermarl
from hypermarl.errors import UserError
from hypermarl.language import room
from hypermarl.language import run as runs
from hypermarl.language.agents import Descriptions
from hypermarl.language.compose import composed, cut, measure
from hypermarl.language.export import served
from hypermarl.language.judge import open_learner
from hypermarl.language.load import load_swarm, open_author
from hypermarl.language.rows import Sampling
from hypermarl.language.settings import DescriptionConfig
from hypermarl.language.swarm import Swarm
from hypermarl.runs import RunFolder

__all__ = ["taught"]  # a fixture

PROMPTS = {"auditor": "red cat one", "clerk": "moon", "scout": "sun sun dog"}
SHARINGS = ("shared", "shared_id", "independent", "hyper_mlp", "hyper_text", "hyper_text_id", "hyper_reader")
READING = ("hyper_text", "hyper_text_id", "hyper_reader")
FEW = Sampling(tokens=5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The run of a way of sharing, trained for a moment."""
    folder = tmp_path_factory.mktemp("trained")
    model = tiny.folder(folder / "model")
    known: dict[str, Path] = {}

    def run(sharing: str = "hyper_text") -> Path:
        if sharing not in known:
            more = ("train.updates=4", f"train.folder={folder}", f"sharing={sharing}", "backbone.frame='{prompt} two'")
            ((known[sharing]),) = [result.folder for result in runs.train(config(model, GAME, *more))]
        return known[sharing]

    return run


def scores(swarm: Swarm, prompts: dict[str, str]) -> dict[str, torch.Tensor]:
    return {agent: rows[0] for agent, rows in swarm.logits(prompts).items()}


@pytest.mark.parametrize("sharing", SHARINGS)
def test_every_agent_is_what_was_trained(trained: Any, sharing: str) -> None:
    _, _, learner = open_learner(trained(sharing))
    swarm = hypermarl.load_swarm(trained(sharing))
    weights = learner.actor.weights(learner.who())  # type: ignore[attr-defined]
    assert swarm.weights.keys() == weights.keys()
    for name, tensor in weights.items():
        close(swarm.weights[name], tensor)
    asked = {agent: learner.asking.question(agent, prompt, None).tokens for agent, prompt in PROMPTS.items()}  # type: ignore[attr-defined]
    found = scores(swarm, PROMPTS)
    for number, (agent, tokens) in enumerate(asked.items()):
        own = {name: tensor[number if len(tensor) > 1 else 0].unsqueeze(0) for name, tensor in weights.items()}
        with torch.no_grad():
            expected = learner.actor({"input_ids": torch.tensor([tokens])}, own).logits[0, -1]
        close(found[agent], expected)
    assert tuple(swarm.agents) == tuple(PROMPTS)


def test_prompts_are_framed_as_in_training_unless_a_call_says_otherwise(trained: Any) -> None:
    swarm = load_swarm(trained())
    plain = Swarm(swarm.backbone, swarm.target, swarm.agents, swarm.weights)
    for agent, prompt in PROMPTS.items():
        framed = scores(swarm, {agent: prompt})[agent]
        close(framed, scores(plain, {agent: f"{prompt} two"})[agent])
        assert not torch.allclose(framed, scores(plain, {agent: prompt})[agent], atol=1e-3)
        close(swarm.logits({agent: prompt}, chat=False)[agent], plain.logits({agent: prompt})[agent])


@pytest.mark.parametrize("sharing", READING)
def test_a_newcomer_with_a_known_role_is_that_agent_and_nobody_else_changes(trained: Any, sharing: str) -> None:
    swarm = load_swarm(trained(sharing))
    before = scores(swarm, PROMPTS)
    swarm.add("second", role="moon two cat")
    swarm.add("lawyer", role="green dog")
    after = scores(swarm, {**PROMPTS, "second": PROMPTS["clerk"], "lawyer": PROMPTS["clerk"]})
    for agent, rows in before.items():
        close(after[agent], rows)
    if sharing != "hyper_text_id":  # there the clerk is more than its description
        close(after["second"], before["clerk"])
    assert not torch.allclose(after["lawyer"], before["clerk"], atol=1e-4)
    assert swarm.agents == (*PROMPTS, "second", "lawyer")


@pytest.mark.parametrize("sharing", ["hyper_mlp", *READING])
def test_a_newcomer_between_two_agents_lies_between_them_for_the_generator(trained: Any, sharing: str) -> None:
    swarm = load_swarm(trained(sharing))
    swarm.add("whole", like="clerk")
    swarm.add("half", like={"clerk": 0.5, "auditor": 0.5})
    found = scores(swarm, dict.fromkeys(swarm.agents, "moon"))
    close(found["whole"], found["clerk"])
    assert not torch.allclose(found["half"], found["clerk"], atol=1e-5)
    close(swarm.codes["half"], (swarm.codes["clerk"] + swarm.codes["auditor"]) / 2)


def test_with_one_adapter_for_all_anybody_may_join(trained: Any) -> None:
    swarm = load_swarm(trained("shared"))
    swarm.add("second", like="clerk")
    swarm.add("third", role="who ever")
    found = scores(swarm, dict.fromkeys(swarm.agents, "moon"))
    close(found["second"], found["auditor"])
    close(found["third"], found["auditor"])
    swarm = load_swarm(trained("shared_id"))
    swarm.add("second", role="moon two cat")
    found = scores(swarm, dict.fromkeys(swarm.agents, "moon"))
    close(found["second"], found["clerk"])
    assert not torch.allclose(found["second"], found["auditor"], atol=1e-5)


@pytest.mark.parametrize(
    "sharing, options, sentence",
    [
        ("independent", {"role": "red"}, "keeps an adapter for each agent"),
        ("independent", {"like": "clerk"}, "keeps an adapter for each agent"),
        ("hyper_mlp", {"role": "red"}, "reads no words"),
        ("hyper_text", {"role": "  "}, "description is empty"),
        ("hyper_text", {"role": "red " * 50}, "50 tokens is longer than the 40"),
        ("hyper_text", {}, "either in words"),
        ("hyper_text", {"role": "red", "like": "clerk"}, "either in words"),
        ("hyper_text", {"like": {}}, "at least one agent"),
        ("hyper_text", {"like": {"clerk": float("nan")}}, "finite number"),
        ("hyper_text", {"like": "clark"}, "no agent 'clark'.*'clerk'"),
        ("shared_id", {"like": "clerk"}, "stands in its prompt"),
    ],
)
def test_who_cannot_join_is_told_why(trained: Any, sharing: str, options: dict[str, Any], sentence: str) -> None:
    swarm = load_swarm(trained(sharing))
    with pytest.raises(UserError, match=sentence):
        swarm.add("new", **options)
    assert swarm.agents == tuple(PROMPTS)
    assert all(len(tensor) in (1, 3) for tensor in swarm.weights.values())


def test_names_are_taken_once_and_a_swarm_without_generator_stays_as_it_is(trained: Any) -> None:
    swarm = load_swarm(trained())
    with pytest.raises(UserError, match="'clerk' in this swarm already"):
        swarm.add("clerk", role="red")
    plain = Swarm(swarm.backbone, swarm.target, swarm.agents, swarm.weights)
    with pytest.raises(UserError, match="load_swarm"):
        plain.add("new", role="red")


def test_an_agent_for_one_step_leaves_everything_as_it_was(trained: Any) -> None:
    swarm = load_swarm(trained())
    before, clean = scores(swarm, PROMPTS), Swarm(swarm.backbone, swarm.target, swarm.agents, swarm.weights)
    swarm.add("lawyer", role="green dog")
    with swarm.agent(text="green dog") as agent:
        close(agent.logits("moon")[0], scores(swarm, {"lawyer": "moon"})["lawyer"])
        assert agent.generate("moon", FEW) == swarm.generate({"lawyer": "moon"}, FEW)["lawyer"]
        assert agent.generate(["moon", "sun"], FEW)[1] == swarm.generate({"lawyer": "sun"}, FEW)["lawyer"]
    with swarm.agent(like={"clerk": 1.0}) as other:
        close(other.logits("moon")[0], scores(swarm, {"clerk": "moon"})["clerk"])
    with pytest.raises(UserError, match="block"):
        agent.generate("moon")
    with pytest.raises(ValueError, match="ours"), swarm.agent(text="green dog"):
        raise ValueError("ours")
    close(scores(swarm, PROMPTS)["clerk"], before["clerk"])
    assert clean.agents == tuple(PROMPTS) and not any(
        layer._forward_hooks for name, layer in swarm.backbone.model.named_modules() if name.endswith("_proj")
    )


def test_too_little_memory_says_how_many_fit(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    swarm = load_swarm(trained())
    size = room.adapter_bytes(swarm.backbone, swarm.target)
    monkeypatch.setattr(room, "available", lambda device: 2 * size)
    with pytest.raises(UserError, match="3 agents need about .*: 2 such agents fit"):
        load_swarm(trained())
    swarm.add("one", role="red")
    monkeypatch.setattr(room, "available", lambda device: size - 1)
    with pytest.raises(UserError, match=": 0 such agents fit"):
        swarm.add("two", role="red")


# ------------------------------------------------------------------------------------------------------- tasks


@pytest.mark.usefixtures("taught")
def test_a_run_of_a_task_gives_all_its_roles_where_words_are_read_and_the_trained_ones_elsewhere(
    tmp_path: Path,
) -> None:
    model = tiny.folder(tmp_path / "model")
    for sharing, agents in (("hyper_text", 5), ("independent", 4)):
        more = ("train.updates=3", f"train.folder={tmp_path}", f"sharing={sharing}")
        (result,) = runs.train(config(model, TASK, *more))
        swarm = load_swarm(result.folder)
        assert len(swarm.agents) == agents and ("apart" in swarm.agents) == (agents == 5)
        _, _, learner = open_learner(result.folder)
        role = learner.learned[2]  # type: ignore[attr-defined]
        own = learner.actor.weights(learner.who([role], role.wordings[:1]))  # type: ignore[attr-defined]
        for name, tensor in own.items():
            close(swarm.weights[name][swarm.agents.index(role.name)], tensor[0])


@pytest.mark.parametrize("sharing", SHARINGS)
def test_some_agents_of_a_run_are_loaded_alone(trained: Any, sharing: str) -> None:
    whole = hypermarl.load_swarm(trained(sharing))
    some = [whole.agents[2], whole.agents[0]]
    few = hypermarl.load_swarm(trained(sharing), agents=some)
    assert list(few.agents) == some
    assert set(few.roles) == (set(some) if sharing == "shared_id" else set()), "who they are stands in their prompts"
    prompts = {agent: PROMPTS[agent] for agent in some}
    for agent, expected in scores(whole, prompts).items():
        close(scores(few, prompts)[agent], expected)
    with pytest.raises(UserError, match=f"no agent 'x{some[0]}' in this swarm; did you mean '{some[0]}'"):
        hypermarl.load_swarm(trained(sharing), agents=[f"x{some[0]}"])
    with pytest.raises(UserError, match="needs agents"):
        hypermarl.load_swarm(trained(sharing), agents=[])


# ------------------------------------------------------------------------------------- which run, what is wrong


def test_of_several_seeds_one_is_named(tmp_path: Path) -> None:
    model = tiny.folder(tmp_path / "model")
    runs.train(config(model, GAME, "train.updates=1", f"train.folder={tmp_path}", "train.run=both", "seeds=2"))
    with pytest.raises(UserError, match="seeds 0, 1; say which"):
        load_swarm(tmp_path / "both")
    one, other = load_swarm(tmp_path / "both", 1), load_swarm(tmp_path / "both/seed_1")
    assert all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())
    checkpoint = next((tmp_path / "both/seed_1/checkpoints").iterdir())
    assert load_swarm(checkpoint).agents == one.agents
    with pytest.raises(UserError, match="no seed 5"):
        load_swarm(tmp_path / "both", 5)


def test_another_base_a_damaged_generator_and_a_damaged_list_of_agents_are_refused(tmp_path: Path) -> None:
    model = tiny.folder(tmp_path / "model")
    (result,) = runs.train(config(model, GAME, "train.updates=1", f"train.folder={tmp_path}"))
    latest = RunFolder.open(result.folder).latest()
    assert latest is not None
    tiny.folder(model, seed=1)
    with pytest.raises(UserError, match="was trained on .*cannot be used with"):
        load_swarm(result.folder)
    tiny.folder(model)
    described = result.folder / "config.json"
    content = json.loads(described.read_text())
    described.write_text(json.dumps({**content, "groups": {**content["groups"], "agents": [1]}}))
    with pytest.raises(UserError, match="names no agents"):
        load_swarm(result.folder)
    fewer = dict(list(content["groups"]["agents"].items())[:2])
    described.write_text(json.dumps({**content, "groups": {**content["groups"], "agents": fewer}}))
    with pytest.raises(UserError, match="does not fit"):
        load_swarm(result.folder)
    policy = latest.path / "policy.safetensors"
    policy.write_bytes(policy.read_bytes()[:-8])
    with pytest.raises(UserError, match="intact"):
        load_swarm(result.folder)


# ---------------------------------------------------------------------------------------------------- composing


def test_the_delta_of_chunks_is_the_sum_of_theirs_with_what_they_share_counted_once() -> None:
    target = tiny.target(modules=("q_proj", "down_proj"), alpha=5.0)
    chunks, shared = tiny.adapters(4, one=target), tiny.adapters(1, seed=9, one=target)
    more, made = composed(target, chunks, shared)
    assert (more.rank, more.scale) == (5 * tiny.RANK, target.scale)
    common = target.deltas(shared)
    for name, delta in more.deltas(made).items():
        close(delta, sum(target.deltas(chunks, i)[name] - common[name] for i in range(4)) + common[name], atol=1e-4)
    more, made = composed(target, chunks)
    assert more.rank == 4 * tiny.RANK
    for name, delta in more.deltas(made).items():
        close(delta, sum(target.deltas(chunks, i)[name] for i in range(4)), atol=1e-4)
    idle = {name: tensor * name.endswith(".A") for name, tensor in shared.items()}
    assert composed(target, chunks, idle)[0].rank == 4 * tiny.RANK  # what does nothing needs no rank
    one = tiny.agent(chunks, 0)
    assert composed(target, one, shared) == (target, one)


def test_what_chunks_share_is_the_generators_base(trained: Any) -> None:
    author = open_author(trained())
    shared = author.shared()
    assert shared is not None
    with torch.no_grad():
        for head in author.actor.generator.heads.parameters():
            head.zero_()
    for name, tensor in author.weights([author.code("green dog")]).items():
        close(shared[name], tensor)
    assert open_author(trained("independent")).shared() is None


def test_documents_are_cut_at_sentences_into_chunks_that_fit() -> None:
    def words(text: str) -> int:
        return len(text.split())

    text = "One two three. Four five six seven.  Eight nine ten eleven twelve thirteen fourteen fifteen"
    found = cut(text, words, 6)
    assert found == [
        "One two three.",
        "Four five six seven.",
        "Eight nine ten eleven twelve thirteen",
        "fourteen fifteen",
    ]
    assert cut(text, words, 100) == [text]
    assert " ".join(cut(text, words, 1)).split() == text.split()
    with pytest.raises(UserError, match="'longest' alone"):
        cut("a longest b", len, 4)
    with pytest.raises(UserError, match="empty"):
        cut(" \n", words, 4)


def test_servers_of_adapters_are_told_the_rank_to_allow() -> None:
    assert [served(rank) for rank in (1, 8, 9, 300, 512, 513)] == [8, 8, 16, 320, 512, None]


def test_of_two_encoders_the_one_that_reads_less_says_how_long_a_chunk_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random model reads 40 tokens, one for each word; the sentence encoder here 9, two for each word."""
    sentence = SimpleNamespace(tokenizer=lambda text, verbose: {"input_ids": text.split() * 2}, window=9)
    monkeypatch.setattr("hypermarl.language.compose.SentenceEncoder", lambda device: sentence)
    found = {}
    for encoder in ("sentence", "states", "both"):
        config = SimpleNamespace(description=SimpleNamespace(encoder=encoder, sentences=False, twice=False))
        tokens, window = measure(config, tiny.backbone())  # type: ignore[arg-type]
        found[encoder] = tokens("red cat sun"), window
    assert found == {"sentence": (6, 9), "states": (3, 40), "both": (6, 9)}


@pytest.mark.parametrize("conditioning, window", [("reader", 19), ("text", 40)])
def test_read_twice_a_text_may_be_half_as_long(conditioning: str, window: int) -> None:
    description = DescriptionConfig(encoder="states", layers=(1, 2), twice=True)
    config = SimpleNamespace(description=description, sharing=SimpleNamespace(conditioning=conditioning))
    assert measure(config, tiny.backbone())[1] == window  # type: ignore[arg-type]
    if conditioning == "reader":
        text = " ".join(["red"] * window)
        known = Descriptions(description, tiny.backbone(), whole=True)
        assert known([text]).mask.sum() == window + 1  # type: ignore[union-attr]
        with pytest.raises(UserError, match="A text of 42 tokens is longer than the 40"):
            known([text + " red red"])
