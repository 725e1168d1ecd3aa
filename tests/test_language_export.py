"""Adapters on disk: PEFT reads what we write and gives the same, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import small_language as tiny
import torch
from peft import PeftModel
from small import close

from hypermarl.errors import UserError
from hypermarl.language.export import CONFIG, OURS, TENSORS, read_adapter, write_adapter
from hypermarl.language.swarm import Swarm

AGENTS = ("auditor", "clerk", "lawyer", "scout", "cook")
PROMPT = "red cat one two"


def written(path: Path, number: int = 2, **known: Any) -> Path:
    return write_adapter(path / "adapter", tiny.backbone(), tiny.target(), tiny.adapters(5), number, **known)


@pytest.mark.parametrize("modules", [("q_proj", "v_proj"), ("k_proj", "o_proj", "down_proj")])
def test_peft_gives_the_same_with_every_agents_folder(tmp_path: Path, modules: tuple[str, ...]) -> None:
    one = tiny.target(modules=modules, alpha=5.0)  # a scale that is no power of two
    weights = tiny.adapters(5, one=one)
    ours = Swarm(tiny.backbone(), one, AGENTS, weights).logits(dict.fromkeys(AGENTS, PROMPT))
    ids = torch.tensor([tiny.backbone().encode(PROMPT)])
    plain = tiny.model()(ids).logits[0, -1]
    for number, agent in enumerate(AGENTS):
        folder = write_adapter(tmp_path / agent, tiny.backbone(), one, weights, number)
        theirs = PeftModel.from_pretrained(tiny.model(), folder)(ids).logits[0, -1]
        close(ours[agent][0], theirs)
        assert not torch.allclose(theirs, plain, atol=0.1)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    folder = written(tmp_path, generator="abc", text="an auditor")
    stored = read_adapter(folder, tiny.backbone(), tiny.target())
    mine = tiny.agent(tiny.adapters(5), 2)
    assert list(stored.weights) == list(mine)
    assert all(torch.equal(stored.weights[name], mine[name]) for name in mine)
    assert (stored.generator, stored.text) == ("abc", "an auditor")
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, TENSORS, OURS]
    shared = {name: tensor[:1] for name, tensor in mine.items()}
    again = write_adapter(tmp_path / "shared", tiny.backbone(), tiny.target(), shared, 4)
    assert (again / TENSORS).read_bytes() == (folder / TENSORS).read_bytes()


def test_a_server_finds_what_it_asks_for(tmp_path: Path) -> None:
    """The rules of vLLM: a rank, one alpha, named modules, no bias, nothing saved besides; keys as PEFT writes them."""
    folder = written(tmp_path)
    config = json.loads((folder / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["bias"], config["modules_to_save"]) == (3, 6, "none", None)
    assert config["target_modules"] == ["q_proj", "v_proj"] and not config["use_dora"] and not config["use_rslora"]
    tensors = safetensors.torch.load_file(folder / TENSORS)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    start = "base_model.model.model.layers.1.self_attn.v_proj"
    assert (shapes[f"{start}.lora_A.weight"], shapes[f"{start}.lora_B.weight"]) == ((3, 12), (6, 3))
    assert len(shapes) == 2 * 2 * tiny.LAYERS
    ours = json.loads((folder / OURS).read_text())
    assert ours["base"] == {"name": "random model 0", "sha256": tiny.backbone().sha256}


def test_another_base_is_refused_and_both_are_named(tmp_path: Path) -> None:
    other = tiny.backbone(1)
    assert other.sha256 != tiny.backbone().sha256
    with pytest.raises(UserError) as caught:
        read_adapter(written(tmp_path), other, tiny.target())
    for part in ("random model 0", "random model 1", tiny.backbone().sha256[:12], other.sha256[:12]):
        assert part in str(caught.value)


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return apply


def replace_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    """With a checksum that fits, as another tool would write it."""

    def apply(folder: Path) -> None:
        import hashlib

        tensors = safetensors.torch.load_file(folder / TENSORS)
        change(tensors)
        content = safetensors.torch.save(tensors)
        (folder / TENSORS).write_bytes(content)
        edit(OURS, lambda ours: ours.update(sha256=hashlib.sha256(content).hexdigest()))(folder)

    return apply


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-9])


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut tensors": (cut(TENSORS), "is damaged or cut short"),
    "cut config": (cut(CONFIG), "adapter_config.json is damaged"),
    "cut ours": (cut(OURS), "hypermarl.json is damaged"),
    "no tensors": (lambda folder: (folder / TENSORS).unlink(), "cannot be read"),
    "no hashes": (lambda folder: (folder / OURS).unlink(), "no adapter that HyperMARL wrote"),
    "newer": (edit(OURS, lambda ours: ours.update(format=2)), "newer format"),
    "no base": (edit(OURS, lambda ours: ours.pop("base")), "damaged"),
    "a list": (lambda folder: (folder / OURS).write_text("[]"), "holds no settings"),
    "other rank": (edit(CONFIG, lambda config: config.update(r=4)), "has rank 4, alpha 6 and modules"),
    "other alpha": (edit(CONFIG, lambda config: config.update(lora_alpha=7)), "alpha 7"),
    "other modules": (edit(CONFIG, lambda config: config.update(target_modules=["q_proj"])), "where rank 3"),
    "missing tensor": (replace_tensors(lambda t: t.pop(KEY)), "has no tensor base_model"),
    "odd tensor": (replace_tensors(lambda t: t.update(odd=torch.zeros(1))), "knows no place for, odd"),
    "wrong shape": (replace_tensors(lambda t: t.update({KEY: torch.zeros(3, 11)})), "wrong shape"),
    "no numbers": (replace_tensors(lambda t: t[KEY].fill_(float("nan"))), "numbers that are none"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_sentence(tmp_path: Path, what: str) -> None:
    folder = written(tmp_path)
    damage, sentence = DAMAGE[what]
    damage(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        read_adapter(folder, tiny.backbone(), tiny.target())
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no adapter folder"):
        read_adapter(tmp_path / "x", tiny.backbone(), tiny.target())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_adapter(tmp_path / "file", tiny.backbone(), tiny.target(), tiny.adapters(5))
