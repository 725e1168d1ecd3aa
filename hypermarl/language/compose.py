"""Texts longer than an encoder reads: cut into chunks, an adapter for each, all of them one adapter of more rank.

    delta = shared + sum over chunks (delta of the chunk - shared)

What the chunks' adapters have in common, the generator's base, is counted once, and every chunk keeps its full
strength, as in Doc-to-LoRA (there too the shared adapter has ranks of its own): under a mean, what one chunk says would
fade with the length of the document. One chunk alone gives its adapter unchanged.

Letters: `C` chunks, `r` rank.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

from hypermarl.errors import UserError
from hypermarl.language.backbone import Backbone
from hypermarl.language.encoders import SentenceEncoder
from hypermarl.language.settings import LanguageConfig
from hypermarl.language.texts import sentences
from hypermarl.spec import Weights
from hypermarl.targets.lora import LoRATarget


def composed(target: LoRATarget, chunks: Weights, shared: Weights | None = None) -> tuple[LoRATarget, Weights]:
    """One adapter `[1, *shape]` out of those of C chunks, `[C, *shape]`, and its target, of rank `C * r`.

    With a `shared` adapter `[1, *shape]` that does anything, the rank is `(C + 1) * r`. The scale stays what it was.
    """
    count = max(len(tensor) for tensor in chunks.values())
    if count == 1:
        return target, chunks
    beyond = shared is not None and any(bool(shared[site.right].any()) for site in target.sites)
    made: Weights = {}
    for weight in target.spec.weights:
        parts = list(chunks[weight.name].expand(count, -1, -1))
        right = weight.name in {site.right for site in target.sites}
        if beyond and shared is not None:  # it is in all chunks, and is taken away but once
            own = shared[weight.name][0]
            parts.append(-(count - 1) * own if right else own)
        made[weight.name] = torch.cat(parts, 0 if right else 1).unsqueeze(0)
    rank = (count + beyond) * target.rank
    return LoRATarget(target.network, target.sites, rank=rank, alpha=target.scale * rank), made


def measure(config: LanguageConfig, backbone: Backbone) -> tuple[Callable[[str], int], int]:
    """How many tokens a text has for the encoder of its descriptions, and how many that reads; read sentence by
    sentence, those of its longest."""
    counts: list[Callable[[str], int]] = []
    windows: list[int] = []
    if config.description.encoder != "states":
        encoder = SentenceEncoder(device=backbone.device)
        counts.append(lambda text: len(encoder.tokenizer(text, verbose=False)["input_ids"]))
        windows.append(encoder.window)
    if config.description.encoder != "sentence":
        counts.append(lambda text: len(backbone.encode(text, chat=False)))
        again = config.description.twice and config.sharing.conditioning == "reader"
        windows.append(backbone.window // 2 - 1 if again else backbone.window)  # less one for what is between

    def longest(text: str) -> int:
        parts = sentences(text) if config.description.sentences and config.sharing.conditioning != "reader" else [text]
        return max(count(part) for count in counts for part in parts)

    return longest, min(windows)


def cut(text: str, tokens: Callable[[str], int], most: int) -> list[str]:
    """Chunks of at most `most` tokens, as long as can be; one ends with a sentence that ends past its half."""
    words = re.findall(r"\S+\s*", text)
    if not words:
        raise UserError("A document is empty; there is nothing to read.")
    found = []
    start = 0
    while start < len(words):
        end = _furthest(words, start, tokens, most)
        if end == start:
            raise UserError(f"{words[start][:40].strip()!r} alone is longer than the {most} tokens of a chunk.")
        if end < len(words):
            half = start + max((end - start) // 2, 1) - 1
            stops = [i for i in range(half, end) if words[i].rstrip().endswith((".", "!", "?"))]
            end = stops[-1] + 1 if stops else end
        found.append("".join(words[start:end]).strip())
        start = end
    return found


def read_text(path: Path) -> str:
    """A file's text; a UserError says what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text in UTF-8.") from None
    if not text.strip():
        raise UserError(f"{path} is empty; there is nothing to read.")
    return text


def _furthest(words: list[str], start: int, tokens: Callable[[str], int], most: int) -> int:
    """One past the last word that still fits, found by halving: a text grows with its words, nearly always."""

    def fits(end: int) -> bool:
        return tokens("".join(words[start:end]).strip()) <= most

    low, high = start, start + 1
    while high <= len(words) and fits(high):
        low, high = high, min(2 * high - start, len(words)) if high < len(words) else len(words) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
