"""A reader learns to tell descriptions apart, however they are worded, before a generator reads its codes.

A reader that was learned together with the generator knew the words of policies and not their conditions after 420
updates (experiments/LOG.md): a condition is to be read and to be obeyed, and neither is of use without the other.
Reading alone is learned in some hundred steps, and no language model is run for it: of two wordings of many agents,
which belong together (InfoNCE, arXiv 1807.03748)? Codes are whitened over a batch, or the first thing that tells most
agents apart would be enough. And half of a batch are the other half's rivals, who are described in nearly the same
words: of agents drawn at random hardly two have the same words in another order, so who does what need not be read.

Letters: `B` agents of a batch, `N` agents, `M` wordings of each, `f` features.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hypermarl.errors import UserError
from hypermarl.language.encoders import States
from hypermarl.language.reader import Reader
from hypermarl.monitoring.progress import Progress

AGENTS = 96  # of a batch, at most
READ = 8000  # texts at most: as many wordings of every agent, drawn for each by itself
LR, WARMUP, DECAY, NORM = 2e-3, 30, 1e-2, 1.0
TEMPERATURE = 0.1
RIDGE = 1e-3  # of the features' mean square, so that whitening stays finite


def tell_apart(
    reader: Reader,
    wordings: Sequence[Sequence[str]],
    read: Callable[[Sequence[str]], States],
    *,
    steps: int,
    seed: int,
    shown: bool = False,
) -> None:
    """Teach the reader on `wordings` of N agents, `read` as states, and settle its codes; a bar if `shown`.

    UserError where agents are too few, or described in one way only: there is nothing to compare; and where they are
    described alike.
    """
    if len(wordings) < 2 or min(map(len, wordings)) < 2:
        raise UserError(
            "description.contrast teaches a reader by comparing wordings: it needs two agents or more, each described "
            "in two ways or more; set description.contrast=0."
        )
    reader.requires_grad_(True)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=LR, weight_decay=DECAY)
    rng = random.Random(f"contrast {seed}")
    few = [rng.sample(list(told), max(2, min(min(map(len, wordings)), READ // len(wordings)))) for told in wordings]
    near = rivals(wordings)
    with Progress(steps, title="learning to read", unit="steps", shown=shown) as progress:
        for step in range(steps):
            for group in optimizer.param_groups:
                fall = 0.5 + 0.5 * math.cos(math.pi * step / steps)
                group["lr"] = LR * min(1.0, (step + 1) / WARMUP) * fall
            some = rng.sample(range(len(wordings)), min(AGENTS, len(wordings)))
            half = some[: AGENTS // 2]
            some = list(dict.fromkeys(half + [near[i] for i in half] + some))[:AGENTS]
            pairs = [rng.sample(few[i], 2) for i in some]
            features = reader.features(read([one for one, _ in pairs] + [other for _, other in pairs]))
            contrast(features).backward()
            nn.utils.clip_grad_norm_(reader.parameters(), NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            progress.update(step + 1)
    reader.requires_grad_(not reader.fixed)
    with torch.no_grad():
        known = torch.stack([reader.features(read(told)) for told in few])
    if not reader.settle(known, torch.Generator().manual_seed(seed)):
        raise UserError(
            f"After {steps} steps the reader tells no descriptions apart; raise description.contrast, or set it to 0."
        )


def rivals(wordings: Sequence[Sequence[str]]) -> list[int]:
    """For every agent the other one that has most words in common with it: a word counts by the share of either's
    wordings it stands in, and the more, the rarer it is."""
    said = [[set(re.findall(r"\w+", text.lower())) for text in told] for told in wordings]
    places = {word: i for i, word in enumerate(sorted({word for told in said for text in told for word in text}))}
    shares = torch.zeros(len(said), len(places))  # of an agent's wordings, in which a word stands
    for row, told in zip(shares, said, strict=True):
        for words in told:
            row[[places[word] for word in words]] += 1.0 / len(told)
    rare = -shares.mean(0).log()  # 0 for what is said of everybody
    alike = (shares * rare) @ shares.mT
    alike.fill_diagonal_(-torch.inf)
    return [int(i) for i in alike.argmax(1)]


def contrast(features: Tensor) -> Tensor:
    """How surprising it is, in nats, who belongs to whom: `features [2 * B, f]`, first one wording of every agent, then
    the other."""
    apart = features - features.mean(0)
    spread = apart.mT @ apart / len(apart)
    spread = spread + RIDGE * spread.diagonal().mean() * torch.eye(len(spread), device=spread.device)
    white = apart @ torch.linalg.inv(torch.linalg.cholesky(spread)).mT
    one, other = nn.functional.normalize(white, dim=-1).chunk(2)
    alike = one @ other.mT / TEMPERATURE
    own = torch.arange(len(alike), device=alike.device)
    asked = nn.functional.cross_entropy
    found: Tensor = 0.5 * (asked(alike, own) + asked(alike.mT, own))
    return found
