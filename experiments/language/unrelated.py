"""Does an adapter leave alone what has nothing to do with its role? Of trained runs, in the frame they learned in and in another.

    OMP_NUM_THREADS=1 python experiments/language/unrelated.py runs/language/roles-hyper_text-s0

Every question is asked under six roles. In the second frame the frozen model is right on 50 of the 80 questions (which were chosen so); in the first on few.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from hypermarl.language.examination import unrelated
from hypermarl.language.judge import open_learner

ROLES = 6
OTHER = "Input: {prompt}\nAnswer:"


def main(paths: list[str]) -> None:
    torch.set_num_threads(1)
    print("| run | frame | with adapters | frozen model |\n|---|---|---:|---:|")
    for path in paths:
        _, _, learner = open_learner(Path(path))
        own = learner.config.backbone.frame
        for frame in (own, OTHER):
            learner.config = replace(learner.config, backbone=replace(learner.config.backbone, frame=frame))
            found = unrelated(learner, ROLES)
            shown = frame.replace("\n", "\\n")
            print(
                f"| {Path(path).name} | `{shown}` | {found['exact/unrelated']:.3f} | {found['exact/unrelated_base']:.3f} |"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
