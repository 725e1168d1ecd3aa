"""Does an adapter leave alone what has nothing to do with its role? Of trained runs, by the frame that surrounds the questions.

    OMP_NUM_THREADS=1 python experiments/language/unrelated.py runs/language/roles-hyper_text-s3
    OMP_NUM_THREADS=1 python experiments/language/unrelated.py RUN --frames "Q: {prompt}\\nA:"

Asked is in the frame of the run, and in four that it never saw. Every question is asked under six roles. The 80 questions were chosen
such that the frozen model is right on 50 in the first of `OTHERS`; in the run's own it is right on 51.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from hypermarl.language.examination import unrelated
from hypermarl.language.judge import open_learner

ROLES = 6
OTHERS = ("Input: {prompt}\nAnswer:", "Q: {prompt}\nA:", "Task: {prompt}\nResult:", "Please reply. {prompt} Reply:")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--frames", nargs="*", help="instead of those; \\n is a new line")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| run | frame | with adapters | frozen model |\n|---|---|---:|---:|")
    for path in asked.runs:
        _, _, learner = open_learner(path)
        named = [frame.replace("\\n", "\n") for frame in asked.frames or ()]
        for frame in named or (learner.config.backbone.frame, *OTHERS):
            learner.config = replace(learner.config, backbone=replace(learner.config.backbone, frame=frame))
            found = unrelated(learner, ROLES)
            shown = frame.replace("\n", "\\n")
            told, base = found["exact/unrelated"], found["exact/unrelated_base"]
            print(f"| {path.name} | `{shown}` | {told:.3f} | {base:.3f} |", flush=True)


if __name__ == "__main__":
    main()
