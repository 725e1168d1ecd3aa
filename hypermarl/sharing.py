"""How agents share parameters, control and language agents alike: a preset of `configs/sharing` as frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hypermarl.errors import UserError
from hypermarl.generator import GeneratorConfig


@dataclass(frozen=True)
class SharingConfig:
    """How agents share parameters: a setting of the one generator."""

    name: str
    conditioning: Literal["none", "one_hot", "table", "features", "text", "text_and_id", "reader"] = "table"
    embedding: int = 4
    features: tuple[tuple[float, ...], ...] = ()  # one row per agent, for conditioning "features"
    id_in_observation: bool = False
    share_embedding: bool = True  # actor and critic read one table
    share_log_std: bool = True  # one log standard deviation for all agents of a group
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)

    def __post_init__(self) -> None:
        if self.generator.head == "chunked" and self.conditioning == "one_hot" and not self.generator.trunk:
            raise UserError("sharing.generator.head=chunked needs features: give it a trunk, or another conditioning.")
