"""A reader that learns to tell descriptions apart before anything else is learned."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
import small_language as tiny
import torch
from small import close, rng
from small_runs import GAME, TASK, config, taught

from hypermarl.errors import UserError
from hypermarl.language import contrast as contrasts
from hypermarl.language import run as runs
from hypermarl.language.contrast import RIDGE, TEMPERATURE, contrast, rivals, tell_apart
from hypermarl.language.encoders import States, layer_states
from hypermarl.language.load import open_author
from hypermarl.language.reader import Reader
from hypermarl.language.task import Example, Role, Task
from hypermarl.language.teaching import Teaching

__all__ = ["taught"]  # a fixture

D = 7
SAID = ("{} one {} two", "moon {} one {} two", "two two {} moon {} one", "one {} moon {}", "{} two moon {}")
"""Who does what: an agent is a pair, and its first word is not its second."""
PAIRS = tuple(product(("red", "green", "blue"), ("red", "green", "blue", "cat", "dog")))
HELD_OUT = (PAIRS[1], PAIRS[5], PAIRS[12])  # green is met first of others and second of others


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("model"))


def read(texts: Sequence[str]) -> States:
    return layer_states(tiny.backbone(), texts, (0, 1, 2))


def wordings(pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    return [[text.format(*pair) for text in SAID] for pair in pairs]


def reader(**options: object) -> Reader:
    known = read([few[0] for few in wordings(PAIRS)])
    return Reader(2, tiny.WIDTH, D, width=32, queries=4, blocks=1, rng=rng(3), known=known, **options)  # type: ignore[arg-type]


def nearest(one: Reader, pairs: Sequence[tuple[str, str]]) -> float:
    """Share of pairs whose code in some wording is nearest to their own in the first, on average over wordings."""
    with torch.no_grad():
        first, *others = (one(read(list(texts))) for texts in zip(*wordings(pairs), strict=True))
    own = torch.arange(len(pairs))
    return float(torch.stack([torch.cdist(codes, first).argmin(1) == own for codes in others]).float().mean())


def test_it_tells_who_does_what_of_pairs_it_never_read_and_does_not_before() -> None:
    trained = [pair for pair in PAIRS if pair not in HELD_OUT]
    one = reader(fixed=True)
    before = nearest(one, PAIRS)
    tell_apart(one, wordings(trained), read, steps=150, seed=1)
    assert before < 0.4 and nearest(one, PAIRS) > 0.75, (before, nearest(one, PAIRS))
    with torch.no_grad():
        codes = one(read([few[1] for few in wordings(trained)]))
    assert 4 <= int((codes.square().mean(0) > 0.1).sum()) <= D
    close(codes.mean(0), torch.zeros(D), atol=0.3)
    assert all(not parameter.requires_grad for parameter in one.parameters()), "what is fixed is not trained on"


def test_it_learns_the_same_again_and_goes_on_being_trained_unless_fixed() -> None:
    few = wordings(PAIRS[:6])
    made = [reader() for _ in range(3)]
    for one, seed in zip(made, (1, 1, 2), strict=True):
        tell_apart(one, few, read, steps=3, seed=seed)
        assert all(parameter.requires_grad for parameter in one.parameters())
    first, same, other = (torch.cat([p.detach().flatten() for p in one.parameters()]) for one in made)
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(made[0].map, made[1].map)


def test_contrast_is_that_of_whitened_features() -> None:
    features = torch.randn(10, 4, generator=rng(5))
    apart = (features - features.mean(0)).double()
    values, vectors = torch.linalg.eigh(apart.mT @ apart / 10)
    values = values + RIDGE * values.mean()
    white = apart @ vectors @ torch.diag(values.rsqrt()) @ vectors.mT  # another root: alike up to a rotation
    unit = white / white.norm(dim=1, keepdim=True)
    alike = (unit[:5] @ unit[5:].mT / TEMPERATURE).exp()
    wanted = -0.5 * ((alike.diag() / alike.sum(0)).log() + (alike.diag() / alike.sum(1)).log()).mean()
    close(contrast(features).double(), wanted, atol=1e-4)
    close(contrast(features @ torch.diag(torch.tensor([5.0, 1.0, 0.3, 2.0]))), contrast(features), atol=0.1)


def test_rivals_have_most_words_in_common_and_rare_words_count_more() -> None:
    same = ("say {1} of {0}, else {2}", "otherwise {2}, but {1} if it is {0}")
    agents = [("birds", "keep", "drop"), ("fish", "keep", "drop"), ("birds", "Keep", "open"), ("birds", "drop", "keep")]
    found = rivals([[text.format(*agent) for text in same] for agent in agents])
    assert found[0] == 3 and found[3] == 0
    numbers = ([f"so it is {number}"] for number in ("one", "two", "three"))
    rare = [["so it is zebra"], ["Zebra"], ["so it is"], *numbers]
    assert rivals(rare)[:2] == [1, 0], "most have the other three words"
    once = [["moon sun", "moon"], ["sun three", "four"], ["moon two", "moon one"], ["six"], ["five"]]
    assert rivals(once)[0] == 2, "sun stands in half of its wordings only"
    pair = rivals(wordings(PAIRS))
    for (one, other), i in zip(PAIRS, pair, strict=True):
        if (other, one) in PAIRS and one != other:
            assert PAIRS[i] == (other, one)


def test_half_of_a_large_batch_are_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrasts, "AGENTS", 6)
    told = wordings(PAIRS)
    owner = {text: i for i, few in enumerate(told) for text in few}
    near = rivals(told)
    batches: list[list[int]] = []

    def noting(texts: Sequence[str]) -> States:
        batches.append([owner[text] for text in texts])
        return read(texts)

    tell_apart(reader(), told, noting, steps=12, seed=1)
    for batch in batches[:12]:
        some = batch[: len(batch) // 2]
        assert some == batch[len(batch) // 2 :] and len(set(some)) == len(some) <= 6
        assert {near[i] for i in some[:3]} <= set(some)
    assert len({tuple(batch) for batch in batches[:12]}) == 12
    monkeypatch.setattr(contrasts, "AGENTS", len(PAIRS))
    batches.clear()
    tell_apart(reader(), told, noting, steps=1, seed=1)
    assert sorted(batches[0][: len(PAIRS)]) == list(range(len(PAIRS))), "of few agents all, each once"


def test_a_run_reads_first_and_trains_the_generator_only(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read beforehand stays, in training and when the run is opened again."""
    told = zip(PAIRS, wordings(PAIRS), strict=True)
    roles = tuple(Role("/".join(pair), "pair", tuple(few)) for pair, few in told if pair not in HELD_OUT)
    task = Task("pairs", roles, lambda role, rng, test: Example("sun", role.name.split("/")[0]))
    for module in ("teaching", "load"):
        monkeypatch.setattr(f"hypermarl.language.{module}.make_task", lambda *_: task)
    more = ("sharing=hyper_reader", "description.contrast=60", "train.updates=3", f"train.folder={tmp_path}")
    one = Teaching(config(model, TASK, *more))
    conditioner = one.actor.conditioner
    resumed = Teaching(config(model, TASK, *more), fresh=False)
    before = {name: tensor.clone() for name, tensor in conditioner.state_dict().items()}
    texts = [role.wordings[0] for role in one.learned]
    codes = conditioner(one.descriptions(texts)).detach()
    assert not torch.equal(before["queries"], resumed.actor.conditioner.queries), "it has learned, one to be filled not"
    assert codes.square().mean() > 0.01 and (codes[0] - codes[1]).abs().max() > 0.1
    for _ in range(3):
        one.iterate()
    assert all(torch.equal(tensor, before[name]) for name, tensor in conditioner.state_dict().items())
    for each in (one, resumed):
        assert {id(p) for p in each.descent.parameters} == {id(p) for p in each.actor.generator.parameters()}
    (run,) = runs.train(config(model, TASK, *more))
    author = open_author(run.folder)
    close(torch.cat([author.code(text) for text in texts]), codes)


