"""One VMAS simulation without episodes: plain tensors in and out, its own random numbers, nothing shared.

VMAS's `Environment.step` swaps three global random states at every call, keeps its own on the class (so that seeding
one environment changes all others), decodes actions agent by agent and copies what it returns. Here its parts are
called directly: the numbers are the same bit for bit, which a test holds for every scenario.
"""

from __future__ import annotations

import inspect
import math
import random
import re
import warnings
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from .interface import Continuous, Discrete, EnvironmentFault, Group
from .options import nearest
from .vmas_together import together

_OTHER_NUMBERS = r"\b(np|numpy)\.random\b|^\s*(import|from) random\b"
_UNUSED = "passed but not used by the scenario"


class Stream:
    """A stream of random numbers of its own, drawn by code that knows only the global generators.

    `with stream:` puts it in their place and puts them back afterwards. NumPy's and Python's are exchanged only where
    the scenario uses them (both are slow), seeded from torch's, so torch's state is all there is to keep.
    """

    def __init__(self, device: torch.device, everywhere: bool) -> None:
        self._generators = [torch.default_generator]
        if device.type == "cuda":
            torch.empty(0, device=device)  # generators exist once a device is in use
            index = torch.cuda.current_device() if device.index is None else device.index
            self._generators.append(torch.cuda.default_generators[index])
        self._everywhere = everywhere
        self._own = [generator.get_state() for generator in self._generators]
        self._others: list[Any] = []

    def seed(self, *numbers: int) -> None:
        """Start anew as a function of all `numbers`; not from within the `with` block."""
        words = [abs(number) * 2 + (number < 0) for number in numbers]
        mixed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
        for slot, generator in enumerate(self._generators):
            theirs = generator.get_state()
            generator.manual_seed(mixed)
            self._own[slot] = generator.get_state()
            generator.set_state(theirs)

    def __enter__(self) -> Self:
        self._others = [generator.get_state() for generator in self._generators]
        for generator, state in zip(self._generators, self._own, strict=True):
            generator.set_state(state)
        if self._everywhere:
            self._others += [np.random.get_state(), random.getstate()]
            word = int(torch.randint(2**32, (1,)))
            np.random.seed(word)
            random.seed(word)
        return self

    def __exit__(self, *_: object) -> None:
        self._own = [generator.get_state() for generator in self._generators]
        if self._everywhere:
            random.setstate(self._others.pop())
            np.random.set_state(self._others.pop())
        for generator, state in zip(self._generators, self._others, strict=True):
            generator.set_state(state)

    def state(self) -> list[Tensor]:
        """What decides the numbers to come, uint8, one tensor for each generator."""
        return [each.clone() for each in self._own]

    def load(self, state: list[Tensor]) -> None:
        self._own = [each.clone() for each in state]


