"""A ninth agent joins eight that were trained, by its role text alone; against nine that were trained as long.

    OMP_NUM_THREADS=1 python experiments/language/ninth.py --seeds 0 1 2

Needs the runs of `learn.py swarm --only "specialisation 8, hyper_text"`. With nine agents there are nine words, one of which the
eight were never offered.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from cells import FOLDER, run_name

from hypermarl.language.judge import open_learner
from hypermarl.language.rewarding import Rewarding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    print(
        "| seed | the eight | nine, the ninth added | the ninth's own reward | nine trained from scratch, as many updates |"
    )
    print("|---:|---:|---:|---:|---:|")
    for seed in asked.seeds:
        _, _, eight = open_learner(Path(FOLDER) / run_name("swarm", "specialisation 8, hyper_text", seed))
        assert eight.config.env is not None
        options = {**eight.config.env.options, "n_agents": 9}
        nine = Rewarding(replace(eight.config, env=replace(eight.config.env, options=options)))
        scratch = nine.actor
        nine.actor = eight.actor
        added = nine.play(32, seed=10_000)
        before = eight.play(32, seed=10_000)
        nine.actor = scratch
        while nine.update < eight.config.train.updates:
            nine.iterate()
        after = nine.play(32, seed=10_000)
        ninth = added.agent(nine.agents[-1]).mean()
        print(
            f"| {seed} | {before.team.mean():.2f} | {added.team.mean():.2f} | {ninth:.2f} | {after.team.mean():.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
