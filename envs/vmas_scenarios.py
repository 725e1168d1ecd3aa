"""The scenarios that VMAS 1.5 brings along, with a line on each."""

from __future__ import annotations

from .interface import EnvironmentFault

CATALOGUE: dict[str, str] = {
    "balance": "VMAS: carry a ball on a line to a goal, against gravity",
    "ball_passage": "VMAS: push a ball through a gap in a wall",
    "ball_trajectory": "VMAS: two agents carry a ball along a circle",
    "buzz_wire": "VMAS: two agents carry a ball through a corridor without touching it",
    "discovery": "VMAS: several agents at once have to find each target",
    "dispersion": "VMAS: agents that start alike spread out to food (in the HyperMARL paper)",
    "dropout": "VMAS: one agent has to reach the goal, all pay for energy",
    "flocking": "VMAS: stay together and move around obstacles",
    "football": "VMAS: a team against a scripted or learning team",
    "give_way": "VMAS: two agents pass each other in a narrow corridor",
    "joint_passage": "VMAS: two agents joined by a stick pass a gap",
    "joint_passage_size": "VMAS: two joined agents of different size pass gaps of different size",
    "multi_give_way": "VMAS: four agents pass each other at a crossing",
    "navigation": "VMAS: everyone to a goal of their own, or a shared one (in the HyperMARL paper)",
    "passage": "VMAS: a formation passes through a gap and forms again",
    "reverse_transport": "VMAS: push a box from the inside",
    "road_traffic": "VMAS: cars on a map of roads (slow)",
    "sampling": "VMAS: visit a field where it is most likely to pay",
    "transport": "VMAS: push a heavy box together",
    "wheel": "VMAS: turn a heavy line together at a wanted speed",
    "wind_flocking": "VMAS: fly in a formation that saves energy in the wind",
    "simple": "VMAS, of the MPE family: one agent, one landmark",
    "simple_adversary": "VMAS, of the MPE family: cover the goal without showing which it is",
    "simple_crypto": "VMAS, of the MPE family: send a secret that a third must not read",
    "simple_push": "VMAS, of the MPE family: push the other away from the goal",
    "simple_reference": "VMAS, of the MPE family: each tells the other where to go",
    "simple_speaker_listener": "VMAS, of the MPE family: one speaks, one moves",
    "simple_spread": "VMAS, of the MPE family: cover all landmarks without collisions",
    "simple_tag": "VMAS, of the MPE family: slow hunters, fast prey",
    "simple_world_comm": "VMAS, of the MPE family: hunters with a leader that talks, prey, food and forests",
    "asym_joint": "VMAS, for debugging: two agents carry a stick with a mass",
    "circle_trajectory": "VMAS, for debugging: one agent follows a circle",
    "diff_drive": "VMAS, for debugging: differential drive",
    "drone": "VMAS, for debugging: drones",
    "goal": "VMAS, for debugging: one agent goes to a goal",
    "het_mass": "VMAS, for debugging: agents of different mass",
    "kinematic_bicycle": "VMAS, for debugging: bicycle dynamics",
    "line_trajectory": "VMAS, for debugging: one agent follows a line",
    "pollock": "VMAS, for debugging: many lines, boxes and balls that collide",
    "vel_control": "VMAS, for debugging: agents that follow velocities",
    "waterfall": "VMAS, for debugging: a chain of bodies under gravity",
}


def scenarios() -> list[str]:
    """The names that the installed VMAS knows."""
    try:
        import vmas
    except ImportError as error:
        raise EnvironmentFault("Environments of the kind 'vmas' need a package: pip install vmas") from error
    return [*vmas.scenarios, *vmas.mpe_scenarios, *vmas.debug_scenarios]
