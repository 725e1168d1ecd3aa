"""The scenarios' options, the same for all sides; BenchMARL's own where it has an opinion."""

from __future__ import annotations

from typing import Any

MAX_STEPS = 100
SCENES: dict[str, dict[str, Any]] = {
    "navigation": {
        "n_agents": 4,
        "collisions": True,
        "agents_with_same_goal": 1,
        "split_goals": False,
        "observe_all_goals": False,
        "shared_rew": False,
        "lidar_range": 0.35,
        "agent_radius": 0.1,
    },
    "dispersion": {
        "n_agents": 4,
        "n_food": 4,
        "share_reward": True,
        "food_radius": 0.02,
        "penalise_by_time": False,
    },
    "balance": {"n_agents": 4, "random_package_pos_on_line": True, "package_mass": 5},
}
