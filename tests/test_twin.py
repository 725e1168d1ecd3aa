"""A copy that does the same is in the same place."""

from __future__ import annotations

import numpy as np
import torch

from hypermarl.envs.pettingzoo import make
from hypermarl.envs.twin import Twin

TOY = "pettingzoo_toys:Pistons"


def test_a_twin_follows_and_begins_anew_where_it_must() -> None:
    env = make(TOY, num_envs=3, options={"longest": 30})
    env.reset(5)
    twin = Twin(TOY, {"longest": 30}, None, None)
    done: list[dict[str, np.ndarray]] = []
    for t in range(4):
        actions = torch.randint(0, 4, (3, 3), generator=torch.Generator().manual_seed(t))
        env.step({"piston": actions})
        done.append({"piston": actions[2:].numpy()})
        begun = twin.rows.envs[0].actions if t else None
        twin.follow(5, 2, 0, done)
        assert np.array_equal(twin.board["observation/piston"][0], env._board["observation/piston"][2])
        assert begun is None or twin.rows.envs[0].actions is begun, "it began anew on its own way"
    twin.follow(5, 2, 0, done[:2])  # back in time
    assert twin.board["length"][0] == 2
    twin.follow(5, 1, 0, done[:2])
    assert not np.array_equal(twin.board["observation/piston"][0], env._board["observation/piston"][2])
    twin.close()
    env.close()
