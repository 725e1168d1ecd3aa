"""How fast a swarm answers: one frozen model, an adapter for every agent, against what there is otherwise.

    OMP_NUM_THREADS=1 python experiments/language/serving.py --out experiments/language/serving.json

Every agent has a prompt of 64 tokens and writes 32. All systems run the same loop (`hypermarl.language.rows`), greedily,
with nothing that ends a row; what differs is the network it calls:

    base      the frozen model without adapters
    ours      all agents' adapters in one pass
    mixed     PEFT, one batch with `adapter_names`
    swapped   PEFT, one agent after the other with `set_adapter` (timed on 4 agents: its rate does not depend on N)
    library   the frozen model without adapters, by transformers' own `generate`

Systems take turns within a repeat; the table holds medians over repeats of tokens per second of the whole process's CPU
time (one thread, so that neighbours on the machine matter little), and of the clock. In single precision all systems with
adapters must write the same tokens; that is checked.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypermarl.generator import Generator, GeneratorConfig
from hypermarl.language.backbone import Backbone, load_backbone
from hypermarl.language.export import write_adapter
from hypermarl.language.rows import Rows, Sampling, continuation
from hypermarl.spec import Weights
from hypermarl.targets import LoRATarget

PROMPT, DECODED, SWAPPED = 64, 32, 4
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Times = dict[str, list[float]]


def prompts(agents: int, vocabulary: int) -> Rows:
    """Random words, 64 for each agent."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(100, vocabulary, (agents, PROMPT), generator=rng)
    return Rows(ids, torch.ones_like(ids), torch.ones(agents, dtype=torch.bool))


def some_adapters(target: LoRATarget, agents: int) -> Weights:
    """Of a size that changes what is written."""
    rng = torch.Generator().manual_seed(1)
    return {w.name: 0.05 * torch.randn(agents, *w.shape, generator=rng) for w in target.spec.weights}


def write(network: Callable[..., Any], rows: Rows) -> Tensor:
    """The tokens written, `[N, 32]`."""
    return torch.stack(list(continuation(network, rows, Sampling(tokens=DECODED), frozenset())), -1)


@contextmanager
def timed(times: Times) -> Iterator[None]:
    cpu, clock = time.process_time(), time.perf_counter()
    yield
    times.setdefault("cpu", []).append(time.process_time() - cpu)
    times.setdefault("clock", []).append(time.perf_counter() - clock)


def registered(backbone: Backbone, target: LoRATarget, weights: Weights, agents: int) -> tuple[Any, float]:
    """The same adapters in PEFT, on a model of its own, and the seconds that reading them took."""
    from peft import PeftModel

    with tempfile.TemporaryDirectory() as scratch:
        folders = [write_adapter(Path(scratch) / str(i), backbone, target, weights, i) for i in range(agents)]
        model = load_backbone(dtype=backbone.model.dtype).model
        start = time.process_time()
        peft = PeftModel.from_pretrained(model, folders[0], adapter_name="0", autocast_adapter_dtype=False)
        for i in range(1, agents):
            peft.load_adapter(folders[i], adapter_name=str(i), autocast_adapter_dtype=False)
        took = time.process_time() - start
    peft.to(backbone.model.dtype).eval()
    return peft, took


def systems(backbone: Backbone, target: LoRATarget, weights: Weights, peft: Any, rows: Rows) -> dict[str, Any]:
    """Name -> (what is timed, the number of agents it answers for)."""
    agents = len(rows.ids)

    def ours() -> Tensor:
        with target.attached(target.adapters(weights)) as model:
            return write(model, rows)

    def mixed() -> Tensor:
        names = [str(i) for i in range(agents)]
        return write(lambda **arguments: peft(**arguments, adapter_names=names), rows)

    def swapped() -> Tensor:
        written = []
        for i in range(min(agents, SWAPPED)):
            peft.set_adapter(str(i))
            one = Rows(rows.ids[i : i + 1], rows.mask[i : i + 1], rows.real[i : i + 1])
            written.append(write(peft, one))
        return torch.cat(written)

    def library() -> Tensor:
        options = {"max_new_tokens": DECODED, "min_new_tokens": DECODED, "do_sample": False}
        return backbone.model.generate(rows.ids, attention_mask=rows.mask, **options)[:, PROMPT:]

    return {
        "base": (lambda: write(backbone.model, rows), agents),
        "ours": (ours, agents),
        "mixed": (mixed, agents),
        "swapped": (swapped, min(agents, SWAPPED)),
        "library": (library, agents),
    }


