"""A random language model of two layers and a dozen words, for tests of the language side."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from small import rng
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hypermarl.language.backbone import Backbone, freeze
from hypermarl.spec import Weights
from hypermarl.targets import LoRATarget

WORDS = ["<end>", "<odd>", "red", "green", "blue", "cat", "dog", "sun", "moon", "one", "two"]
LAYERS, WIDTH, RANK, V = 2, 12, 3, len(WORDS)  # no two alike, nor any equal to the agents of a test


def tokenizer() -> Any:
    """Words apart by spaces."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<odd>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<odd>")


def model(seed: int = 0) -> Any:
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=WIDTH,
        intermediate_size=20,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=40,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=None,
        initializer_range=0.4,  # so that answers depend on prompts
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


@cache
def backbone(seed: int = 0) -> Backbone:
    return freeze(model(seed), tokenizer(), f"random model {seed}")


def target(**options: Any) -> LoRATarget:
    return LoRATarget.from_model(backbone().model, **{"rank": RANK, "alpha": 6.0, **options})


def adapters(agents: int, size: float = 0.6, seed: int = 3, one: LoRATarget | None = None) -> Weights:
    """Random adapters that change answers."""
    g = rng(seed)
    spec = (one or target()).spec
    return {weight.name: size * torch.randn(agents, *weight.shape, generator=g) for weight in spec.weights}


def agent(weights: Mapping[str, Any], number: int) -> Weights:
    """One agent's adapters, `[1, *shape]`."""
    return {name: tensor[number : number + 1] for name, tensor in weights.items()}


def folder(path: Path, seed: int = 0) -> Path:
    """The model on disk, as Hugging Face keeps it."""
    model(seed).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path
