"""Rows of tokens without padding, and what rows of one adapter begin with alike only once.

Of a causal model, what stands at a token depends on the tokens before it alone. So rows of one adapter that begin alike
are a tree, whose tokens stand in depth-first order in a sequence; each attends to itself and to those it continues.

Letters: `N` adapters, `L` tokens of a padded row, `B` sequences of `C` tokens, `P` tokens asked about, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hypermarl.language.backbone import Backbone
from hypermarl.language.rows import Rows
from hypermarl.targets.lora import Spread

PACKED = 128  # tokens of a sequence, unless a row is longer: more would cost attention for little (measured)
BRANCHED = 512  # tokens at most that a tree of long rows has beyond its longest, for the same reason


@dataclass(frozen=True)
class Packed:
    """`where [rows, L]` is the place of each token of the padded rows in the flattened `ids [B, C]`, 0 for padding.

    `ends [B, C]` is the place in its sequence behind the last token that continues a token; None where every row has
    tokens of its own, which `positions [B, C]` that begin anew tell apart.
    """

    ids: Tensor
    positions: Tensor
    ends: Tensor | None
    where: Tensor
    spread: Spread

    def scores(self, backbone: Backbone, spots: Tensor) -> Tensor:
        """`[P, V]`: what the model, with whatever is attached to it, expects after the tokens in these places `[P]`.

        The last layer, as wide as the vocabulary, is spared all other places.
        """

        def pick(module: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
            return arguments[0].flatten(0, 1)[spots]

        hook = backbone.model.get_output_embeddings().register_forward_pre_hook(pick)
        try:
            scores: Tensor = backbone.model(**self.arguments(backbone.model.dtype)).logits
        finally:
            hook.remove()
        return scores

    def arguments(self, dtype: torch.dtype) -> dict[str, Any]:
        """What a language model is called with."""
        mask = None
        if self.ends is not None:
            place = torch.arange(self.ids.shape[1], device=self.ids.device)
            asking = place.unsqueeze(-1)
            seen = (place <= asking) & (asking < self.ends.unsqueeze(-2))  # [B, who asks, who is seen]
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
            mask = mask.unsqueeze(1)
        return {
            "input_ids": self.ids,
            "position_ids": self.positions,
            "attention_mask": mask,
            "use_cache": False,
        }


@dataclass
class _Tree:
    """Rows of one adapter that are to stand in one sequence."""

    owner: int
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)  # places of the tokens of the row added last
    last: Sequence[int] = ()

    def add(self, row: Sequence[int], common: int) -> list[int]:
        """Rows come in their order as words do in a dictionary; the places of this one's tokens."""
        size, fresh = len(self.tokens), len(row) - common
        for place in self.path[common:]:
            self.ends[place] = size
        self.path = self.path[:common] + list(range(size, size + fresh))
        self.tokens += row[common:]
        self.positions += range(common, len(row))
        self.ends += [0] * fresh
        self.last = row
        return self.path

    def close(self) -> None:
        for place in self.path:
            self.ends[place] = len(self.tokens)


def alike(one: Sequence[int], other: Sequence[int]) -> int:
    """With how many tokens both begin."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def pack(rows: Rows, adapters: int, window: int | None = None) -> Packed:
    """The rows of so many adapters, those of one beside each other.

    Beyond `window` tokens, where a model may not attend to all of a row, nothing is shared.
    """
    texts = rows.texts()
    longest = max(map(len, texts))
    share = window is None or longest <= window
    most = max(PACKED, longest + min(BRANCHED, 2 * longest))
    each = len(texts) // adapters
    trees: list[_Tree] = []
    paths: list[tuple[int, list[int]]] = [(0, [])] * len(texts)  # which tree, and where in it
    for owner in range(adapters):
        mine = range(owner * each, (owner + 1) * each)
        trees.append(_Tree(owner))
        for row in sorted(mine, key=lambda row: texts[row]):
            text, tree = texts[row], trees[-1]
            common = alike(tree.last, text) if share else 0
            if tree.tokens and (not share or len(tree.tokens) + len(text) - common > most):
                tree.close()
                trees.append(_Tree(owner))
                tree, common = trees[-1], 0
            paths[row] = len(trees) - 1, tree.add(text, common)
        trees[-1].close()
    return _laid_out(rows, trees, paths, adapters)


def _laid_out(rows: Rows, trees: Sequence[_Tree], paths: Sequence[tuple[int, list[int]]], adapters: int) -> Packed:
    """Trees one behind another in sequences of about the same length, the largest first."""
    sizes = [len(tree.tokens) for tree in trees]
    count = -(-sum(sizes) // max(PACKED, *sizes))
    full, places = [0] * count, [(0, 0)] * len(trees)
    for number in sorted(range(len(trees)), key=lambda number: -sizes[number]):
        sequence = full.index(min(full))
        places[number] = sequence, full[sequence]
        full[sequence] += sizes[number]
    width = max(full)
    ids, positions = [rows.padding] * (count * width), [0] * (count * width)
    ends, owners = list(range(1, width + 1)) * count, [-1] * (count * width)
    for tree, (sequence, start) in zip(trees, places, strict=True):
        here = slice(sequence * width + start, sequence * width + start + len(tree.tokens))
        ids[here], positions[here] = tree.tokens, tree.positions
        ends[here] = [start + end for end in tree.ends]
        owners[here] = [tree.owner] * len(tree.tokens)
    length = rows.ids.shape[1]
    where = []
    for number, path in paths:
        first = places[number][0] * width + places[number][1]
        where.append([0] * (length - len(path)) + [first + place for place in path])
    made = [torch.tensor(one, device=rows.ids.device) for one in (ids, positions, ends)]
    shared = sum(sizes) < sum(len(path) for _, path in paths)
    return Packed(
        made[0].view(count, width),
        made[1].view(count, width),
        made[2].view(count, width) if shared else None,
        torch.tensor(where, device=rows.ids.device),
        Spread.of(torch.tensor(owners, device=rows.ids.device), adapters),
    )
