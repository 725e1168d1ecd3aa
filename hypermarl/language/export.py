"""One agent's adapter as a PEFT folder, and back.

    adapter_config.json          what PEFT and vLLM read: base model, rank, alpha, modules
    adapter_model.safetensors    base_model.model.<path>.lora_A.weight [r, in], lora_B.weight [out, r]
    hypermarl.json               what they do not know: hashes of the base, of the generator and of the tensors

An adapter is only read onto the base it was made for, known by its hash.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from hypermarl.errors import UserError
from hypermarl.language.backbone import Backbone
from hypermarl.runs import write_atomically
from hypermarl.spec import Weights
from hypermarl.targets.lora import LoRATarget

FORMAT = 1
SERVED = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's --max-lora-rank."""
CONFIG, TENSORS, OURS = "adapter_config.json", "adapter_model.safetensors", "hypermarl.json"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class StoredAdapter:
    """What a folder holds: the tensors of one agent, `[1, *shape]`, and what is known of them."""

    weights: Weights
    generator: str | None  # its hash
    text: str | None  # what it was generated from


def write_adapter(
    folder: str | Path,
    backbone: Backbone,
    target: LoRATarget,
    weights: Weights,
    agent: int = 0,
    *,
    generator: str | None = None,
    text: str | None = None,
    frame: str | None = None,
) -> Path:
    """Agent number `agent` of `weights [N, *shape]` as a PEFT folder, in single precision.

    It keeps to what vLLM's `/v1/load_lora_adapter` asks of a folder: `adapter_config.json` and
    `adapter_model.safetensors` in it, `r` at most the server's --max-lora-rank (one of SERVED), `target_modules` as a
    list of names, bias "none", no `modules_to_save` and no DoRA, and tensors called
    `base_model.model.<path>.lora_A.weight` and `lora_B.weight`. `generator`, `text` and `frame`, in which prompts were
    trained, are kept beside, for people and for `read_adapter`.
    """
    folder = Path(folder)
    target.spec.check(weights)
    tensors: dict[str, Tensor] = {}
    for site in target.sites:
        for name, key in ((site.left, "lora_A"), (site.right, "lora_B")):
            of_all = weights[name]
            one = of_all[agent if len(of_all) > 1 else 0].detach().float().cpu()
            tensors[f"{_PREFIX}{site.path}.{key}.weight"] = one.mT.contiguous()
    content = safetensors.torch.save(tensors, metadata={"format": "pt"})
    ours = {
        "format": FORMAT,
        "hypermarl": metadata.version("hypermarl"),
        "base": {"name": backbone.name, "sha256": backbone.sha256},
        "generator": generator,
        "text": text,
        "frame": frame,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TENSORS, content)
        write_atomically(folder / CONFIG, json.dumps(_config(backbone, target), indent=2).encode())
        write_atomically(folder / OURS, json.dumps(ours, indent=2).encode())  # last: it vouches for the others
    except OSError as error:
        raise UserError(f"The adapter {folder} cannot be written: {error.strerror or error}.") from error
    return folder


def read_adapter(folder: str | Path, backbone: Backbone, target: LoRATarget) -> StoredAdapter:
    """The adapter in `folder`, for a target of the same base, modules, rank and alpha."""
    folder = Path(folder)
    ours = _read_json(folder, OURS)
    base = ours.get("base")
    if ours.get("format") != FORMAT or not isinstance(base, dict) or not isinstance(base.get("sha256"), str):
        raise UserError(f"{folder / OURS} is damaged, or of a newer format than {FORMAT}.")
    if base["sha256"] != backbone.sha256:
        raise UserError(
            f"The adapter {folder} was made for {base.get('name')} (hash {base['sha256'][:12]}) and cannot be used "
            f"with {backbone.name} (hash {backbone.sha256[:12]})."
        )
    _same_shape(folder, _read_json(folder, CONFIG), target)
    try:
        content = (folder / TENSORS).read_bytes()
    except OSError as error:
        raise UserError(f"{folder / TENSORS} cannot be read: {error.strerror or error}.") from error
    if hashlib.sha256(content).hexdigest() != ours.get("sha256"):
        raise UserError(f"{folder / TENSORS} is damaged or cut short: it is not what was written there.")
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{folder / TENSORS} cannot be read: {error}.") from error
    return StoredAdapter(_ordered(folder, tensors, target), ours.get("generator"), ours.get("text"))


def served(rank: int) -> int | None:
    """The smallest --max-lora-rank with which vLLM serves an adapter of this rank; None if there is none."""
    return next((most for most in SERVED if rank <= most), None)


def _config(backbone: Backbone, target: LoRATarget) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": backbone.name,
        "r": target.rank,
        "lora_alpha": int(target.alpha) if math.floor(target.alpha) == target.alpha else target.alpha,
        "target_modules": list(target.modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def _same_shape(folder: Path, config: Mapping[str, Any], target: LoRATarget) -> None:
    modules = config.get("target_modules")
    theirs = (config.get("r"), config.get("lora_alpha"), sorted(modules) if isinstance(modules, list) else modules)
    wanted = (target.rank, target.alpha, sorted(target.modules))
    if theirs != wanted:
        raise UserError(
            f"The adapter {folder} has rank {theirs[0]}, alpha {theirs[1]} and modules {theirs[2]}, "
            f"where rank {wanted[0]}, alpha {wanted[1]} and modules {wanted[2]} are asked for."
        )


def _ordered(folder: Path, tensors: Mapping[str, Tensor], target: LoRATarget) -> Weights:
    """By our names, in the order of the target, `[1, *shape]`."""
    shapes = {weight.name: weight.shape for weight in target.spec.weights}
    keys = {
        name: f"{_PREFIX}{site.path}.{key}.weight"
        for site in target.sites
        for name, key in ((site.left, "lora_A"), (site.right, "lora_B"))
    }
    lost = sorted(set(keys.values()) - set(tensors))
    odd = sorted(set(tensors) - set(keys.values()))
    if lost or odd:
        what = f"has no tensor {lost[0]}" if lost else f"has a tensor that the model knows no place for, {odd[0]}"
        raise UserError(f"{folder / TENSORS} {what}.")
    weights = {name: tensors[keys[name]].mT.unsqueeze(0).contiguous() for name in shapes}
    for name, tensor in weights.items():
        if tensor.shape[1:] != shapes[name] or not torch.isfinite(tensor).all():
            raise UserError(f"{folder / TENSORS} is damaged: {keys[name]} has a wrong shape or numbers that are none.")
    return weights


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(f"There is no adapter folder {folder}.")
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is no adapter that HyperMARL wrote: it has no {name}.") from None
    except OSError as error:
        raise UserError(f"{folder / name} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{folder / name} is damaged: it is not valid JSON.") from error
    if not isinstance(content, dict):
        raise UserError(f"{folder / name} is damaged: it holds no settings.")
    return content
