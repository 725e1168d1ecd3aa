"""Rows without padding, and what they begin with alike once: the model must not notice."""

from __future__ import annotations

from typing import Any

import pytest
import small_language as tiny
import torch
from small import close, rng
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MistralConfig, MistralForCausalLM

from hypermarl.language.backbone import freeze
from hypermarl.language.packing import Packed, pack
from hypermarl.language.rows import Rows, positions

ALIKE = [[[5, 6, 7, 2], [5, 6, 7], [5, 6, 7, 2, 3]], [[5, 6], [8], [5, 6]]]  # two adapters, three rows each


def read(packed: Packed, row: int, length: int) -> list[int]:
    """A row's tokens from where it stands."""
    return packed.ids.flatten()[packed.where[row, -length:]].tolist()


def test_rows_of_others_share_nothing_and_stand_in_one_piece() -> None:
    given = Rows.of([[[10 * i + j for j in range(n)]] for i, n in enumerate((70, 3, 40, 81, 9))], padding=1)
    packed = pack(given, 5)
    assert packed.ends is None and packed.ids.shape == (2, 110), "203 tokens in sequences of up to 128"
    mask = given.mask.bool()
    where = packed.where[mask]
    assert len(set(where.tolist())) == len(where)
    assert torch.equal(packed.ids.flatten()[where], given.ids[mask])
    assert torch.equal(packed.positions.flatten()[where], positions(given.mask)[mask])
    assert all((line[real].diff() == 1).all() for line, real in zip(packed.where, mask, strict=True))
    for adapter in range(5):
        mine = packed.where[adapter][mask[adapter]].tolist()
        assert packed.spread.tokens[adapter, : len(mine)].tolist() == mine
    assert torch.equal(packed.spread.tokens.flatten()[packed.spread.places[where]], where)


def test_what_rows_of_one_adapter_begin_with_stands_once() -> None:
    given = Rows.of(ALIKE, padding=1)
    packed = pack(given, 2)
    assert [read(packed, i, len(text)) for i, text in enumerate(given.texts())] == given.texts()
    assert packed.ids.shape == (1, 8), "5 6 7 2 3 of the first, 5 6 and 8 of the second"
    assert packed.ends is not None
    assert packed.ends[0].tolist() == [5, 5, 5, 5, 5, 7, 7, 8]
    assert packed.positions[0].tolist() == [0, 1, 2, 3, 4, 0, 1, 0]
    assert pack(given, 1).ids.numel() == 6, "with one adapter all share"
    apart = pack(given, 2, window=4)
    assert apart.ends is None and apart.ids.numel() == 17


def test_a_tree_does_not_outgrow_what_attention_should_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypermarl.language.packing.BRANCHED", 100)
    texts = [[*range(50), *range(start, start + 70)] for start in (60, 140, 220, 300)] + [[*range(50), *range(60, 70)]]
    packed = pack(Rows.of([texts], padding=1), 1)
    assert packed.ids.shape == (2, 190), "what would make 330 together begins anew; the row inside another adds nothing"
    assert [read(packed, i, len(text)) for i, text in enumerate(texts)] == texts


def families() -> dict[str, Any]:
    sizes = {
        "vocab_size": tiny.V, "hidden_size": tiny.WIDTH, "intermediate_size": 20, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 40, "initializer_range": 0.4,
        "eos_token_id": 0, "bos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    torch.manual_seed(0)
    gemma = Gemma3TextConfig(
        **sizes, head_dim=6, sliding_window=5, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    )
    return {
        "llama": tiny.model(),
        "mistral": MistralForCausalLM(MistralConfig(**sizes, sliding_window=5)),
        "gemma": Gemma3ForCausalLM(gemma),
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma"])
@pytest.mark.parametrize("longest", [5, 12])
def test_the_model_expects_what_it_expects_of_each_row_alone(family: str, attention: str, longest: int) -> None:
    backbone = freeze(families()[family], tiny.tokenizer(), family)
    backbone.model.set_attn_implementation(attention)
    assert backbone.attention == (None if family == "llama" else 5)
    g = rng(1)
    texts = [
        torch.randint(2, 5, (int(n),), generator=g).tolist() for n in torch.randint(1, longest + 1, (24,), generator=g)
    ]
    texts[5], texts[7] = texts[3] + texts[5][: longest - len(texts[3])], texts[6]
    given = Rows.of([texts], padding=0)
    packed = pack(given, 1, backbone.attention)
    assert (packed.ends is None) == (backbone.attention is not None and longest > 5)
    with torch.no_grad():
        scores = packed.scores(backbone, packed.where[given.mask.bool()])
        alone = torch.cat([backbone.model(torch.tensor([text])).logits[0] for text in texts])
    close(scores, alone, atol=1e-4)