def test_without_contrast_reader_and_generator_are_trained_together(model: Path, taught: None) -> None:
    one = Teaching(config(model, TASK, "sharing=hyper_reader", "train.updates=3"))
    before = one.actor.conditioner.take.detach().clone()
    for _ in range(2):
        one.iterate()
    assert not torch.equal(one.actor.conditioner.take, before)


def test_agents_of_an_environment_are_described_in_one_way(model: Path) -> None:
    with pytest.raises(UserError, match=r"in an environment there is one: set it to 0"):
        config(model, GAME, "sharing=hyper_reader", "description.contrast=4")
    config(model, GAME, "sharing=hyper_text", "description.contrast=4")


@pytest.mark.parametrize("few", [wordings(PAIRS[:1]), [[text] for text in ("red", "green")]])
def test_there_must_be_something_to_compare(few: list[list[str]]) -> None:
    with pytest.raises(UserError, match=r"two agents or more.*set description.contrast=0"):
        tell_apart(reader(), few, read, steps=1, seed=0)


def test_agents_that_are_described_alike_are_refused() -> None:
    alike = ["red one green two", "green one red two"]
    with pytest.raises(UserError, match=r"After 3 steps the reader tells no descriptions apart"):
        tell_apart(reader(), [alike, alike[::-1], alike], read, steps=3, seed=0)
