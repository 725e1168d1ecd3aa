"""How generated tensors are used."""

from hypermarl.targets.gru import GRUTarget
from hypermarl.targets.lora import LoRATarget
from hypermarl.targets.mlp import MLPTarget

__all__ = ["GRUTarget", "LoRATarget", "MLPTarget"]
