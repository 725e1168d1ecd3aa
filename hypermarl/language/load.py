"""A trained swarm back from its run: `swarm = hypermarl.load_swarm("runs/...")`.

Letters: `N` agents, `d` conditioning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hypermarl.actor import GeneratedActor
from hypermarl.checkpoints import find_checkpoint
from hypermarl.errors import UserError
from hypermarl.language.agents import Descriptions, build_actor, open_backbone
from hypermarl.language.backbone import Backbone
from hypermarl.language.room import adapter_bytes, check_room
from hypermarl.language.run import check_base, config_of, restore
from hypermarl.language.settings import LanguageConfig
from hypermarl.language.swarm import Swarm, check_known
from hypermarl.language.tasks import make_task
from hypermarl.machine import torch_device
from hypermarl.runs import Checkpoint, RunFolder
from hypermarl.spec import Weights
from hypermarl.targets.lora import LoRATarget


@dataclass(frozen=True)
class Author:
    """A run's trained generator, which writes adapters; `agents` are those of the run, `numbers` of the trained."""

    config: LanguageConfig
    folder: RunFolder
    checkpoint: Checkpoint
    backbone: Backbone
    target: LoRATarget
    actor: GeneratedActor
    descriptions: Descriptions
    agents: Mapping[str, str]
    numbers: Mapping[str, int]

    @property
    def alike(self) -> bool:
        """Whether all agents have one adapter, and so anybody may join."""
        return self.config.sharing.conditioning == "none"

    @property
    def prompted(self) -> bool:
        """Whether who an agent is stands in its prompts."""
        return self.config.sharing.id_in_observation

    @property
    def sha256(self) -> str:
        """What tells this generator from every other."""
        return hashlib.sha256((self.checkpoint.path / "policy.safetensors").read_bytes()).hexdigest()

    @torch.no_grad()
    def code(self, text: str | None, agent: str | None = None) -> Tensor:
        """What the generator reads of a trained agent, or of whoever is described by `text`: `[1, d]` (or an id)."""
        who, numbers = self.actor.conditioner, self.numbers
        by_number = not self.config.reads or self.config.sharing.conditioning == "text_and_id"
        found: Tensor
        if self.alike:
            found = who()
        elif by_number and agent is not None and agent in numbers:
            found = who(torch.tensor([numbers[agent]], device=self.backbone.device))
        elif not self.config.reads or text is None:
            raise UserError(self._unread())
        else:
            found = who(self.descriptions([text]))
        return found

    @torch.no_grad()
    def mixed(self, codes: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """Between agents, as the generator sees them."""
        if self.alike:
            return codes[0]
        if not all(code.is_floating_point() for code in codes):
            raise UserError(self._stored())
        return sum((share * code for share, code in zip(shares, codes, strict=True)), torch.zeros_like(codes[0]))

    @torch.no_grad()
    def weights(self, codes: Sequence[Tensor]) -> Weights:
        """Adapters of agents with these codes, `{name: [N, *shape]}`; refused where they would not fit beside the
        model."""
        check_room(self.backbone.device, len(codes), adapter_bytes(self.backbone, self.target))
        given = codes[0] if self.alike else torch.cat(list(codes))
        generated: Weights = self.actor.generator(given)
        return {name: tensor.detach().clone() for name, tensor in generated.items()}

    @torch.no_grad()
    def shared(self) -> Weights | None:
        """The adapter that all others start from, `[1, *shape]`: the generator's base; None where it has none."""
        bases = dict(self.actor.generator.base.items())
        slots = {slot: bases.get(slot.replace(".", "_")) for slot in self.target.spec.slots()}
        if any(base is None for base in slots.values()):
            return None
        return {
            weight.name: tensor.detach().unsqueeze(0).clone()
            for slot, members in self.target.spec.slots().items()
            for weight, tensor in zip(members, bases[slot.replace(".", "_")], strict=True)
        }

    def check_reads(self) -> None:
        """Refuse a generator that cannot write adapters from words."""
        if self.alike:
            name = self.config.sharing.name
            raise UserError(f"sharing={name} has one adapter for all; hyper_text writes them from words.")
        if not self.config.reads:
            raise UserError(self._unread())

    def _stored(self) -> str:
        return (
            f"sharing={self.config.sharing.name} keeps an adapter for each agent it was trained with and knows no "
            "newcomers; hyper_text writes them from words, hyper_mlp mixes them."
        )

    def _unread(self) -> str:
        if self.config.sharing.conditioning == "one_hot":
            return self._stored()
        return (
            f"sharing={self.config.sharing.name} knows its agents by number and reads no words; say whom a newcomer is "
            "like, or train with sharing=hyper_text."
        )


def open_author(path: str | Path, seed: int | None = None, device: str = "cpu") -> Author:
    """The generator of a run at its newest checkpoint, or at the checkpoint `path`; `seed` where the run has several.

    The frozen model must be the one it was trained on, to the last bit.
    """
    torch_device(device)
    folder, checkpoint = find_checkpoint(Path(path), seed)
    config = replace(config_of(folder), device=device, seeds=1)
    tensors = folder.load(checkpoint, ("policy",))["policy"]
    backbone, target = open_backbone(config.backbone, device)
    check_base(folder, backbone)
    descriptions = Descriptions(config.description, backbone, whole=config.sharing.conditioning == "reader")
    agents = _agents(folder)
    trained = agents
    if config.task is not None:
        task = make_task(config.task.name, config.task.options)
        trained = {role.name: role.wordings[0] for role in task.of("trained")}
    texts = [] if descriptions.whole else list(trained.values())  # what a reader learned of them stands in the run
    actor = build_actor(config, backbone, target, texts, descriptions, fresh=False)
    restore(actor, tensors, checkpoint.path)
    if not config.reads and config.sharing.conditioning != "none":
        agents = trained
    numbers = {agent: number for number, agent in enumerate(trained)}
    return Author(config, folder, checkpoint, backbone, target, actor, descriptions, agents, numbers)


def load_swarm(
    path: str | Path, seed: int | None = None, device: str = "cpu", *, agents: Sequence[str] | None = None
) -> Swarm:
    """All agents of a run, or the `agents` named, their adapters generated once; `seed` says which team of a run that
    trained several.

    Prompts are framed as they were in training, with the role of the agent where that was the way of sharing.
    """
    author = open_author(path, seed, device)
    for agent in agents or ():
        check_known(agent, list(author.agents))
    roles = {agent: author.agents[agent] for agent in (author.agents if agents is None else agents)}
    if not roles:
        raise UserError("A swarm needs agents: name one of the run's, or load all of them.")
    codes = {agent: author.code(text, agent) for agent, text in roles.items()}
    return Swarm(
        author.backbone,
        author.target,
        list(roles),
        author.weights(list(codes.values())),
        frame=author.config.backbone.frame,
        roles=roles if author.prompted else None,
        author=author,
        codes=codes,
    )


def _agents(folder: RunFolder) -> dict[str, str]:
    agents = folder.groups.get("agents")
    if not isinstance(agents, dict) or not agents or not all(isinstance(text, str) for text in agents.values()):
        raise UserError(f"{folder.path / 'config.json'} is damaged: it names no agents.")
    return {str(agent): text for agent, text in agents.items()}