class Simulation:
    """`E` copies of a VMAS scenario, stepped at once. The caller provides the random numbers and inference mode."""

    def __init__(self, scenario: str, num_envs: int, device: torch.device, options: Mapping[str, Any]) -> None:
        from vmas.scenarios import load
        from vmas.simulator.environment import Environment

        kwargs = dict(options)
        self.title = f"vmas/{scenario}"
        build = inspect.unwrap(Environment.__init__)  # its wrapper would draw from what all environments share
        for name in kwargs.keys() & inspect.signature(build).parameters.keys() - {"continuous_actions"}:
            raise EnvironmentFault(f"Environment '{self.title}': {name!r} is not an option of the scenario.")
        self.device, self.num_envs = device, num_envs
        self.continuous = bool(kwargs.pop("continuous_actions", True))
        module = load(f"{scenario}.py")
        self.scenario = module.Scenario()
        source = inspect.getsource(module)
        self.draws_everywhere = bool(re.search(_OTHER_NUMBERS, source, re.MULTILINE))
        self.env = Environment.__new__(Environment)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                build(self.env, self.scenario, num_envs, device, continuous_actions=self.continuous, **kwargs)
            except Exception as error:
                given = ", ".join(f"{name}={value!r}" for name, value in options.items()) or "its defaults"
                raise EnvironmentFault(f"Environment '{self.title}' cannot be made with {given}: {error}") from error
        self._refuse_unused(kwargs, source, [str(each.message) for each in caught])
        self.world = self.env.world
        self.agents = list(self.env.agents)
        self.groups, members = self._group()
        homes = {i: (name, place) for name in members for place, i in enumerate(members[name])}
        places = [(agent, *homes[i]) for i, agent in enumerate(self.agents)]
        self._course = together(self.title, self.scenario, self.world) or _OneByOne(self, places)
        self._drives = {name: _Drive(self, [self.agents[i] for i in indices]) for name, indices in members.items()}
        self._noisy = [agent for agent in self.agents if agent.u_noise > 0 or (self.talks(agent) and agent.c_noise > 0)]
        self.draws = bool(self._noisy) or isinstance(self._course, _OneByOne)  # random numbers, in a step
        self.can_draw = True  # until it is found that it cannot

    def _refuse_unused(self, kwargs: dict[str, Any], source: str, messages: list[str]) -> None:
        if any(_UNUSED in message for message in messages):
            known = set(re.findall(r"kwargs\s*\.\s*(?:pop|get)\(\s*[\"'](\w+)[\"']", source)) | {"continuous_actions"}
            for name in kwargs:
                if name not in known:
                    raise EnvironmentFault(f"Environment '{self.title}' has no option {name!r}; {nearest(name, known)}")

    def _group(self) -> tuple[dict[str, Group], dict[str, list[int]]]:
        """Agents with the same name up to its number and the same spaces; named as TorchRL's VMAS wrapper does."""
        names = [agent.name for agent in self.agents]
        numbered = all(re.fullmatch(r".+_\d+", name) for name in names)
        prefixes = [name.rpartition("_")[0] if numbered else "agents" for name in names]
        if set(prefixes) == {"agent"}:
            prefixes = ["agents"] * len(names)
        kinds: dict[tuple[str, int, Discrete | Continuous], list[int]] = {}
        for i, (agent, seen) in enumerate(zip(self.agents, self._raw_observations(), strict=True)):
            if not isinstance(seen, Tensor):
                raise EnvironmentFault(
                    f"Environment '{self.title}' gives agent {agent.name!r} a {type(seen).__name__} as observation; "
                    "only a tensor can be used, so choose options that give one."
                )
            width = math.prod(seen.shape[1:])
            kinds.setdefault((prefixes[i], width, self._space(agent)), []).append(i)
        groups: dict[str, Group] = {}
        members: dict[str, list[int]] = {}
        for (prefix, width, space), indices in kinds.items():
            name, copy = prefix, 2
            while name in groups:
                name, copy = f"{prefix}_{copy}", copy + 1
            groups[name] = Group(name, tuple(names[i] for i in indices), width, space)
            members[name] = indices
        return groups, members

    def talks(self, agent: Any) -> bool:
        return self.world.dim_c > 0 and not agent.silent

    def _space(self, agent: Any) -> Discrete | Continuous:
        space = self.env.get_agent_action_space(agent)
        if self.continuous:
            return Continuous(tuple(space.low.tolist()), tuple(space.high.tolist()))
        return Discrete(int(space.n))

    def _raw_observations(self) -> list[Any]:
        return [self.scenario.observation(agent) for agent in self.agents]

    def reset_at(self, row: int) -> None:
        self.scenario.env_reset_world_at(row)

    def empty(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Room for what a step returns: rewards `[E, N]` and observations `[E, N, O]` by group."""
        with torch.inference_mode(False):  # the caller's tensors must be of use in training
            reward, observation = {}, {}
            for name, group in self.groups.items():
                shape = (self.num_envs, len(group.agents))
                reward[name] = torch.empty(shape, device=self.device)
                observation[name] = torch.empty((*shape, group.observation), device=self.device)
        return reward, observation

    def reset(self) -> None:
        self.scenario.env_reset_world_at(None)

    def observe(self, observation: dict[str, Tensor]) -> None:
        """Write what every agent sees into `observation [E, N, O]`."""
        self._course.observe(observation)

    def step(self, actions: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """(reward `[E, N]`, observation `[E, N, O]`, done `[E]` as the scenario says it, which knows no clock)."""
        for name, drive in self._drives.items():
            drive(actions[name])
        self._add_noise()
        self._course.advance()
        reward, observation = self.empty()
        over = self._course.conclude(reward, observation)
        return reward, observation, over

    def _add_noise(self) -> None:
        for agent in self._noisy:
            if agent.u_noise > 0:
                agent.action.u = agent.action.u + torch.randn_like(agent.action.u) * agent.u_noise
            if self.talks(agent) and agent.c_noise > 0:
                agent.action.c = agent.action.c + torch.randn_like(agent.action.c) * agent.c_noise


class _OneByOne:
    """The course of any scenario: VMAS's own code, agent by agent, in its order."""

    def __init__(self, simulation: Simulation, places: list[tuple[Any, str, int]]) -> None:
        self.scenario, self.world, self.num_envs = simulation.scenario, simulation.world, simulation.num_envs
        self.places = places  # agent, its group, its place there

    def advance(self) -> None:
        for agent in self.world.agents:
            self.scenario.env_process_action(agent)
        self.scenario.pre_step()
        self.world.step()
        self.scenario.post_step()

    def conclude(self, reward: dict[str, Tensor], observation: dict[str, Tensor]) -> Tensor:
        for agent, name, place in self.places:
            reward[name][:, place] = self.scenario.reward(agent).reshape(self.num_envs)  # some give [E, 1]
        self.observe(observation)
        over: Tensor = self.scenario.done()
        return over

    def observe(self, observation: dict[str, Tensor]) -> None:
        for agent, name, place in self.places:
            observation[name][:, place] = self.scenario.observation(agent).reshape(self.num_envs, -1)


class _Drive:
    """Puts one group's actions into its agents: all agents at once, where VMAS decodes one by one."""

    def __init__(self, simulation: Simulation, agents: list[Any]) -> None:
        self.actions, self.continuous = [agent.action for agent in agents], simulation.continuous
        self.shape = (simulation.num_envs, len(agents))
        self.talks = simulation.talks(agents[0])
        size, device = agents[0].action_size, simulation.device
        self.size, self.first_word = size, simulation.world.dim_p
        multiplier = torch.stack([agent.action.u_multiplier_tensor for agent in agents])  # [N, A]
        if self.continuous:
            space = simulation._space(agents[0])
            assert isinstance(space, Continuous)
            self.low = torch.tensor(space.low, device=device)
            self.high = torch.tensor(space.high, device=device)
            self.multiplier = multiplier.unsqueeze(1)
            return
        words = simulation.world.dim_c if self.talks else 1
        grid = torch.cartesian_prod(*[torch.arange(n) for n in agents[0].discrete_action_nvec], torch.arange(words))
        forces = torch.stack([_forces(grid[:, :size], agent) for agent in agents]).to(device)  # [N, n, A]
        self.forces = forces * multiplier.unsqueeze(1)
        self.words = torch.nn.functional.one_hot(grid[:, size], words).float().to(device)  # [n, C]
        self.rows = torch.arange(len(agents), device=device).unsqueeze(1)

    def __call__(self, actions: Tensor) -> None:
        """`actions`: int64 `[E, N]` or float32 `[E, N, A]`."""
        if actions.shape[:2] != self.shape:
            raise ValueError(
                f"actions are {list(actions.shape)}, not for {self.shape[0]} environments and {self.shape[1]} agents"
            )
        first = actions.transpose(0, 1)  # [N, E, ...]: each agent's own is then contiguous
        if self.continuous:
            clipped = torch.clamp(first, self.low, self.high)
            force = clipped[..., : self.size] * self.multiplier
            word = clipped[..., self.first_word :] if self.talks else None
        else:
            force = self.forces[self.rows, first]
            word = self.words[first] if self.talks else None
        for action, own in zip(self.actions, force.unbind(), strict=True):
            action._u = own  # past a setter that checks what is known here
        if word is not None:
            for action, own in zip(self.actions, word.unbind(), strict=True):
                action._c = own


def _forces(choices: Tensor, agent: Any) -> Tensor:
    """What VMAS makes of the choices `[n, A]` on each axis: evenly spaced over the range, 0 always being rest."""
    columns = []
    for axis, n in enumerate(agent.discrete_action_nvec):
        choice = choices[:, axis]
        if n % 2 != 0:  # the first choice is rest: it trades places with the middle one
            half = n // 2
            choice = torch.where(choice == 0, half, torch.where(choice <= half, choice - 1, choice))
        most = agent.action.u_range_tensor[axis].cpu()
        columns.append((choice / (n - 1)) * (2 * most) - most)
    return torch.stack(columns, dim=-1)
