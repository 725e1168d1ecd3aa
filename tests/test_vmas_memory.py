"""What a simulation remembers is found, copied by rows, saved and restored; where that is not all, it is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("vmas")

from hypermarl.envs.vmas_memory import Memory, Reference, RowCopy, plain, restore, save
from hypermarl.envs.vmas_simulation import Simulation, Stream
from hypermarl.envs.vmas_trial import Trial

CPU = torch.device("cpu")


def builder(
    name: str, change: Callable[[Any], None] = lambda scenario: None, **options: Any
) -> Callable[[int], Simulation]:
    """How a trial builds its simulations; `change` spoils the scenario."""

    def build(num_envs: int) -> Simulation:
        stream = Stream(CPU, everywhere=True)
        stream.seed(0)
        with stream:
            simulation = Simulation(name, num_envs, CPU, options)
            change(simulation.scenario)
            return simulation

    return build


class Thing:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def test_memory_finds_what_can_be_reached_once_and_by_the_shortest_way() -> None:
    friend = Thing(position=torch.zeros(7, 2), mass=2.5)
    root = Thing(
        friends=[friend],
        best=friend,
        by_friend={friend: torch.ones(7)},
        sizes={"big": torch.ones(3)},
        pair=(1, "x"),
        loop=None,
    )
    root.loop = root
    memory = Memory(root)
    assert set(memory.tensors) == {"/best/position", "/by_friend/@/best", "/sizes/big"}
    assert {path: memory.value(path) for path in memory.plain} == {
        "/best/mass": 2.5,
        "/friends/0": Reference("/best"),
        "/pair/0": 1,
        "/pair/1": "x",
        "/loop": Reference(""),
    }
    slot = memory.tensors["/by_friend/@/best"]
    slot.write(torch.full((7,), 4.0))
    assert root.by_friend[friend].eq(4).all()
    new = memory.slot("/sizes/small")
    assert new is not None
    new.write(3)
    assert root.sizes["small"] == 3
    assert memory.slot("/nobody/here") is None


def copied(source: Any, target: Any, rows: list[bool]) -> None:
    pair = [Thing(scenario=source), Thing(scenario=target)]
    paths = list(Memory(source).tensors)
    copy = RowCopy(pair[0], pair[1], paths)  # type: ignore[arg-type]
    starts = copy.take()
    for name in ("a", "flag"):
        getattr(source, name).zero_()  # what was taken is not what is there later
    copy.give(torch.tensor(rows), starts)


def test_rows_are_copied_and_the_rest_left() -> None:
    fresh = Thing(
        a=torch.tensor([[1.0, 2.0], [3.0, 4.0]]), kind=torch.tensor([5.0, 6.0]), view=torch.zeros(1).expand(2)
    )
    worn = Thing(a=-torch.ones(2, 2), kind=torch.tensor([True, False]), view=torch.ones(1).expand(2))
    fresh.flag, worn.flag = torch.tensor([True, True]), torch.tensor([False, False])
    worn.also = worn.a
    fresh.also = fresh.a
    kept = worn.a
    copied(fresh, worn, [False, True])
    assert worn.a.tolist() == [[-1, -1], [3, 4]]
    assert worn.also is worn.a  # two names of one stay two names of one
    assert kept.tolist() == [[-1, -1], [-1, -1]]  # what was handed out before is not written into
    assert worn.kind.tolist() == [True, True] and worn.kind.dtype == torch.bool
    assert worn.view.tolist() == [1.0, 0.0]
    assert worn.flag.tolist() == [False, True]


@pytest.mark.parametrize("name", ["dispersion", "navigation", "balance", "wheel"])
def test_common_scenarios_are_all_rows_and_can_be_saved(name: str) -> None:
    with torch.inference_mode():
        assert Trial(builder(name)).rows() is not None
        assert Trial(builder(name)).can_save()


@pytest.mark.parametrize(
    "name", ["simple_push", "simple_adversary", "simple_reference", "simple_speaker_listener", "het_mass"]
)
def test_scenarios_with_one_goal_or_mass_for_all_are_not(name: str) -> None:
    with torch.inference_mode():
        assert Trial(builder(name)).rows() is None


def spoil(kind: str) -> Callable[[Any], None]:
    """A scenario that remembers in a way of its own."""

    def change(scenario: Any) -> None:
        reward, reset = scenario.reward, scenario.reset_world_at
        scenario.calls, scenario.hidden = 0, {}

        def counting(agent: Any) -> Tensor:
            scenario.calls += 1
            return reward(agent) + (0.001 * scenario.calls if kind == "a number" else 0)

        def closing(agent: Any) -> Tensor:
            closed.append(1)
            return reward(agent) + 0.001 * len(closed)

        def history(env_index: int | None = None) -> None:
            reset(env_index)
            closed.append(1)
            for agent in scenario.world.agents:
                agent.set_pos(agent.state.pos + 0.001 * len(closed), batch_index=None)

        closed: list[int] = []

        def choosing(env_index: int | None = None) -> None:
            reset(env_index)
            scenario.choice = int(torch.randint(1000, (1,)))

        if kind == "a start that depends on the past":
            scenario.reset_world_at = history
        elif kind == "a choice that does not show at once":
            scenario.reset_world_at = choosing
        else:
            scenario.reward = closing if kind == "a closure" else counting

    return change


SPOILS = ["a number", "a closure", "a start that depends on the past", "a choice that does not show at once"]


@pytest.mark.parametrize("kind", SPOILS)
def test_a_scenario_that_remembers_more_is_noticed(kind: str) -> None:
    with torch.inference_mode():
        assert Trial(builder("dropout", spoil(kind))).rows() is None


@pytest.mark.parametrize(("kind", "told"), [("a number", True), ("a closure", False)])
def test_a_number_can_be_saved_and_a_closure_is_noticed(kind: str, told: bool) -> None:
    with torch.inference_mode():
        assert Trial(builder("dropout", spoil(kind))).can_save() is told


def test_a_trial_is_not_fooled_by_rows_that_look_alike() -> None:
    """Whatever is as long as the trial has environments is told apart from rows by the size of the real simulation."""
    simulation = builder("dispersion", n_agents=7, n_food=7)(7)
    assert simulation.groups["agents"].observation == 4 + 3 * 7
    with torch.inference_mode():
        assert Trial(builder("dispersion", n_agents=7, n_food=7)).rows() is not None


def test_what_is_saved_is_put_back_and_goals_point_to_the_right_landmark() -> None:
    with torch.inference_mode():
        build = builder("simple_adversary")
        one, other = build(3), build(3)
        start = plain(one)
        stream = Stream(CPU, everywhere=False)
        for seed in range(20):
            for simulation, shift in ((one, 0), (other, 100)):
                stream.seed(seed + shift)
                with stream:
                    simulation.reset()
            state = save(one, start)
            assert all(tensor.is_contiguous() for tensor in state.values())
            restore(other, start, state)
            place = one.world.landmarks.index(one.world.agents[0].goal)
            assert other.world.agents[0].goal is other.world.landmarks[place]
            assert torch.equal(one.world.agents[1].state.pos, other.world.agents[1].state.pos)
            assert other.world.agents[1].state.pos is not one.world.agents[1].state.pos


def test_a_state_of_another_scenario_is_refused() -> None:
    state = save(builder("simple_spread")(2), {})
    with pytest.raises(LookupError, match="vmas/simple_spread"):
        restore(builder("dispersion")(2), {}, state)
