"""What is known of an agent from words: descriptions as vectors, and a reader of single tokens."""

from __future__ import annotations

import pytest
import small_language as tiny
import torch
from small import close, factors, rng, stirred

from hypermarl.conditioning import Described, make_conditioner
from hypermarl.errors import UserError
from hypermarl.language.agents import Descriptions, framed
from hypermarl.language.encoders import States, layer_states
from hypermarl.language.reader import Reader
from hypermarl.language.rows import Rows
from hypermarl.language.settings import DescriptionConfig

N, F, D = 5, 7, 4
ROWS = torch.randn(N, F, generator=rng(4)) + 3.0


def test_descriptions_are_centred_and_of_one_size() -> None:
    one = Described(ROWS, D, rng())
    code = one()
    assert code.shape == (N, D)
    plain = (ROWS - ROWS.mean(0)) / (ROWS - ROWS.mean(0)).square().mean().sqrt()
    close(code, plain @ one.map)
    close(one(ROWS[2:4]), code[2:4])
    close(one(torch.tensor([3, 0])), code[[3, 0]])
    alone = Described(ROWS[:1], D, rng())
    assert alone().abs().max() > 0, "one agent alone is not centred away"


def test_codes_begin_along_what_tells_descriptions_apart() -> None:
    one = Described(ROWS, 2, rng())
    apart = ((ROWS - ROWS.mean(0)) / one.scale).double()
    values, vectors = torch.linalg.eigh(apart.mT @ apart)
    main = vectors[:, -2:]
    close(main @ (main.mT @ one.map.double()), one.map.double())  # nothing is outside the two principal directions
    sizes = one.map.double().norm(dim=0).square()
    close(sizes[1] / sizes[0], (values[-1] / values[-2]).sqrt())  # strong ones lead by the root of their ratio only
    close(one().square().mean(), torch.tensor(1.0))


def test_a_newcomer_is_told_apart_by_what_known_agents_have_in_common() -> None:
    one = Described(ROWS, D + 3, rng())  # five agents differ in four directions
    assert one.map.shape == (F, D + 3)
    close(one()[:, 4:].detach(), torch.zeros(N, 3))  # what is left over says nothing of those known
    across = torch.linalg.svd(ROWS - ROWS.mean(0)).Vh[-1]
    assert float((one(ROWS[:1] + across) - one(ROWS[:1])).detach().norm()) > 0.1
    assert Described(ROWS, F + 5, rng())().isfinite().all()
    assert Described(ROWS[:1].repeat(3, 1), D, rng())().isfinite().all(), "agents that are described alike"


def worded(seed: int = 6, ways: int = 9) -> torch.Tensor:
    """`[N, M, F]`: agents differ in two features, how they are worded in another one by far more."""
    g = rng(seed)
    wordings = 0.05 * torch.randn(N, ways, F, generator=g)
    wordings[..., 1:3] += torch.randn(N, 1, 2, generator=g)
    wordings[..., 5] += 9.0 * torch.randn(N, ways, generator=g)
    return wordings


def test_with_wordings_codes_begin_along_what_tells_agents_apart_in_spite_of_them() -> None:
    wordings = worded()
    one = Described(wordings[:, 0], 2, rng(), wordings=wordings)
    close(one.mean, wordings.flatten(0, 1).mean(0))
    close(one.scale, wordings.flatten(0, 1).std(0, correction=0))
    even = ((wordings - one.mean) / one.scale).double()
    centres = even.mean(1)
    within = (even - centres[:, None]).flatten(0, 1)
    noisy = within.mT @ within / len(within) + torch.eye(F, dtype=torch.double)
    values, vectors = torch.linalg.eig(torch.linalg.solve(noisy, centres.mT @ centres))  # Fisher's problem, as stated
    best = values.real.argsort()[-2:]
    basis = torch.linalg.qr(vectors.real[:, best]).Q
    close(basis @ (basis.mT @ one.map.double()), one.map.double(), atol=1e-5)
    close((centres @ one.map.double()).square().mean(), torch.tensor(1.0).double(), atol=1e-5)
    spread = one.map.double().mT @ noisy @ one.map.double()  # wordings differ alike along both
    close(spread, spread[0, 0] * torch.eye(2).double(), atol=1e-5)


def test_agents_are_nearest_to_themselves_however_they_are_worded() -> None:
    known, new = worded().split((6, 3), 1)
    shares = []
    for wordings in (known, None):
        one = Described(known[:, 0], 2, rng(), wordings=wordings)
        codes = one(new.flatten(0, 1)).detach()
        nearest = torch.cdist(codes, one(known.flatten(0, 1)).detach().unflatten(0, (N, 6)).mean(1)).argmin(1)
        shares.append(float((nearest == torch.arange(N).repeat_interleave(3)).float().mean()))
    assert shares[0] > 0.9 and shares[1] < 0.7, shares


def test_no_feature_counts_more_for_its_unit() -> None:
    wordings, large = worded(), torch.ones(F)
    large[1] = 1e4
    one, other = (Described(w[:, 0], D, rng(), wordings=w) for w in (wordings, wordings * large))
    close(other(wordings[:, 2] * large).detach().abs(), one(wordings[:, 2]).detach().abs(), atol=1e-3)


