"""Examples as a batch: scored where answers stand and nowhere else, as the whole model scores them."""

from __future__ import annotations

import pytest
import small_language as tiny
import torch
from small import close

from hypermarl.language.lessons import Lesson, chosen, divergence, lesson, right, surprise
from hypermarl.language.task import Example

FRAME = "{prompt} one"
EXAMPLES = [
    [Example("red cat", "sun"), Example("blue", "moon two red")],
    [Example("green dog moon", "two sun"), Example("two", "cat"), Example("sun", "dog dog")],
]


def given(roles: tuple[str | None, ...] = (None, "green")) -> Lesson:
    return lesson(tiny.backbone(), FRAME, EXAMPLES, roles, ends=[[True, True], [True, True, False]])


def test_rows_are_prompts_and_answers_and_their_ends() -> None:
    one = given()
    words = tiny.backbone().tokenizer.convert_ids_to_tokens
    rows = [words(row[mask.bool()]) for row, mask in zip(one.rows.ids, one.rows.mask, strict=True)]
    assert rows == [
        ["red", "cat", "one", "sun", "<end>"],
        ["blue", "one", "moon", "two", "red", "<end>"],
        ["<end>"],  # to fill up: the first role has a row less
        ["green", "green", "dog", "moon", "one", "two", "sun", "<end>"],
        ["green", "two", "one", "cat", "<end>"],
        ["green", "sun", "one", "dog", "dog"],  # this answer may go on
    ]
    assert one.counts.sum(-1).tolist() == [2, 4, 0, 3, 2, 2]
    assert words(one.tokens)[:6] == ["sun", "<end>", "moon", "two", "red", "<end>"]
    assert one.owners.tolist() == [0, 0, 1, 1, 1, 1, 3, 3, 3, 4, 4, 5, 5]


def test_scores_are_those_of_each_row_alone() -> None:
    one, backbone = given(), tiny.backbone()
    scores = one.scores(backbone)
    assert scores.shape == (13, tiny.V)
    lost = surprise(scores, one)
    for row in range(6):
        ids = one.rows.ids[row][one.rows.mask[row].bool()]
        count = int(one.counts[row].sum())
        logits = backbone.model(ids[None]).logits[0, -count - 1 : -1] if count else torch.empty(0, tiny.V)
        mine = one.owners == row
        close(scores[mine], logits)
        close(lost[mine], -logits.log_softmax(-1)[range(count), ids[len(ids) - count :]])
    assert not backbone.model.get_output_embeddings()._forward_pre_hooks.keys() - _of_freezing()


def test_packed_under_adapters_is_each_agent_alone_and_its_gradient() -> None:
    backbone, target, one = tiny.backbone(), tiny.target(), given()
    weights = {name: tensor.requires_grad_() for name, tensor in tiny.adapters(2).items()}
    scores = one.scores(backbone, target, weights)
    assert not torch.allclose(scores, one.scores(backbone), atol=1e-2)
    surprise(scores, one).sum().backward()
    packed = {name: tensor.grad for name, tensor in weights.items()}
    for tensor in weights.values():
        tensor.grad = None
    lost = torch.zeros(())
    for row in (0, 1, 3, 4, 5):
        agent, count = row // 3, int(one.counts[row].sum())
        ids = one.rows.ids[row][one.rows.mask[row].bool()]
        alone = {name: tensor[agent : agent + 1] for name, tensor in weights.items()}
        logits = target.apply(alone, {"input_ids": ids[None]}).logits[0, -count - 1 : -1]
        close(scores[one.owners == row], logits, atol=1e-4)
        lost = lost + torch.nn.functional.cross_entropy(logits, ids[len(ids) - count :], reduction="sum")
    lost.backward()
    for name, tensor in weights.items():
        close(packed[name], tensor.grad, atol=1e-4)
    assert not any(backbone.model.get_submodule(site.path)._forward_hooks for site in target.sites)


def test_agents_with_one_adapter_share_what_they_read(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, target = tiny.backbone(), tiny.target()
    one = lesson(backbone, FRAME, EXAMPLES, ("green dog", "green dog"))
    alike, read = tiny.adapters(1), []
    both = {name: tensor.expand(2, -1, -1) for name, tensor in alike.items()}
    forward = backbone.model.forward
    monkeypatch.setattr(
        backbone.model, "forward", lambda **given: read.append(given["input_ids"].numel()) or forward(**given)
    )
    close(one.scores(backbone, target, alike), one.scores(backbone, target, both), atol=1e-4)
    assert read[1] - read[0] >= 2, "the role, which both have in their prompts"
    with pytest.raises(ValueError, match="tokens of 2 agents for 3 adapters"):
        one.scores(backbone, target, tiny.adapters(3))


def _of_freezing() -> set[int]:
    return {
        key
        for key, hook in tiny.backbone().model.get_output_embeddings()._forward_pre_hooks.items()
        if hook.__name__ == "_contiguous"
    }


def test_right_is_what_greedy_writing_would_give() -> None:
    backbone = tiny.backbone()
    prompt = "red cat"
    ids = torch.tensor([backbone.encode(f"{prompt} one", chat=False)])
    written = backbone.model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    answer = backbone.tokenizer.decode(written, skip_special_tokens=True)
    other = "moon" if not answer.startswith("moon") else "sun"
    examples = [[Example(prompt, answer), Example(prompt, f"{other} {answer}"), Example(prompt, f"{answer} {other}")]]
    one = lesson(backbone, FRAME, examples, [None], ends=[[False, False, False]])
    scores = one.scores(backbone)
    assert right(scores, one).tolist()[:2] == [True, False]


def test_one_wrong_token_is_enough_to_be_wrong() -> None:
    one = given()
    scores = torch.nn.functional.one_hot(one.tokens, tiny.V).float()
    assert right(scores, one).all()
    scores[3] = -scores[3]  # in the middle of the second row's answer
    scores[9] = -scores[9]  # the first token of the fifth's
    assert right(scores, one).tolist() == [True, False, True, True, False, True]


def test_a_choice_is_told_by_its_first_token() -> None:
    backbone = tiny.backbone()
    examples = [Example("red", "sun", ("sun", "moon two", "cat")), Example("dog", "moon two", ("sun", "moon two"))]
    one = lesson(backbone, FRAME, [examples], [None])
    scores = torch.full((len(one.tokens), tiny.V), -5.0)
    scores[0, tiny.WORDS.index("sun")] = 1.0
    scores[2, tiny.WORDS.index("sun")] = 1.0
    assert chosen(backbone, FRAME, scores, one, examples) == [True, False]
    scores[2, tiny.WORDS.index("moon")] = 2.0
    assert chosen(backbone, FRAME, scores, one, examples) == [True, True]


def test_divergence_is_none_from_itself_and_as_defined() -> None:
    a, b = torch.randn(4, 7), torch.randn(4, 7)
    close(divergence(a, a), torch.zeros(4))
    expected = torch.nn.functional.kl_div(b.log_softmax(-1), a.log_softmax(-1), log_target=True, reduction="none").sum(
        -1
    )
    close(divergence(b, a), expected)
