"""A swarm on a random language model: one batch gives what each agent would alone, and neighbours do not matter."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import small_language as tiny
import torch
from small import close, rng, stirred
from torch import Tensor

from hypermarl.actor import GeneratedActor
from hypermarl.conditioning import AgentTable
from hypermarl.errors import UserError
from hypermarl.generator import Generator, GeneratorConfig
from hypermarl.language.rows import Rows, Sampling
from hypermarl.language.swarm import Piece, Swarm

AGENTS = ("auditor", "clerk", "lawyer", "scout", "cook")  # five, which no other size is
PROMPTS: dict[str, list[str]] = {
    "auditor": ["red cat one"],
    "clerk": ["blue", "green dog sun two red"],
    "lawyer": ["moon moon sun", "one two"],
    "scout": ["dog"],
    "cook": ["sun red", "cat", "two two two"],
}
LONG = Sampling(tokens=7)


def swarm(size: float = 0.6) -> Swarm:
    return Swarm(tiny.backbone(), tiny.target(), AGENTS, tiny.adapters(len(AGENTS), size))


def alone(agent: str) -> Swarm:
    number = AGENTS.index(agent)
    return Swarm(tiny.backbone(), tiny.target(), [agent], tiny.agent(swarm().weights, number))


def next_scores(model: Any, prompt: str) -> Tensor:
    ids = torch.tensor([tiny.backbone().encode(prompt)])
    return model(ids).logits[0, -1]


def greedy(model: Any, prompt: str, tokens: int) -> str:
    ids = torch.tensor([tiny.backbone().encode(prompt)])
    options = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return tiny.backbone().decode(out[0, ids.shape[1] :].tolist())


def merged(agent: str) -> Any:
    plain = copy.deepcopy(tiny.backbone().model)
    for name, delta in tiny.target().deltas(swarm().weights, AGENTS.index(agent)).items():
        plain.get_parameter(name).data.add_(delta)
    return plain


@pytest.mark.parametrize("tracked", [True, False])
def test_a_fresh_swarm_is_the_frozen_model_to_the_bit(tracked: bool) -> None:
    one = tiny.target()
    generator = Generator(one.spec, 4, config=GeneratorConfig(trunk=(6,)), rng=rng())
    actor = GeneratedActor(AgentTable(len(AGENTS), 4, rng()), generator, one)
    rows = Rows.of([[tiny.backbone().encode(text) for text in texts] for texts in PROMPTS.values()], 0)
    with torch.set_grad_enabled(tracked):
        fresh = actor(rows.arguments()).logits
        assert torch.equal(fresh, one.network(**rows.arguments()).logits)
        assert not torch.equal(fresh, stirred(actor)(rows.arguments()).logits)


def test_one_batch_gives_what_each_agent_gives_alone_and_what_merged_weights_give() -> None:
    together = swarm().logits(PROMPTS)
    for agent, texts in PROMPTS.items():
        assert together[agent].shape == (len(texts), tiny.V)
        close(together[agent], alone(agent).logits({agent: texts})[agent])
        for scores, text in zip(together[agent], texts, strict=True):
            close(scores, next_scores(merged(agent), text))
    close(together["cook"], swarm().logits({"cook": PROMPTS["cook"], "clerk": PROMPTS["clerk"]})["cook"])


def test_neighbours_do_not_matter() -> None:
    """Adapters, prompts, padding and numbers of rows of others; the first to the bit, as no shape changes."""
    one = swarm()
    before = one.logits(PROMPTS)["lawyer"]
    others = [i for i, name in enumerate(AGENTS) if name != "lawyer"]
    changed = {name: tensor.clone() for name, tensor in one.weights.items()}
    for tensor in changed.values():
        tensor[others] *= -3.0
    other = Swarm(one.backbone, one.target, AGENTS, changed)
    after = other.logits(PROMPTS)
    assert torch.equal(after["lawyer"], before)
    assert all(not torch.allclose(after[name], one.logits(PROMPTS)[name]) for name in AGENTS if name != "lawyer")
    same_length = PROMPTS | {"clerk": ["green", "sun sun moon one one"], "scout": ["two"]}
    assert torch.equal(one.logits(same_length)["lawyer"], before)
    close(one.logits(PROMPTS | {"cook": ["red cat " * 8]})["lawyer"], before)  # more padding
    close(one.logits(PROMPTS | {"cook": ["red"] * 9})["lawyer"], before)  # more rows
    close(one.logits({"lawyer": PROMPTS["lawyer"]})["lawyer"], before)


def test_gradients_reach_only_the_generator() -> None:
    one = tiny.target()
    generator = Generator(one.spec, 4, config=GeneratorConfig(trunk=(6,)), rng=rng())
    actor = stirred(GeneratedActor(AgentTable(len(AGENTS), 4, rng()), generator, one))
    rows = Rows.of([[tiny.backbone().encode(text) for text in texts] for texts in PROMPTS.values()], 0)
    actor(rows.arguments()).logits.square().mean().backward()
    assert all(parameter.grad is None for parameter in one.network.parameters())
    for name, parameter in actor.named_parameters():
        assert parameter.grad is not None and parameter.grad.count_nonzero(), name
    assert {id(p) for p in actor.parameters()}.isdisjoint({id(p) for p in one.network.parameters()})


def test_layers_are_taken_apart_once() -> None:
    """Taken out one by one, each would fill a gradient of the size of all with zeros."""
    one = tiny.target()
    generator = Generator(one.spec, 4, config=GeneratorConfig(trunk=(6,)), rng=rng())
    adapters = one.adapters(generator(torch.randn(5, 4)))
    seen, ahead = set(), [adapter.right.grad_fn for adapter in adapters.values()]
    while ahead:
        if (node := ahead.pop()) is not None and node not in seen:
            seen.add(node)
            ahead += [before for before, _ in node.next_functions]
    names = [node.name() for node in seen]
    assert names.count("UnbindBackward0") == 2, "once for each slot of right factors"
    assert not {"SelectBackward0", "IndexBackward0", "SliceBackward0"} & set(names)


def test_an_agents_loss_reaches_its_own_adapter_alone() -> None:
    one = tiny.target()
    weights = {name: tensor.requires_grad_() for name, tensor in tiny.adapters(len(AGENTS)).items()}
    rows = Rows.of([[[2, 3, 4], [5, 6]]] * len(AGENTS), 0)
    logits = one.apply(weights, rows.arguments()).logits.reshape(len(AGENTS), 2, 3, tiny.V)
    logits[1].square().mean().backward()
    for name, tensor in weights.items():
        assert tensor.grad is not None
        assert tensor.grad.flatten(1).abs().sum(-1).nonzero().flatten().tolist() == [1], name


def test_answers_are_those_of_the_library_agent_by_agent() -> None:
    answers = swarm().generate(PROMPTS, LONG)
    assert any(answers[agent] != swarm(0.0).generate(PROMPTS, LONG)[agent] for agent in AGENTS)
    for agent, texts in PROMPTS.items():
        assert answers[agent] == [greedy(merged(agent), text, 7) for text in texts]
    plain = swarm(0.0).generate(PROMPTS, LONG)
    for agent, texts in PROMPTS.items():
        assert plain[agent] == [greedy(tiny.backbone().model, text, 7) for text in texts]
    lengths = {len(text.split()) for texts in answers.values() for text in texts}
    assert len(lengths) > 2 and 7 in lengths, "some rows end by themselves, others at the limit"
    assert swarm().generate({"cook": "cat"}, LONG) == {"cook": answers["cook"][1]}, "a text for a text"
    backwards = {agent: PROMPTS[agent] for agent in reversed(AGENTS)}
    assert swarm().generate(backwards, LONG) == answers


def test_rows_end_at_stop_tokens_by_themselves() -> None:
    free = swarm().generate(PROMPTS, LONG)
    word = next(word for word in tiny.WORDS[2:] if 0 < str(free).count(word) < 9)
    stopped = swarm().generate(PROMPTS, Sampling(tokens=7, stop=(tiny.WORDS.index(word),)))
    for agent, texts in free.items():
        assert stopped[agent] == [" ".join(text.split(word)[0].split()) for text in texts]
    assert stopped != free


def test_sampling_repeats_with_its_seed_and_follows_its_settings() -> None:
    hot = Sampling(tokens=5, temperature=1.5)
    first, again, other = (swarm().generate(PROMPTS, hot, rng=rng(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert swarm().generate(PROMPTS, Sampling(5, 1.5, top_p=1e-6), rng=rng(3)) == swarm().generate(PROMPTS, Sampling(5))
    assert swarm().generate(PROMPTS, Sampling(5, 1e-4), rng=rng(3)) == swarm().generate(PROMPTS, Sampling(5))


def test_several_answers_to_one_prompt_read_it_once() -> None:
    """As many draws as rows, each with the luck and the probabilities it has in a batch that reads every row."""
    prompts = {"cook": ["sun red", "cat", *["red cat one two"] * 6], "clerk": ["blue"] * 7, "scout": ["dog", "one"]}
    hot = Sampling(tokens=6, temperature=1.5)
    read: list[tuple[int, ...]] = []
    one = swarm()
    watch = one.backbone.model.model.register_forward_pre_hook(
        lambda _, given, named: read.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    try:
        answers = one.generate(prompts, hot, rng=rng(4))
        spared = read.copy()
        read.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Rows, "distinct", lambda rows, owners: (rows, None))
            assert one.generate(prompts, hot, rng=rng(4)) == answers
    finally:
        watch.remove()
    assert spared[0] == (9, 4) and read[0] == (24, 4) and spared[1:] == read[1:] and set(read[1:]) == {(24, 1)}
    assert len(set(answers["cook"][2:])) > 3 and len(set(answers["clerk"])) > 3, "copies have their own luck"
    calm = one.generate(prompts, LONG)
    for agent, texts in prompts.items():
        assert calm[agent] == [greedy(merged(agent), text, 7) for text in texts]


def test_one_adapter_for_all_reads_a_prompt_once_whoever_asks() -> None:
    one = Swarm(tiny.backbone(), tiny.target(), AGENTS, tiny.adapters(1))
    read: list[int] = []
    watch = one.backbone.model.model.register_forward_pre_hook(
        lambda _, given, named: read.append(len(named["input_ids"])), with_kwargs=True
    )
    try:
        answers = one.generate(dict.fromkeys(AGENTS, "red cat one"), Sampling(tokens=3))
    finally:
        watch.remove()
    assert read == [1, 5, 5] and len(set(answers.values())) == 1


def test_pieces_add_up_to_the_answer_and_leave_the_model_free() -> None:
    one = swarm()
    written = {agent: [""] * len(texts) for agent, texts in PROMPTS.items()}
    count = 0
    for piece in one.stream(PROMPTS, LONG):
        written[piece.agent][piece.row] += piece.text
        count += 1
        if count == 3:
            assert one.generate({"scout": "dog"}, LONG)  # while the stream is under way
    assert written == one.generate(PROMPTS, LONG)
    assert count > 20, "word by word"
    heard: list[Piece] = []
    one.generate(PROMPTS, LONG, listen=heard.append)
    assert heard == list(one.stream(PROMPTS, LONG))


def test_agents_choose_the_likeliest_of_their_own_words() -> None:
    one = swarm()
    words = {agent: tiny.WORDS[2 + i : 6 + i] for i, agent in enumerate(AGENTS)}
    said = one.choose(PROMPTS, words)
    for agent, prompts in PROMPTS.items():
        ids = [tiny.WORDS.index(word) for word in words[agent]]
        best = [words[agent][int(next_scores(merged(agent), prompt)[ids].argmax())] for prompt in prompts]
        assert said[agent] == best, agent
    assert len({word for some in said.values() for word in some}) > 2, "or the model always says the same"
    assert one.choose({"scout": "dog"}, words)["scout"] == said["scout"][0]


def test_choices_are_drawn_by_their_shares() -> None:
    words = ["red", "green", "blue"]
    drawn = swarm().choose({"scout": ["dog"] * 4000}, words, temperature=2.0, rng=rng(1))["scout"]
    ids = [tiny.WORDS.index(word) for word in words]
    shares = (swarm().logits({"scout": "dog"})["scout"][0, ids] / 2.0).softmax(-1)
    close(torch.tensor([drawn.count(word) / 4000 for word in words]), shares, atol=0.03)


def test_nothing_to_choose_from_is_refused() -> None:
    for words in ([], {"scout": []}, "red"):
        with pytest.raises(UserError, match="Agent 'scout' has nothing to choose from"):
            swarm().choose({"scout": "dog"}, words)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no agent 'scuot'"):
        swarm().choose({"scuot": "dog"}, ["red", "blue"])
    with pytest.raises(UserError, match="'red' and 'red cat' begin with the same token"):
        swarm().choose({"scout": "dog"}, ["red", "red cat"])


def test_memory_is_the_model_once_and_each_adapter() -> None:
    one = tiny.target()
    sizes = swarm().nbytes
    assert sizes["adapters"] == 4 * 5 * one.spec.numel()
    assert sizes["model"] == 4 * sum(p.numel() for p in tiny.backbone().model.parameters())


@pytest.mark.parametrize(
    "prompts, sentence",
    [
        ({"cleric": "red"}, "no agent 'cleric' in this swarm; did you mean 'clerk'[?]$"),
        ({"zzz": "red"}, "no agent 'zzz' in this swarm; it has auditor, clerk"),
        ({}, "Nothing was asked"),
        ({"clerk": []}, "Nothing was asked"),
        ({"clerk": " "}, "A prompt is empty"),
        ({"clerk": "red " * 34}, "A prompt of 34 tokens and an answer of 7 are longer than the 40 tokens"),
    ],
)
def test_bad_prompts_are_refused(prompts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        swarm().generate(prompts, LONG)


def test_bad_swarms_and_settings_are_refused() -> None:
    with pytest.raises(UserError, match="each with a name of its own"):
        Swarm(tiny.backbone(), tiny.target(), ["a", "a"], tiny.adapters(2))
    with pytest.raises(ValueError, match="does not fit 4 agents"):
        Swarm(tiny.backbone(), tiny.target(), list("abcd"), tiny.adapters(5))
    with pytest.raises(ValueError, match="another model object"):
        Swarm(tiny.backbone(1), tiny.target(), AGENTS, tiny.adapters(5))
    for options in ({"tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}):
        with pytest.raises(UserError, match="Sampling needs"):
            Sampling(**options)