def serve(backbone: Backbone, agents: int, repeats: int, wanted: list[str]) -> dict[str, Any]:
    """Tokens per second of every system for so many agents."""
    target = LoRATarget.from_model(backbone.model)
    weights = some_adapters(target, agents)
    peft, took = registered(backbone, target, weights, agents)
    rows = prompts(agents, backbone.model.config.vocab_size)
    running = {name: each for name, each in systems(backbone, target, weights, peft, rows).items() if name in wanted}
    times: dict[str, Times] = {name: {} for name in running}
    written: dict[str, Tensor] = {}
    for _ in range(repeats):
        for name, (run, _) in running.items():
            with timed(times[name]):
                written[name] = run()
    if backbone.model.dtype == torch.float32 and "ours" in written:
        for name in {"mixed", "swapped"} & set(written):
            assert torch.equal(written[name], written["ours"][: len(written[name])]), name
        assert "base" not in written or not torch.equal(written["base"], written["ours"])
    rates = {
        name: {kind: count * DECODED / statistics.median(taken) for kind, taken in times[name].items()}
        for name, (_, count) in running.items()
    }
    return {"agents": agents, "tokens_per_second": rates, "seconds": times, "peft_registers_in_seconds": took}


def median_ms(run: Callable[[], object], repeats: int = 15) -> dict[str, float]:
    """Milliseconds of CPU time, all threads added up, and of the clock, after two runs that are not counted."""
    taken: Times = {}
    for _ in range(repeats + 2):
        with timed(taken):
            run()
    return {kind: 1e3 * statistics.median(each[2:]) for kind, each in taken.items()}


@torch.no_grad()
def make(backbone: Backbone, agents: int) -> dict[str, Any]:
    """Milliseconds to generate adapters from encoded texts, and to attach them; parameters of the generators."""
    target = LoRATarget.from_model(backbone.model)
    rng = torch.Generator().manual_seed(0)
    texts = torch.randn(agents, 384, generator=rng)
    narrow = torch.nn.Linear(384, 32)
    generators = {
        "per-layer linear, code of 32": (narrow, Generator(target.spec, 32, config=GeneratorConfig(), rng=rng)),
        "trunk of 64 and places": (
            torch.nn.Identity(),
            Generator(target.spec, 384, config=GeneratorConfig(trunk=(64,)), rng=rng),
        ),
    }
    measured: dict[str, Any] = {"agents": agents, "make_ms": {}, "parameters": {}}
    for name, (code, generator) in generators.items():
        measured["make_ms"][name] = median_ms(lambda code=code, generator=generator: generator(code(texts)))
        parts = (*code.parameters(), *generator.parameters())
        measured["parameters"][name] = sum(parameter.numel() for parameter in parts)
    weights = generators["per-layer linear, code of 32"][1](narrow(texts))

    def attach() -> None:  # with the conversion to the model's precision that reading a prompt needs
        adapters = target.adapters(weights)
        for adapter in adapters.values():
            adapter.cast_to(backbone.model.dtype)
        with target.attached(adapters):
            pass

    measured["attach_ms"] = median_ms(attach)
    measured["adapters_bytes"] = 4 * agents * target.spec.numel()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--systems", nargs="+", default=["base", "ours", "mixed", "swapped", "library"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    machine = {"cpu": cpu[0].partition(": ")[2], "threads": torch.get_num_threads(), "torch": torch.__version__}
    results: dict[str, Any] = {"machine": machine, "python": platform.python_version(), "serve": [], "make": []}
    print(f"{machine}\n\n| dtype | agents | " + " | ".join(f"{name} cpu / clock" for name in asked.systems) + " |")
    print("|---|---:|" + "---:|" * len(asked.systems))
    for dtype in asked.dtype:
        backbone = load_backbone(dtype=DTYPES[dtype])
        for agents in asked.agents:
            found = serve(backbone, agents, asked.repeats, asked.systems) | {"dtype": dtype}
            results["serve"].append(found)
            rates = [found["tokens_per_second"][name] for name in asked.systems]
            cells = " | ".join(f"{rate['cpu']:.1f} / {rate['clock']:.1f}" for rate in rates)
            print(f"| {dtype} | {agents} | {cells} |", flush=True)
        for agents in sorted({1, *asked.agents}):
            results["make"].append(make(backbone, agents) | {"dtype": dtype})
            print(json.dumps(results["make"][-1]), flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
