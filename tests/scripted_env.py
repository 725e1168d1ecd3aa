"""A small environment that plays a fixed plot: two unlike groups, illegal actions, an early death, a clock.

`runners` (2 agents, 3 discrete actions, masked): runner_0 ends early at step 2, runner_1 at the clock; a runner may
not repeat what its place in time forbids. `chasers` (3 agents, 2 continuous actions) live to the clock. Numbers tell
where they come from: an observation holds (row, episode, age, agent, last action...), a reward is age + agent / 10.
"""

from __future__ import annotations

import numpy as np
import torch

from hypermarl.envs.interface import Continuous, Discrete, Group, Step, View

RUNNERS, CHASERS = "runners", "chasers"
DEATH, CLOCK = 2, 5


class ScriptedEnv:
    def __init__(self, num_envs=4, *, clock=CLOCK, kill_all_at=None, early_cut=False, device="cpu"):
        self.num_envs, self.max_steps, self.device = num_envs, clock, torch.device(device)
        self.kill_all_at = kill_all_at
        self.early_cut = early_cut
        self.auto_reset = True
        self.groups = {
            RUNNERS: Group(RUNNERS, ("runner_0", "runner_1"), 5, Discrete(3), masked=True),
            CHASERS: Group(CHASERS, ("a", "b", "c"), 6, Continuous((-1.0, -2.0), (1.0, 0.5))),
        }
        self.seeds, self.closed = [], 0
        self.age = torch.zeros(num_envs, dtype=torch.int64)
        self.episode = torch.zeros(num_envs, dtype=torch.int64)
        self._forget()

    def _forget(self):
        self.last = {RUNNERS: torch.zeros(self.num_envs, 2, 1), CHASERS: torch.zeros(self.num_envs, 3, 2)}

    def reset(self, seed=None):
        self.seeds.append(seed)
        self.episode = self.episode * 0 if seed is not None else self.episode
        self._forget()
        return self.reset_rows(torch.ones(self.num_envs, dtype=torch.bool))

    def reset_rows(self, rows):
        self.age = torch.where(rows, 0, self.age)
        self.episode = self.episode + rows
        return self.view()

    def view(self):
        observation = {}
        for name, last in self.last.items():
            n = last.shape[1]
            told = [torch.arange(self.num_envs), self.episode, self.age]
            told = torch.stack([each.float()[:, None].expand(-1, n) for each in told], -1)
            agent = torch.arange(n).float().expand(self.num_envs, n)[..., None]
            observation[name] = torch.cat([told, agent, last], -1)
        alive = torch.ones(self.num_envs, 2, dtype=torch.bool)
        alive[:, 0] = self.age < DEATH
        mask = torch.ones(self.num_envs, 2, 3, dtype=torch.bool)
        mask.scatter_(2, (self.age % 3)[:, None, None].expand(-1, 2, 1), False)
        mask &= alive[..., None]  # the dead may do nothing
        return View(observation, {RUNNERS: mask}, {RUNNERS: alive})

    def step(self, actions):
        before = self.view()
        assert actions[RUNNERS].dtype == torch.int64
        assert actions[RUNNERS].shape == (self.num_envs, 2)
        assert actions[CHASERS].dtype == torch.float32
        assert actions[CHASERS].shape == (self.num_envs, 3, 2)
        self.legal = before.mask[RUNNERS].gather(2, actions[RUNNERS][..., None])[..., 0] | ~before.alive[RUNNERS]
        self.last = {RUNNERS: actions[RUNNERS].float()[..., None], CHASERS: actions[CHASERS].clone()}
        self.age = self.age + 1
        late = self.age >= self.max_steps
        over = torch.zeros_like(late) if self.kill_all_at is None else self.age >= self.kill_all_at
        late = late & ~over
        was_alive = {RUNNERS: before.alive[RUNNERS], CHASERS: torch.ones(self.num_envs, 3, dtype=torch.bool)}
        terminated, truncated, reward = {}, {}, {}
        for name, alive in was_alive.items():
            dies, leaves = (each[:, None].expand_as(alive).clone() for each in (over, late))
            if name == RUNNERS:
                (leaves if self.early_cut else dies)[:, 0] |= self.age == DEATH
            terminated[name] = dies & alive
            truncated[name] = leaves & alive & ~dies
            reward[name] = (self.age[:, None] + torch.arange(alive.shape[1]) / 10) * alive
        last = self.view()
        done = late | over
        view = self.reset_rows(done) if self.auto_reset and done.any() else last
        return Step(view, reward, terminated, truncated, last.observation, done)

    def state_dict(self):
        return None

    def load_state_dict(self, state):
        raise AssertionError("has no state")

    def render(self):
        return np.full((16, 32, 3), int(self.age[0]), dtype=np.uint8)

    def close(self):
        self.closed += 1
