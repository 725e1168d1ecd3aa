"""A frozen language model and its tokenizer, from a folder whose contents are read and never run.

Letters: `L` tokens, `V` vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypermarl.errors import UserError
from hypermarl.language import smollm2
from hypermarl.language.packages import library
from hypermarl.machine import multiplies_bf16

SMOLLM2 = "smollm2"  # the model that needs no download
_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")  # of a config: not the model


@dataclass(frozen=True)
class Backbone:
    """One frozen causal language model; make it with `load_backbone`, or with `freeze` from one in memory."""

    model: Any  # a `PreTrainedModel`
    tokenizer: Any
    name: str  # what an adapter made for it calls it
    path: Path | None = None  # where it was read

    @cached_property
    def sha256(self) -> str:
        """What tells this model from every other: a hash of its weights and of what its config says of them."""
        if self.path is not None:
            return fingerprint(self.path)
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def window(self) -> int:
        """The longest sequence it was made for, in tokens."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 0) or 2**31)

    @property
    def attention(self) -> int | None:
        """How many tokens back all of its layers look; None if they look back to the first."""
        return getattr(self.model.config.get_text_config(), "sliding_window", None)

    @cached_property
    def stops(self) -> frozenset[int]:
        """Tokens that end a text."""
        found = {self.tokenizer.eos_token_id}
        for config in (self.model.config, self.model.generation_config):
            ends = getattr(config, "eos_token_id", None)
            found |= set(ends) if isinstance(ends, (list, tuple)) else {ends}
        return frozenset(token for token in found if token is not None)

    @property
    def padding(self) -> int:
        """A token to fill up with; it is masked wherever it stands, so any will do."""
        token = self.tokenizer.pad_token_id
        return int(token) if token is not None else min(self.stops, default=0)

    def encode(self, text: str, *, chat: bool | None = None, system: str | None = None) -> list[int]:
        """The tokens of a prompt; as the user's turn of a chat where the model knows chats (or as `chat` says)."""
        if not text.strip():
            raise UserError("A prompt is empty; every agent needs at least a word to answer.")
        if chat is None:
            chat = bool(getattr(self.tokenizer, "chat_template", None))
        if chat:
            turns = [{"role": "system", "content": system}] if system is not None else []
            turns.append({"role": "user", "content": text})
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        elif system is not None:
            text = f"{system}\n\n{text}"
        # a template has its own; who reads too much is told by what reads it
        tokens = list(self.tokenizer(text, add_special_tokens=not chat, verbose=False)["input_ids"])
        if not tokens:
            raise UserError(f"The model {self.name} has no tokens for the prompt {text[:40]!r}.")
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


def freeze(model: Any, tokenizer: Any, name: str, path: Path | None = None) -> Backbone:
    """A backbone of a model in memory: no gradients, no dropout, and a cheap last layer."""
    model.requires_grad_(False)
    model.eval()
    # Of a slice of the sequence, torch would copy the vocabulary's matrix once per row.
    model.get_output_embeddings().register_forward_pre_hook(_contiguous)
    return Backbone(model, tokenizer, name, path)


def cheap_to_learn(backbone: Backbone) -> None:
    """Attention whose gradient is cheap: on CPUs the fused one takes five times as long in bfloat16 (measured)."""
    if backbone.model.dtype == torch.bfloat16 and backbone.device.type == "cpu":
        backbone.model.set_attn_implementation("eager")


def load_backbone(
    model: str | Path = SMOLLM2, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> Backbone:
    """The model in a Hugging Face folder (safetensors), or `smollm2`, which comes with a Python package.

    Its numbers are bfloat16 where the device multiplies them, else single precision, unless `dtype` says otherwise.
    """
    if dtype is None:
        dtype = torch.bfloat16 if multiplies_bf16(torch.device(device)) else torch.float32
    offline = model == SMOLLM2
    folder = smollm2.smollm2_folder() if offline else Path(model)
    transformers = library("transformers")
    check_folder(folder)
    local = {"trust_remote_code": False, "local_files_only": True}
    with refusing(folder), quiet(transformers):
        config = transformers.AutoConfig.from_pretrained(folder, **local)
        if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UserError(f"{folder} holds a model of type {config.model_type!r}, which continues no text.")
        loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **local
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
    if lost := sorted(str(key) for key in (*report["missing_keys"], *report.get("mismatched_keys", ()))):
        # they would have been drawn at random
        raise UserError(f"{folder} is no complete model: {len(lost)} of its tensors are missing, such as {lost[0]}.")
    return freeze(loaded.to(device), tokenizer, smollm2.NAME if offline else str(folder), folder)


def fingerprint(folder: Path) -> str:
    """SHA-256 of a model folder: its weights, and its config without what changes with the library that wrote it."""
    digest = hashlib.sha256()
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be read as a model: {error}.") from error
    kept = {key: value for key, value in config.items() if key not in _VOLATILE}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    return digest.hexdigest()


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No progress bars."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_folder(folder: Path) -> None:
    """Refuse what is plainly no model, before any library looks at it."""
    if not folder.is_dir():
        raise UserError(
            f"There is no model folder {folder}; name a folder, or {SMOLLM2!r} for the one that is built in."
        )
    if (folder / "adapter_config.json").exists():
        raise UserError(f"{folder} holds an adapter, not a model.")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no model: it has no config.json.")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no weights as safetensors; other formats can run code and are not read.")


@contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """Turn what the library says of a bad folder into a sentence."""
    import safetensors

    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(f"The model in {folder} cannot be loaded: {reason[:300]}.") from error


def _contiguous(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(argument.contiguous() for argument in arguments)