def test_an_id_adds_to_known_agents_only() -> None:
    one = Described(ROWS, D, rng(), ids=True)
    assert torch.equal(one(), Described(ROWS, D, rng())()), "it starts at zero"
    with torch.no_grad():
        assert one.own is not None
        one.own[1] = 2.0
    close(one()[1] - one(ROWS[1:2])[0], torch.full((D,), 2.0))
    close(one()[0], one(ROWS[0:1])[0])


def test_control_agents_have_no_words() -> None:
    with pytest.raises(UserError, match=r"sharing.conditioning=reader reads words"):
        make_conditioner("reader", 3, 4, (), rng())


def reader() -> Reader:
    return stirred(Reader(2, tiny.WIDTH, D, width=8, queries=3, blocks=2, rng=rng()), 0.1)


def states(batch: int = N, tokens: int = 6, seed: int = 1) -> States:
    mask = torch.ones(batch, tokens, dtype=torch.long)
    mask[0, :2] = 0
    return States(torch.randn(batch, 3, tokens, tiny.WIDTH, generator=rng(seed)), mask)


def test_a_reader_is_not_deafened_by_numbers_that_are_alike_in_all_texts() -> None:
    known = states()
    loud = known.values.clone()
    loud[..., 0] += 300.0  # as in real models, where one number says nothing and outweighs the rest
    plain, same = (
        Reader(2, tiny.WIDTH, D, width=8, queries=3, blocks=1, rng=rng(), known=told)
        for told in (known, States(loud, known.mask))
    )
    close(same(States(loud, known.mask)), plain(known), atol=1e-3)
    tokens = torch.cat([known.values[i, :, known.mask[i].bool()][:, 1:] for i in range(N)], 1)  # without first ones
    even = (tokens - plain.mean.squeeze(1).unsqueeze(1)) / plain.scale.squeeze(1).unsqueeze(1)
    close(even.mean(1), torch.zeros(3, tiny.WIDTH))
    close(even.std(1, correction=0), torch.ones(3, tiny.WIDTH))


def test_a_reader_sees_no_padding_and_no_other_text() -> None:
    one, seen = reader(), states()
    code = one(seen)
    assert code.shape == (N, D)
    changed = seen.values.clone()
    changed[0, :, :2] = 9.0  # padding
    changed[3] = 5.0  # another text
    after = one(States(changed, seen.mask))
    close(after[[0, 1, 2, 4]], code[[0, 1, 2, 4]])
    assert (after[3] - code[3]).abs().max() > 0.01
    longer = States(torch.nn.functional.pad(seen.values, (0, 0, 3, 0)), torch.nn.functional.pad(seen.mask, (3, 0)))
    close(one(longer), code)


def test_a_reader_tells_who_does_what_where_a_mean_does_not() -> None:
    """Two texts of the same words, in each other's places: pooled they are one, read they are two."""
    values = states(1).values
    first, second = values.clone(), values.clone()
    second[:, 0, [2, 3]] = first[:, 0, [3, 2]]  # the words; what is known of the places stays
    mask = torch.ones(1, 6, dtype=torch.long)
    close(States(first, mask).mean(), States(second, mask).mean())
    codes = [reader()(States(each, mask)) for each in (first, second)]
    assert (codes[0] - codes[1]).abs().max() > 1e-3


def test_a_text_is_the_sum_of_the_words_it_is_pointed_to() -> None:
    """Combinations never read together get the codes they should: where a reader looks does not depend on the words."""
    one = reader()
    values = states(1).values.expand(4, -1, -1, -1).clone()
    words = torch.nn.functional.rms_norm(torch.randn(4, tiny.WIDTH, generator=rng(8)), (tiny.WIDTH,))
    for text, (first, second) in enumerate(((0, 2), (0, 3), (1, 2), (1, 3))):
        values[text, 0, 2], values[text, 0, 4] = words[first], words[second]
    both = one(States(values, torch.ones(4, 6, dtype=torch.long)))
    assert (both[0] - both[1]).abs().max() > 1e-3 and (both[0] - both[2]).abs().max() > 1e-3
    close(both[0] - both[1], both[2] - both[3], atol=1e-5)


def test_a_reader_does_not_look_at_the_first_token_unless_there_is_no_other() -> None:
    one, seen = reader(), states()
    code = one(seen)
    values = seen.values.clone()
    values[0, :, 2], values[1:, :, 0] = 7.0, 7.0
    close(one(States(values, seen.mask)), code)
    alone = States(seen.values[:, :, -1:], torch.ones(N, 1, dtype=torch.long))
    assert one(alone).isfinite().all() and (one(alone)[0] - one(alone)[1]).abs().max() > 1e-3


def test_codes_begin_centred_and_of_one_size() -> None:
    known = states()
    one = Reader(2, tiny.WIDTH, D, width=8, queries=3, blocks=1, rng=rng(), known=known)
    close(one(known).mean(0), torch.zeros(D), atol=1e-5)
    close(one(known).square().mean(), torch.tensor(1.0), atol=1e-5)


