"""Texts read sentence by sentence: what a document is to a generator, and that a stopped run reads it alike."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_language as tiny
import torch
from small import close
from small_runs import TASK, config, taught

from hypermarl.language import run as runs
from hypermarl.language.agents import Descriptions
from hypermarl.language.compose import cut, measure
from hypermarl.language.examination import columns, examine
from hypermarl.language.judge import open_learner
from hypermarl.language.load import open_author
from hypermarl.language.settings import DescriptionConfig
from hypermarl.language.tasks import make_task
from hypermarl.language.teaching import Teaching
from hypermarl.language.texts import sentences

__all__ = ["taught"]  # a fixture

SEEN = DescriptionConfig(encoder="states", layers=(1,), sentences=True)
MORE = ("sharing=hyper_text", "description.sentences=true")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """All that is encoded from now on, batch by batch."""
    batches: list[list[str]] = []
    plain = Descriptions._vectors

    def note(self: Descriptions, texts: Sequence[str]) -> Any:
        batches.append(list(texts))
        return plain(self, texts)

    monkeypatch.setattr(Descriptions, "_vectors", note)
    return batches


def test_sentences_end_with_a_stop_or_a_line() -> None:
    said = "Title of 3.5 pages\n\nOne is red. Is two? Yes!\nSun: see p.4 of it"
    assert sentences(said) == ["Title of 3.5 pages", "One is red.", "Is two?", "Yes!", "Sun: see p.4 of it"]
    assert sentences(" \n ") == []


def test_a_text_is_the_sum_of_its_sentences_in_any_order() -> None:
    by_sentence = Descriptions(SEEN, tiny.backbone(), whole=False)
    plain = Descriptions(replace(SEEN, sentences=False), tiny.backbone(), whole=False)
    parts = ["red cat .", "sun one two moon .", "dog blue ."]
    found = by_sentence([" ".join(parts), "\n".join(reversed(parts)), "red cat . red cat ."])
    alone = plain(parts)
    assert isinstance(found, torch.Tensor) and isinstance(alone, torch.Tensor)
    close(found[0], alone.sum(0))
    close(found[1], alone.sum(0))
    close(found[2], 2 * alone[0])  # said twice, it counts twice
    close(by_sentence(parts[:1]), alone[:1])
    assert float((plain([" ".join(parts)]) - alone.sum(0)).abs().max()) > 0.1, "read as a whole it is another"
    assert by_sentence.dim == plain.dim == found.shape[1] == tiny.WIDTH


def test_every_sentence_is_read_once_however_many_texts_say_it(read: list[list[str]]) -> None:
    one = Descriptions(SEEN, tiny.backbone(), whole=False)
    one.read(["red . sun .", "sun . dog ."])
    assert sorted(each for few in read for each in few) == ["dog .", "red .", "sun ."]
    one(["dog . sun . red .", "moon . dog ."])
    assert read[1:] == [["moon ."]]


def test_what_is_read_again_is_known_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Descriptions(SEEN, tiny.backbone(), whole=False)
    before = one(["red . sun ."])
    plain = Descriptions._vectors
    monkeypatch.setattr(Descriptions, "_vectors", lambda self, texts: plain(self, texts) + 1.0)
    one.read(["red . sun ."])
    close(one(["red . sun ."]), before + 2.0)


@pytest.mark.parametrize("encoder", ["sentence", "states", "both"])
def test_how_long_a_vector_will_be_is_known_before(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Five:
        dim = 5

        def __init__(self, **_: Any) -> None: ...

        def __call__(self, texts: Sequence[str]) -> torch.Tensor:
            return torch.ones(len(texts), self.dim)

    monkeypatch.setattr("hypermarl.language.agents.SentenceEncoder", Five)
    one = Descriptions(replace(SEEN, encoder=encoder, layers=(1, 2)), tiny.backbone(), whole=False)
    found = one(["red ."])
    assert isinstance(found, torch.Tensor) and found.shape == (1, one.dim)


@pytest.mark.usefixtures("taught")
@pytest.mark.parametrize("by_sentence", [True, False])
def test_all_that_documents_say_counts_evenly(model: Path, by_sentence: bool) -> None:
    one = Teaching(config(model, TASK, "sharing=hyper_text", f"description.sentences={by_sentence}"))
    codes = torch.stack([one.actor.conditioner(one.descriptions(role.wordings)) for role in one.learned]).mean(1)
    sizes = torch.linalg.svdvals(codes - codes.mean(0))
    clear = sizes[sizes > 1e-3 * sizes[0]]
    assert len(clear) > 1 and bool(clear[-1] > 0.99 * clear[0]) == by_sentence, sizes


def test_a_reader_of_every_token_reads_texts_whole() -> None:
    one = Descriptions(replace(SEEN, layers=(1, 2)), tiny.backbone(), whole=True)
    states = one(["red . sun ."])
    assert not one.by_sentence and states.mask.shape[1] == len(["red", ".", "sun", "."])


@pytest.mark.usefixtures("taught")
def test_a_run_that_goes_on_reads_what_it_read_before_in_the_same_batches(model: Path, read: list[list[str]]) -> None:
    """Last bits depend on it."""
    one = Teaching(config(model, TASK, *MORE))
    first = [list(few) for few in read]
    assert sorted(each for few in first for each in few) == sorted({w for role in one.learned for w in role.wordings})
    one.iterate()
    assert read == first, "known by then"
    read.clear()
    resumed = Teaching(config(model, TASK, *MORE), fresh=False)
    assert read == []
    resumed.dialogue()  # reads some, each by itself
    read.clear()
    resumed.iterate()
    assert read == first
    before = one.descriptions._known
    resumed.descriptions(list(before))
    assert all(torch.equal(resumed.descriptions._known[text], vector) for text, vector in before.items())


@pytest.mark.usefixtures("taught")
def test_a_stopped_run_goes_on_bit_for_bit(model: Path, tmp_path: Path) -> None:
    more = (*MORE, f"train.folder={tmp_path}", "train.checkpoint_every=2")
    (whole,) = runs.train(config(model, TASK, *more, "train.updates=4", "train.run=whole"))
    part = runs.Run.create(config(model, TASK, *more, "train.updates=4"), tmp_path / "part")
    iterate = part.learner.iterate

    def twice() -> dict[str, float]:
        part._stop = part.learner.update == 1
        return iterate()

    part.learner.iterate = twice  # type: ignore[method-assign]
    assert part.run().update == 2
    (resumed,) = runs.resume(tmp_path / "part")
    assert resumed.results == whole.results
    (_, _, one), (_, _, other) = open_learner(whole.folder), open_learner(resumed.folder)
    for name, tensor in one.actor.state_dict().items():
        assert torch.equal(tensor, other.actor.state_dict()[name]), name


@pytest.mark.usefixtures("taught")
@pytest.mark.parametrize("evenly", [True, False])
def test_a_run_is_opened_without_reading_and_writes_what_it_wrote(
    model: Path, tmp_path: Path, read: list[list[str]], evenly: bool
) -> None:
    more = ("sharing=hyper_text", f"description.sentences={evenly}", f"train.folder={tmp_path}", "train.updates=2")
    one = runs.Run.create(config(model, TASK, *more), tmp_path / "run")
    one.run()
    wanted = one.learner.actor.weights(one.learner.descriptions(["red cat"]))
    read.clear()
    author = open_author(tmp_path / "run")
    assert read == []
    found = author.weights([author.code("red cat")])
    for name, tensor in wanted.items():
        close(found[name], tensor.detach(), atol=1e-6)


def test_a_document_is_as_long_as_its_longest_sentence(model: Path) -> None:
    text = " ".join(["red cat dog ."] * 30)
    for by_sentence, sharing in ((True, "hyper_text"), (False, "hyper_text"), (True, "hyper_reader")):
        one = config(model, TASK, f"sharing={sharing}", f"description.sentences={by_sentence}")
        tokens, window = measure(one, tiny.backbone())
        whole = not by_sentence or sharing == "hyper_reader"  # a reader reads every token of a text
        assert (tokens(text), window) == (120 if whole else 4, 40)
        assert len(cut(text, tokens, window)) == (3 if whole else 1)


@pytest.mark.usefixtures("taught")
def test_an_evaluation_may_ask_some_roles_only(model: Path) -> None:
    one = Teaching(config(model, TASK, "sharing=hyper_text", "teach.asked=2"))
    names = {column.name: [role.name for role in column.roles] for column in columns(one)}
    assert names["seen"] == [one.learned[0].name, one.learned[2].name]  # of four, evenly spaced
    assert names["new"] == ["apart"]
    every = Teaching(config(model, TASK, "sharing=hyper_text"))
    assert [len(column.roles) for column in columns(every) if column.name == "seen"] == [4]
    asked = examine(one, 3, seed=5)
    assert set(asked) == set(examine(every, 3, seed=5))
    assert (asked["exact/seen"] * 6).is_integer()


def test_documents_may_be_said_in_several_texts() -> None:
    task = make_task("documents", {"documents": 12, "held_out": 3, "texts": 2, "words": 300, "clauses": 8})
    for role in task.of("trained"):
        assert len(set(role.wordings)) == 2
        one, other = (set(sentences(text)) for text in role.wordings)
        assert one != other
        rng = random.Random(role.name)
        for _ in range(20):
            example = task.draw(role, rng, False)
            assert all(example.answer in text for text in role.wordings)
    assert all(len(role.wordings) == 1 for role in task.of("new"))
