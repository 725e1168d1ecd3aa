"""Whether the memory there is holds so many agents; asked before it runs out, because running out ends the process.

Letters: `N` agents, `R` rows of each, `L` tokens of a row, `V` vocabulary.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from hypermarl.errors import UserError
from hypermarl.language.backbone import Backbone
from hypermarl.targets.lora import LoRATarget


def available(device: torch.device) -> int | None:
    """Bytes that may still be taken on `device`; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return _free_pages()


def row_bytes(backbone: Backbone, tokens: int) -> int:
    """What one row of L tokens takes while it is read and continued: keys and values, states, and scores `[V]`."""
    config = backbone.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kept = 2 * config.num_hidden_layers * heads * width
    states = 4 * (config.hidden_size + config.intermediate_size)
    return int(backbone.model.dtype.itemsize * tokens * (kept + states) + 8 * config.vocab_size)


def adapter_bytes(backbone: Backbone, target: LoRATarget) -> int:
    """One agent's adapter in single precision, and once more in the model's where that is another."""
    size = backbone.model.dtype.itemsize
    return target.spec.numel() * (4 + (size if size != 4 else 0))


def check_room(device: torch.device, agents: int, each: int) -> None:
    """Refuse more agents than fit beside the model if each takes so many bytes, and say how many do."""
    free = available(device)
    if free is not None and agents * each > free:
        raise UserError(
            f"{agents} agents need about {_gigabytes(agents * each)} GB beside the model, where {_gigabytes(free)} GB "
            f"are free: {free // each} such agents fit."
        )


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.3g}"


def _free_pages() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
