"""What an adapter's two products cost a CPU by precision: milliseconds of CPU time for 30 layers of 576 by 576, rank 8.

    OMP_NUM_THREADS=1 python experiments/language/products.py

`half` multiplies in bfloat16 throughout, `single` converts the few inputs up and the result down; `T` tokens per adapter.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

LAYERS, WIDTH, RANK = 30, 576, 8


def milliseconds(run: Callable[[int], Tensor], repeats: int = 20) -> float:
    """For one pass over all layers, so that the next layer's matrices have to be fetched as in a model."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        for layer in range(LAYERS):
            run(layer)
        taken.append(1e3 * (time.process_time() - start))
    return statistics.median(taken[2:])


@torch.no_grad()
def main() -> None:
    print("| adapters | T | half | single |\n|---:|---:|---:|---:|")
    for adapters, tokens in ((8, 1), (64, 1), (64, 2), (16, 4), (16, 8), (8, 64)):
        x, y = (torch.randn(adapters, tokens, WIDTH).bfloat16() for _ in range(2))
        left, right = torch.randn(adapters, LAYERS, WIDTH, RANK), torch.randn(adapters, LAYERS, RANK, WIDTH)
        single, half = (left.unbind(1), right.unbind(1)), (left.bfloat16().unbind(1), right.bfloat16().unbind(1))

        def in_half(layer: int) -> Tensor:
            return torch.baddbmm(y, torch.bmm(x, half[0][layer]), half[1][layer], alpha=2.0)

        def in_single(layer: int) -> Tensor:
            added = torch.bmm(torch.bmm(x.float(), single[0][layer]), single[1][layer])
            return torch.add(y, added.to(y.dtype), alpha=2.0)

        print(f"| {adapters} | {tokens} | {milliseconds(in_half):.1f} | {milliseconds(in_single):.1f} |", flush=True)


if __name__ == "__main__":
    main()
