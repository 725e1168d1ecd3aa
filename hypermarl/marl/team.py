"""A trained team that plays: `team = load("runs/..."); actions = team.act(observations)`.

Letters: `E` environments, `N` agents, `O` observation, `A` action, `H` hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypermarl import config as settings
from hypermarl.checkpoints import find_checkpoint
from hypermarl.envs.bridge import open_environment
from hypermarl.envs.interface import Continuous, Discrete, EnvironmentFault, Group
from hypermarl.envs.spaces import Misfit, Reader, Writer, action_form, observation_form
from hypermarl.errors import UserError
from hypermarl.evaluation.pettingzoo import split_masks
from hypermarl.marl.distributions import Parameters
from hypermarl.marl.policy import Policy, build_policy
from hypermarl.marl.saved import groups_from, restore
from hypermarl.marl.settings import ExperimentConfig
from hypermarl.marl.squad import Likeness, Squad
from hypermarl.runs import Checkpoint, RunFolder
from hypermarl.spec import Weights


class Team:
    """Every agent's policy, generated once and frozen; plays greedily unless `greedy` is False."""

    def __init__(
        self,
        config: ExperimentConfig,
        policies: Mapping[str, Policy],
        *,
        greedy: bool = True,
        folder: RunFolder | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """`policies` by group, of one seed each (no leading axis)."""
        self.config = config
        self.greedy = greedy
        self.folder = folder
        self.checkpoint = checkpoint
        self.squads = {name: Squad(policy) for name, policy in policies.items()}
        self._squad_of = {agent: squad for squad in self.squads.values() for agent in squad.agents}
        self._forms: dict[str, tuple[Writer, Reader]] | None = None  # group -> how observations and actions translate
        self._memory: dict[str, Tensor] = {}
        self._rng = torch.Generator().manual_seed(0)

    @property
    def agents(self) -> tuple[str, ...]:
        """Everybody in the team, newcomers included."""
        return tuple(agent for squad in self.squads.values() for agent in squad.agents)

    @property
    def groups(self) -> dict[str, Group]:
        """The groups as they were trained."""
        return {name: squad.group for name, squad in self.squads.items()}

    def squad_of(self, agent: str) -> Squad:
        """The squad an agent plays in."""
        self._check_known([agent])
        return self._squad_of[agent]

    def reset(self, agents: Sequence[str] | None = None, seed: int | None = None) -> None:
        """A new episode: recurrent agents forget. The seed decides what is drawn when not greedy."""
        self._check_known(agents or ())
        self._memory.clear()
        if seed is not None:
            self._rng.manual_seed(seed)

    def act(
        self, observations: Mapping[str, Any], masks: Mapping[str, NDArray[Any]] | None = None
    ) -> dict[str, int | NDArray[np.float32]]:
        """An action for each agent that observes: an int, or an array inside the environment's box.

        An observation is what the environment gives: an array of O numbers of any shape, the number of a choice, an
        image, or a PettingZoo dict of `observation` and `action_mask`. Agents that are dead or absent are left out.
        With masks, illegal actions are never chosen.
        """
        actions: dict[str, int | NDArray[np.float32]] = {}
        for squad, present, parameters in self._parameters(observations, masks):
            chosen = squad.choose(parameters, None if self.greedy else self._rng).cpu().numpy()
            _, read = self._form(squad)
            actions |= {agent: read(chosen[i]) for i, agent in enumerate(present)}
        return {agent: actions[agent] for agent in observations}

    def attach(self, env: Any) -> None:
        """Translate between this PettingZoo environment's spaces and the policies, as training did.

        Images become 0 to 1, choices one-hot, actions what its spaces say. Needed only for such spaces, and then done
        by itself at the first `act` with the environment the team was trained on.
        """
        forms: dict[str, tuple[Writer, Reader]] = {}
        for agent in env.possible_agents:
            squad = self._squad_of.get(agent)
            if squad is None or squad.group.name in forms:
                continue
            try:
                seen, done = observation_form(env.observation_space(agent)), action_form(env.action_space(agent))
            except Misfit as misfit:
                raise UserError(f"A space of agent {agent!r} {misfit}.") from None
            if (seen.size, done.action) != (squad.group.observation, squad.group.action):
                raise UserError(f"Agent {agent!r} sees or does other things here than what it was trained for.")
            forms[squad.group.name] = (seen.writer(), done.reader())
        self._forms = forms

    def parameters(
        self, observations: Mapping[str, Any], masks: Mapping[str, NDArray[Any]] | None = None
    ) -> dict[str, dict[str, NDArray[np.float32]]]:
        """Each agent's action distribution, `{"logits"}` or `{"loc", "log_std"}`, `[A]` each.

        Recurrent agents take it for a step of the episode, exactly as `act`.
        """
        found: dict[str, dict[str, NDArray[np.float32]]] = {}
        for _, present, parameters in self._parameters(observations, masks):
            arrays = {key: value.cpu().numpy() for key, value in parameters.items()}
            found |= {agent: {key: value[i] for key, value in arrays.items()} for i, agent in enumerate(present)}
        return {agent: found[agent] for agent in observations}

    def weights(self, agent: str) -> Weights:
        """The agent's own network, `{name: [*shape]}`, matrices `[in, out]`."""
        squad = self.squad_of(agent)
        return {name: tensor[0].clone() for name, tensor in squad.weights_of(squad.rows([agent])).items()}

    def add(
        self,
        agent: str,
        *,
        like: Likeness | None = None,
        embedding: Tensor | None = None,
        features: Sequence[float] | None = None,
        group: str | None = None,
    ) -> None:
        """Let a newcomer join: its network is generated, nothing is trained.

        `like` names a trained agent or mixes several (`{"agent_0": 0.5, "agent_1": 0.5}`); what is mixed is what the
        generator reads (embeddings or features; with one-hot ids that mixes the networks themselves). `embedding` and
        `features` are given as such. `group` is needed where it cannot be told from `like`.
        """
        if agent in self._squad_of:
            raise UserError(f"There already is an agent {agent!r}.")
        squad = self.squads[self._group_for(agent, like, group)]
        squad.add(agent, like, embedding, features)
        self._squad_of[agent] = squad

    def acting(self, groups: Mapping[str, Group], seed: int = 0) -> Callable[[Any, Tensor], dict[str, Tensor]]:
        """`act(view, fresh)` for a vectorised environment with these groups, as `evaluation.vectorised.evaluate` takes.

        It keeps memories `[E, N, H]` of its own, and when the team is not greedy a random stream begun with `seed`.
        """
        plan = []
        for name, group in groups.items():
            self._check_known(group.agents)
            squads = {id(self._squad_of[agent]): self._squad_of[agent] for agent in group.agents}
            if len(squads) > 1:
                raise UserError(f"Group {name!r} mixes agents that were trained in different groups.")
            squad = next(iter(squads.values()))
            plan.append((name, squad, squad.rows(group.agents), len(group.agents)))
        rng = None if self.greedy else torch.Generator().manual_seed(seed)
        memory: dict[str, Tensor] = {}

        def act(view: Any, fresh: Tensor) -> dict[str, Tensor]:
            actions = {}
            for name, squad, rows, count in plan:
                observation = view.observation[name].to(squad.identity.device)
                mask = view.mask.get(name)
                if squad.policy.recurrent and name not in memory:
                    memory[name] = squad.blank(len(observation), count)
                parameters, after = squad.parameters(
                    observation,
                    None if mask is None else mask.to(squad.identity.device),
                    rows=rows,
                    memory=memory.get(name),
                    fresh=fresh.to(squad.identity.device)[:, None].expand(-1, count),
                )
                if after is not None:
                    memory[name] = after
                actions[name] = squad.choose(parameters, rng).to(fresh.device)
            return actions

        return act

    def _parameters(
        self, observations: Mapping[str, Any], masks: Mapping[str, NDArray[Any]] | None
    ) -> list[tuple[Squad, list[str], Parameters]]:
        self._check_known(observations)
        plain, found = split_masks(observations)
        legal = {**found, **(masks or {})}
        results = []
        for squad in self.squads.values():
            present = [agent for agent in squad.agents if agent in observations]
            if not present:
                continue
            device = squad.identity.device
            write, _ = self._form(squad)
            seen = np.zeros((len(present), squad.group.observation), dtype=np.float32)
            for agent, row in zip(present, seen, strict=True):
                _read_into(agent, plain[agent], row, write)
            memory, fresh = None, None
            if squad.policy.recurrent:
                blank = squad.blank()
                memory = torch.stack([self._memory.get(agent, blank) for agent in present])
                fresh = torch.zeros(len(present), dtype=torch.bool, device=device)
            parameters, after = squad.parameters(
                torch.from_numpy(seen).to(device),
                _legal(present, legal, squad.group.action, device),
                rows=squad.rows(present),
                memory=memory,
                fresh=fresh,
            )
            if after is not None:
                self._memory |= dict(zip(present, after.unbind(0), strict=True))
            results.append((squad, present, parameters))
        return results

    def _form(self, squad: Squad) -> tuple[Writer, Reader]:
        """How a squad's observations and actions translate; of a PettingZoo environment, its own spaces tell."""
        if self._forms is None:
            self._forms = {}
            env = self.config.env
            if env.kind == "pettingzoo":  # all others see plain numbers and act from 0
                with suppress(EnvironmentFault, ImportError, UserError):
                    made = open_environment(env.name, env.options)
                    self.attach(made)
                    made.close()
                    self._forms = {name: (_lenient(write), read) for name, (write, read) in self._forms.items()}
        return self._forms.get(squad.group.name) or (_write_plainly, _reader(squad.group))

    def _check_known(self, agents: Sequence[str] | Mapping[str, Any]) -> None:
        unknown = [agent for agent in agents if agent not in self._squad_of]
        if unknown:
            names = ", ".join(map(str, unknown))
            raise UserError(f"This team has no agent {names}, only {', '.join(self.agents)}; new ones join with add().")

    def _group_for(self, agent: str, like: Likeness | None, group: str | None) -> str:
        if group is not None:
            if group not in self.squads:
                raise UserError(f"This team has no group {group!r}; it has {', '.join(self.squads)}.")
            return group
        if like is not None:
            named = next(iter([like] if isinstance(like, str) else like), None)
            for name, squad in self.squads.items():
                if named in squad.group.agents:
                    return name
        if len(self.squads) == 1:
            return next(iter(self.squads))
        raise UserError(f"Say which group {agent!r} joins: {', '.join(self.squads)}.")


def load(path: str | Path, seed: int | None = None, device: str | torch.device = "cpu", *, greedy: bool = True) -> Team:
    """The team of a run folder's newest checkpoint, or of one checkpoint folder.

    A run that trained several seeds holds several teams: `seed` says which.
    """
    folder, checkpoint = find_checkpoint(Path(path), seed)
    if "backbone" in folder.config:
        raise UserError(f"{folder.path} is a run of language agents; in Python hypermarl.load_swarm opens it.")
    config = settings.build(ExperimentConfig, folder.config)
    groups = groups_from(folder)
    policies = {name: build_policy(config, groups, name, config.seed) for name in groups}
    restore(policies, folder.load(checkpoint, parts=("policy",))["policy"], checkpoint.path)
    for policy in policies.values():
        policy.to(device).requires_grad_(False)
    return Team(config, policies, greedy=greedy, folder=folder, checkpoint=checkpoint)


def _read_into(agent: str, observation: Any, row: NDArray[np.float32], write: Writer) -> None:
    """One agent's observation as its policy reads it, `[O]`."""
    try:
        write(observation, row)
    except Misfit as misfit:
        raise UserError(f"The observation of agent {agent!r} {misfit}.") from None
    if not np.isfinite(row).all():
        raise UserError(f"The observation of agent {agent!r} is not finite.")


def _write_plainly(observation: Any, row: NDArray[np.float32]) -> None:
    array = np.asarray(observation)
    if array.dtype == np.uint8:
        raise Misfit("is of bytes; show the team its environment once with attach(env)")
    if array.dtype.kind not in "fiub":
        raise Misfit(f"is no array of numbers but {type(observation).__name__}")
    if array.size != row.size:
        raise Misfit(f"has {array.size} numbers, but its policy reads {row.size}")
    row[...] = array.reshape(-1)


def _lenient(write: Writer) -> Writer:
    """Also takes what has been flattened already, as our own environments do."""

    def either(observation: Any, row: NDArray[np.float32]) -> None:
        flat = isinstance(observation, np.ndarray) and observation.dtype == row.dtype and observation.shape == row.shape
        (_write_plainly if flat else write)(observation, row)

    return either


def _reader(group: Group) -> Reader:
    return int if isinstance(group.action, Discrete) else np.asarray


def _legal(
    agents: Sequence[str], masks: Mapping[str, NDArray[Any]], action: Discrete | Continuous, device: torch.device
) -> Tensor | None:
    """Legal actions `[n, A]`; all are legal for an agent that has no mask."""
    if not isinstance(action, Discrete) or not any(agent in masks for agent in agents):
        return None
    table = np.ones((len(agents), action.n), dtype=bool)
    for i, agent in enumerate(agents):
        if agent in masks:
            mask = np.asarray(masks[agent]).astype(bool).reshape(-1)
            if mask.size != action.n:
                raise UserError(f"The action mask of agent {agent!r} has {mask.size} places for {action.n} actions.")
            table[i] = mask
    return torch.from_numpy(table).to(device)
