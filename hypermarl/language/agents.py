"""Agents of words: the frozen model, what is known of every agent, and the generator between them.

Letters: `N` agents, `f` features of a description, `d` conditioning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hypermarl.actor import GeneratedActor
from hypermarl.conditioning import Described, make_conditioner
from hypermarl.generator import Generator
from hypermarl.language.backbone import Backbone, load_backbone
from hypermarl.language.contrast import tell_apart
from hypermarl.language.encoders import SentenceEncoder, States, layer_states
from hypermarl.language.reader import Reader
from hypermarl.language.settings import BackboneConfig, DescriptionConfig, LanguageConfig
from hypermarl.language.texts import sentences
from hypermarl.monitoring.progress import Progress
from hypermarl.targets import LoRATarget

DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp32": torch.float32}
READ = 16  # texts from which a reader learns what states are like
AGAIN = "\n"  # between a text and itself, read twice (in the manner of echo embeddings, arXiv 2402.15449)
TOGETHER = 64  # sentences encoded at a time
WORDED = 2048  # texts at most from which is learned how one agent's wordings differ
Encoded = Tensor | States
"""Descriptions as a conditioner reads them: `[N, f]`, or the states of all their tokens."""


def open_backbone(config: BackboneConfig, device: str | torch.device = "cpu") -> tuple[Backbone, LoRATarget]:
    """The frozen model of a run, and its adapters' target."""
    backbone = load_backbone(config.model, dtype=DTYPES[config.dtype], device=device)
    return backbone, LoRATarget.from_model(backbone.model, config.modules, config.rank, config.alpha)


class Descriptions:
    """Texts as what a conditioner reads; each text is encoded once and remembered.

    Read sentence by sentence, a text is the sum of what its sentences are: each counts in full, however long the text.
    """

    def __init__(self, config: DescriptionConfig, backbone: Backbone, *, whole: bool) -> None:
        """With `whole`, the states of every token; else one vector per text."""
        self.config = config
        self.backbone = backbone
        self.whole = whole
        self.by_sentence = config.sentences and not whole
        self._encoder: SentenceEncoder | None = None
        self._known: dict[str, Tensor] = {}  # text -> [f], or [K, L, D]
        self._sentences: dict[str, Tensor] = {}  # [f]

    def __call__(self, texts: Sequence[str]) -> Encoded:
        for text in texts:
            if text not in self._known:  # each by itself: in a batch its last bits would depend on the others' lengths
                self._known[text] = self._encode(text)
        found = [self._known[text] for text in texts]
        if not self.whole:
            return torch.stack(found)
        longest = max(each.shape[1] for each in found)
        values = torch.stack([torch.nn.functional.pad(x, (0, 0, longest - x.shape[1], 0)) for x in found])
        counts = torch.tensor([each.shape[1] for each in found], device=values.device)
        mask = (torch.arange(longest, device=values.device) >= longest - counts[:, None]).long()
        return States(values.float(), mask)

    @property
    def dim(self) -> int:
        """Numbers of a text that is one vector."""
        states = int(self.backbone.model.config.get_text_config().hidden_size)
        of = {"sentence": 0, "states": states, "both": len(self.config.layers) * states}[self.config.encoder]
        return of if self.config.encoder == "states" else of + self.encoder.dim

    @property
    def encoder(self) -> SentenceEncoder:
        if self._encoder is None:
            self._encoder = SentenceEncoder(device=self.backbone.device)
        return self._encoder

    def read(self, texts: Iterable[str], shown: bool = False) -> None:
        """Encode all sentences of these texts, many at a time; a bar if `shown`.

        Last bits depend on what is read together, so whoever goes on where a run stopped reads the same texts first,
        and what was known of them is forgotten.
        """
        wanted = sorted(dict.fromkeys(each for text in texts for each in sentences(text)), key=len)
        self._known.clear()
        with Progress(len(wanted), title="reading sentences", unit="sentences", shown=shown) as progress:
            for done in self._note(wanted):
                progress.update(done)

    def _encode(self, text: str) -> Tensor:
        if self.whole:
            layers = (0, *self.config.layers)  # what a reader takes, and what shows it where
            before = f"{text}{AGAIN}" if self.config.twice else ""
            states = layer_states(self.backbone, [before + text], layers).values[0].to(self.backbone.model.dtype)
            if not before:
                return states
            first = len(self.backbone.encode(before, chat=False))
            return states[:, first - 1 :].clone()  # with the token between, as a reader does not look at the first one
        if not self.by_sentence:
            return self._vectors([text])[0]
        said = sentences(text) or [text]
        fresh = sorted({each for each in said if each not in self._sentences}, key=lambda each: (len(each), each))
        for _ in self._note(fresh):
            pass
        return torch.stack([self._sentences[each] for each in said]).sum(0)

    def _note(self, fresh: Sequence[str]) -> Iterator[int]:
        """Encode sentences, many at a time; how many are done."""
        for start in range(0, len(fresh), TOGETHER):
            few = fresh[start : start + TOGETHER]
            self._sentences.update(zip(few, self._vectors(few), strict=True))
            yield start + len(few)

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        """`[B, f]`."""
        if self.config.encoder == "states":
            return layer_states(self.backbone, texts, self.config.layers[-1:]).mean()[:, 0]
        vectors = self.encoder(texts)
        if self.config.encoder == "sentence":
            return vectors
        return torch.cat([vectors, layer_states(self.backbone, texts, self.config.layers).mean().flatten(1)], -1)


