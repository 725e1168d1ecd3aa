"""Two traps that the code avoids, in milliseconds of CPU time: run it when torch or transformers change.

    OMP_NUM_THREADS=1 python experiments/language/traps.py

The last layer on a slice of the sequence: not contiguous, torch copies the vocabulary's matrix once per row. An adapter's
factors taken out of their stack layer by layer: autograd fills a gradient of the size of all layers for each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

ROWS, TOKENS, WIDTH, VOCABULARY, LAYERS, AGENTS, RANK = 32, 24, 576, 49_152, 30, 64, 8


def milliseconds(run: Callable[[], object], repeats: int = 5) -> float:
    taken = []
    for _ in range(repeats + 1):
        start = time.process_time()
        run()
        taken.append(1e3 * (time.process_time() - start))
    return statistics.median(taken[1:])


def main() -> None:
    torch.set_num_threads(1)
    hidden, last = torch.randn(ROWS, TOKENS, WIDTH), torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
    stack = torch.randn(AGENTS, LAYERS, WIDTH, RANK, requires_grad=True)

    def indexed() -> None:
        sum(stack[:, layer].square().sum() for layer in range(LAYERS)).backward()

    def unbound() -> None:
        sum(each.square().sum() for each in stack.unbind(1)).backward()

    last.requires_grad_(False)
    hidden.requires_grad_()  # as in training: what comes before has adapters
    sliced = milliseconds(lambda: last(hidden[:, -2:]).square().sum().backward())
    contiguous = milliseconds(lambda: last(hidden[:, -2:].contiguous()).square().sum().backward())
    rows = (
        ("last layer", "a slice", sliced, "contiguous", contiguous),
        ("factors of 30 layers", "indexed", milliseconds(indexed), "unbound once", milliseconds(unbound)),
    )
    print("| | trap | ms | as here | ms | ratio |\n|---|---|---:|---|---:|---:|")
    for name, bad, slow, good, fast in rows:
        print(f"| {name} | {bad} | {slow:.0f} | {good} | {fast:.0f} | {slow / fast:.1f} |")


if __name__ == "__main__":
    main()