def test_settled_codes_are_along_what_is_told_clearly_and_of_one_size() -> None:
    facts, seen = factors()
    one = Reader(2, tiny.WIDTH, 9, width=8, queries=3, blocks=1, rng=rng())
    assert one.settle(seen, rng()) == 6  # two facts of four differ in three directions each
    codes = (seen.mean(1) - one.centre) @ one.map
    close(codes[:, :6].mean(0), torch.zeros(6), atol=1e-5)
    close(codes[:, :6].mT @ codes[:, :6] / 16, torch.eye(6), atol=1e-4)
    assert codes[:, 6:].count_nonzero() == 0
    told = facts @ torch.linalg.pinv(facts) @ codes
    assert float((told - codes).square().sum() / codes.square().sum()) < 0.01, "a code is a sum over its facts"
    some, turns = codes[:, :6].double(), [torch.randn(6, 6, generator=rng(i)).double() for i in range(20)]
    other = max(float((some @ torch.linalg.qr(turn).Q).pow(4).mean()) for turn in turns)
    assert float(some.pow(4).mean()) > other, "along axes that few agents stand out on"


def test_every_parameter_of_a_reader_learns() -> None:
    one = reader()
    one(states()).square().sum().backward()
    for name, parameter in one.named_parameters():
        assert parameter.grad is not None and parameter.grad.count_nonzero(), name


def test_a_text_is_encoded_the_same_whoever_stands_beside_it() -> None:
    """To the bit: what is read again when a run goes on is what was read before."""
    texts = ["red cat sun", "one", "two green dog moon blue"]
    for whole in (True, False):
        config = DescriptionConfig(encoder="states", layers=(1, 2))
        together = Descriptions(config, tiny.backbone(), whole=whole)(texts)
        for i, text in enumerate(texts):
            alone = Descriptions(config, tiny.backbone(), whole=whole)([text])
            if isinstance(together, States):
                assert isinstance(alone, States)
                count = alone.mask.shape[1]
                assert torch.equal(together.values[i, :, -count:], alone.values[0])
                assert torch.equal(alone.values, layer_states(tiny.backbone(), [text], (0, 1, 2)).values)
                assert together.mask[i].tolist() == [0] * (5 - count) + [1] * count
            else:
                assert torch.equal(together[i], alone[0])


def test_read_twice_the_first_word_knows_of_the_last() -> None:
    config = DescriptionConfig(encoder="states", layers=(1, 2), twice=True)
    backbone = tiny.backbone()
    again, other = (Descriptions(config, backbone, whole=True)([text]) for text in ("red cat sun", "red cat moon"))
    assert isinstance(again, States) and isinstance(other, States)
    both = layer_states(backbone, ["red cat sun red cat sun"], (0, 1, 2)).values
    assert torch.equal(again.values, both[:, :, 2:]), "the second time, behind one token that is not looked at"
    assert torch.equal(again.values[:, 0, 1:3], other.values[:, 0, 1:3]), "before any layer a word is but itself"
    assert (again.values[:, 2, 1] - other.values[:, 2, 1]).abs().max() > 0.01
    once, changed = (layer_states(backbone, [text], (2,)).values for text in ("red cat sun", "red cat moon"))
    assert torch.equal(once[:, :, :2], changed[:, :, :2]), "read once it does not"


def test_both_is_a_sentence_and_then_the_states_of_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = torch.tensor([[0.6, -0.8, 0.0]])
    monkeypatch.setattr("hypermarl.language.agents.SentenceEncoder", lambda device: lambda texts: sentence)
    config = DescriptionConfig(encoder="both", layers=(1, 2))
    found = Descriptions(config, tiny.backbone(), whole=False)(["red cat", "one two sun"])
    assert isinstance(found, torch.Tensor)
    close(found[:, :3], sentence.expand(2, 3))
    for i, text in enumerate(("red cat", "one two sun")):
        states = layer_states(tiny.backbone(), [text], (1, 2)).values[0]
        close(found[i, 3:], torch.cat([states[0].mean(0), states[1].mean(0)]))


def test_frames_hold_the_prompt_and_who_is_asked() -> None:
    one = tiny.backbone()
    words = one.tokenizer.convert_ids_to_tokens
    assert words(framed(one, "one {prompt} two", "red cat")) == ["one", "red", "cat", "two"]
    assert words(framed(one, "one {prompt}", "red", "blue dog")) == ["blue", "dog", "one", "red"]


def test_states_are_those_of_the_whole_model_though_later_layers_do_not_run() -> None:
    one, texts = tiny.backbone(), ["red cat sun", "two"]
    rows = Rows.of([[one.encode(text, chat=False) for text in texts]], one.padding)
    whole = one.model(**rows.arguments(), output_hidden_states=True).hidden_states
    ran: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(one.model.model.layers)
    ]
    try:
        assert torch.equal(layer_states(one, texts, [0, 1]).values, torch.stack(whole[:2], 1))
        assert ran == [0]
        assert torch.equal(layer_states(one, texts, [2, 1]).values, torch.stack([whole[2], whole[1]], 1))
    finally:
        for hook in hooks:
            hook.remove()