def build_actor(
    config: LanguageConfig,
    backbone: Backbone,
    target: LoRATarget,
    texts: Sequence[str],
    descriptions: Descriptions,
    wordings: Sequence[Sequence[str]] = (),
    *,
    fresh: bool = True,
) -> GeneratedActor:
    """Generated adapters for agents that are described by `texts`, started from the run's seed; the start is better
    where each agent's other `wordings` are known. Not `fresh`, it is given what it has learned afterwards."""
    sharing, seen = config.sharing, config.description
    rng = torch.Generator().manual_seed(config.seed * 1_000_003 % 2**63)
    who: Any
    if sharing.conditioning == "reader":
        width = int(backbone.model.config.get_text_config().hidden_size)
        some = _read(descriptions, texts[:: max(1, len(texts) // READ)][:READ]) if texts else None
        who = Reader(
            len(seen.layers),
            width,
            sharing.embedding,
            width=seen.width,
            queries=seen.queries,
            blocks=seen.blocks,
            rng=rng,
            known=some,
            fixed=seen.contrast > 0,
        )
        if seen.contrast and wordings:
            read, shown = partial(_read, descriptions), config.train.progress
            tell_apart(who, wordings, read, steps=seen.contrast, seed=config.seed, shown=shown)
    elif config.reads:
        rows = descriptions(texts) if fresh else torch.zeros(len(texts), descriptions.dim)
        assert isinstance(rows, Tensor)
        ids = sharing.conditioning == "text_and_id"
        known = _encoded(wordings, descriptions, config.train.progress) if fresh else None
        who = Described(rows.cpu(), sharing.embedding, rng, ids=ids, wordings=known, evenly=seen.sentences)
    else:
        who = make_conditioner(sharing.conditioning, len(texts), sharing.embedding, (), rng)
    generator = Generator(target.spec, who.dim, config=sharing.generator, rng=rng)
    if sharing.generator.start == "distinct" and fresh:
        generator.start_distinct(who(), rng)
    return GeneratedActor(who, generator, target).to(backbone.device)


def _read(descriptions: Descriptions, texts: Sequence[str]) -> States:
    some = descriptions(texts)
    assert isinstance(some, States)
    return States(some.values.cpu(), some.mask.cpu())


def _encoded(wordings: Sequence[Sequence[str]], descriptions: Descriptions, shown: bool) -> Tensor | None:
    """`[N, M, f]`, as many of each agent as all have and are quickly encoded; None where no two are known. A bar if
    `shown`: it may take a minute. What is read sentence by sentence was read before."""
    count = min(map(len, wordings), default=0)
    if not descriptions.by_sentence:
        count = min(count, WORDED // max(1, len(wordings)))
    if count < 2:
        return None
    rows = []
    with Progress(len(wordings), title="reading descriptions", unit="agents", shown=shown) as progress:
        for done, few in enumerate(wordings, 1):
            rows.append(descriptions(few[:count]))
            progress.update(done)
    return torch.stack([row.cpu() for row in rows if isinstance(row, Tensor)])


def identity(config: LanguageConfig, numbers: Sequence[int], texts: Sequence[str], known: Descriptions) -> Any:
    """What the conditioner is told of agents: their texts as encoded, or their numbers `[N]` where ids count."""
    if config.reads and config.sharing.conditioning != "text_and_id":
        return known(texts)
    return torch.tensor(list(numbers), device=known.backbone.device)


def framed(backbone: Backbone, frame: str, prompt: str, role: str | None = None) -> list[int]:
    """The tokens of a prompt inside its frame; with `role`, after a description of who is asked."""
    if frame == "chat":
        return backbone.encode(prompt, chat=True, system=role)
    text = frame.replace("{prompt}", prompt)
    return backbone.encode(text if role is None else f"{role}\n{text}", chat=False)
