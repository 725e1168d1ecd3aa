"""What the benchmark shows: every comparison as two commands and a target. `bench.py` runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Command = tuple[str, ...]
"""A script of this folder and its words. It prints `{"frames": .., "cpu": [..], "wall": [..]}` of equal iterations."""

STEPS = 64  # T
FRAMES = 250_000  # so many of four agents are timed in a process, within the bounds below
FEWEST, MOST = 5, 12  # iterations


@dataclass(frozen=True)
class Row:
    """`second` needs `value` times the seconds per frame of `first` (times `factor`)."""

    name: str
    claim: str
    case: str
    first: Command
    second: Command
    target: float | None = None  # none: for information
    bound: Literal["at least", "at most"] = "at least"
    factor: float = 1.0
    cell: str = ""  # rows of one cell are measured together: all their commands, one after another, in each round
    clock: Literal["cpu", "wall"] = "cpu"
    gpu: bool = False

    @property
    def own(self) -> Command:
        """The side the claim is about."""
        return self.first if self.bound == "at least" else self.second


def _counts(frames: int, warmup: int = 2) -> Command:
    return ("--warmup", str(warmup), "--iterations", str(max(FEWEST, min(MOST, FRAMES // frames))))


# BenchMARL's defaults, but for the sizes of rollouts and networks
EQUAL = (
    "algorithm=mappo",
    "algorithm.share_critic=true",  # one value for the team, as there
    "algorithm.lr=5e-5",
    "algorithm.adam_eps=1e-6",
    "algorithm.epochs=4",
    "algorithm.minibatches=4",
    "algorithm.gamma=0.99",
    "algorithm.lam=0.9",
    "algorithm.clip=0.2",
    "algorithm.clip_value=false",
    "algorithm.entropy=0.0",
    "algorithm.value_coef=1.0",
    "algorithm.max_grad_norm=5.0",
    "algorithm.normalise_advantage=none",
    "model.actor=[64,64]",
    "model.critic=[64,64]",
    "model.distribution=tanh_normal",
    f"train.steps={STEPS}",
)
TANH: Command = ("model.activation=tanh",)
RELU: Command = ("model.activation=relu",)
FAST: Command = (*RELU, "train.precision=bf16")


def ours(
    scene: str, envs: int, *words: str, sharing: str = "shared", agents: int = 4, seeds: int = 1, stagger: bool = False
) -> Command:
    counts = _counts(envs * seeds * STEPS * agents // 4)
    chosen = {word.partition("=")[0]: word for word in (*EQUAL, *words)}  # later wins
    flags = (*counts, "--stagger") if stagger else counts
    given = (
        f"sharing={sharing}",
        f"env.options.n_agents={agents}",
        f"env.num_envs={envs}",
        f"seeds={seeds}",
        *chosen.values(),
    )
    return ("ours.py", "--scene", scene, *flags, *given)


def theirs(scene: str, envs: int, activation: str = "tanh", *flags: str) -> Command:
    counts = _counts(envs * STEPS)
    return ("theirs.py", scene, "--envs", str(envs), "--activation", activation, *counts, *flags)


def physics(scene: str, envs: int, *flags: str) -> Command:
    return ("physics.py", scene, "--envs", str(envs), *_counts(envs * STEPS), *flags)


def _loop() -> list[Row]:
    rows = []
    for scene in ("navigation", "dispersion"):
        for envs in (64, 256, 1024):
            case, cell = f"{scene}, {envs} environments", f"{scene}_{envs}"
            tanh, relu, fast = (ours(scene, envs, *words) for words in (TANH, RELU, FAST))
            slow, quick = theirs(scene, envs, "tanh"), theirs(scene, envs, "relu")
            rows.append(Row(f"tanh_{cell}", "`shared`, tanh on both sides", case, tanh, slow, 1.6, cell=cell))
            rows.append(Row(f"relu_{cell}", "`shared`, ReLU on both sides", case, relu, quick, 1.8, cell=cell))
            target = {"navigation": 2.2, "dispersion": 3.0 if envs >= 256 else None}[scene]
            claim = "fast preset (ReLU, bf16) against BenchMARL's defaults (tanh)"
            rows.append(Row(f"fast_{cell}", claim, case, fast, slow, target, cell=cell))
            if envs == 256:
                target = {"navigation": 0.6, "dispersion": 0.32}[scene]
                limit, own = physics(scene, envs), physics(scene, envs, "--ours")
                claim = "share of the physics limit, fast preset"
                rows.append(Row(f"physics_{cell}", f"{claim} (plain VMAS)", case, fast, limit, target, cell=cell))
                rows.append(Row(f"physics_own_{cell}", f"{claim} (our own stepping)", case, fast, own, cell=cell))
    return rows


def _out_of_step() -> list[Row]:
    case, cell = "balance, 1024 environments", "balance_1024"
    slow = theirs("balance", 1024, "tanh", "--stagger")
    tanh, fast = (ours("balance", 1024, *words, stagger=True) for words in (TANH, FAST))
    return [
        Row(f"tanh_{cell}", "episodes out of step, tanh on both sides", case, tanh, slow, 2.8, cell=cell),
        Row(f"fast_{cell}", "episodes out of step, fast preset", case, fast, slow, cell=cell),
    ]


def _generators() -> list[Row]:
    rows = []
    for agents, envs in ((4, 256), (16, 64), (16, 256), (64, 64)):
        for critic, words in (("team", ()), ("agent", ("algorithm.share_critic=false",))):
            cell = f"hyper_{agents}_{envs}_{critic}"
            shared, hyper = (
                ours("dispersion", envs, *RELU, *words, sharing=sharing, agents=agents)
                for sharing in ("shared", "hyper_mlp")
            )
            case = f"dispersion, N = {agents}, {envs} environments, one critic " + (
                "of the team" if critic == "team" else "per agent"
            )
            target = 1.1 if critic == "team" else None
            claim = "`hyper_mlp` against `shared`, whole iteration"
            rows.append(Row(cell, claim, case, shared, hyper, target, "at most", cell=cell))
    return rows


def _updates() -> list[Row]:
    rows = []
    for agents in (4, 16, 64, 256):
        hyper, shared, every = (
            ("update.py", kind, "--agents", str(agents)) for kind in ("hyper_mlp", "shared_id", "all_networks")
        )
        case, cell = f"N = {agents}, 4,096 samples", f"update_{agents}"
        claim = "one update against a shared network with the id in its input"
        rows.append(Row(cell, claim, case, shared, hyper, 1.15, "at most", cell=cell))
        claim = "one update against all networks on all samples"
        rows.append(Row(f"{cell}_all", claim, case, hyper, every, float(agents), cell=cell))
    return rows


def _seeds() -> list[Row]:
    rows = []
    for scene, same, quickest in (("dispersion", 3.5, 6.0), ("navigation", 3.0, 4.0)):
        case, cell = f"{scene}, 10 seeds of 64 environments", f"seeds_{scene}"
        tanh, relu, fast = (ours(scene, 64, *words, seeds=10) for words in (TANH, RELU, FAST))
        slow, quick = theirs(scene, 64, "tanh"), theirs(scene, 64, "relu")
        claim = "ten seeds in one run against ten BenchMARL runs"
        rows.append(Row(f"{cell}_tanh", f"{claim}, tanh on both sides", case, tanh, slow, same, cell=cell))
        rows.append(Row(f"{cell}_relu", f"{claim}, ReLU on both sides", case, relu, quick, same, cell=cell))
        rows.append(Row(f"{cell}_fast", f"{claim}, fast preset", case, fast, slow, quickest, cell=cell))
    for sharing in ("shared", "hyper_mlp"):
        five, one = (
            (
                "ours.py",
                *("--warmup", "2", "--iterations", "15"),
                "env=vmas/dispersion",
                f"sharing={sharing}",
                f"seeds={k}",
            )
            for k in (5, 1)
        )
        case = f"paper's Dispersion, 16 environments x 128 steps, `{sharing}`"
        rows.append(Row(f"five_seeds_{sharing}", "five seeds against one, frames/s of all", case, five, one, 3.0))
    return rows


def _others() -> list[Row]:
    few, many = (("agents.py", "--agents", str(agents)) for agents in (4, 1024))
    case = "in-house environment, whole iteration"
    claim = "1,024 agents against 4 at the same number of samples, per sample"
    spread = "PettingZoo mpe2 `simple_spread_v3` against TorchRL's SerialEnv"
    return [
        Row("agents_1024", claim, case, few, many, 1.5, "at most"),
        Row("spread_8", spread, "8 environments, steps only", ("spread.py", "ours"), ("spread.py", "serial"), 3.0),
    ]


def _gpu() -> list[Row]:
    rows = []
    on = ("device=cuda", *RELU)
    for scene in ("navigation", "dispersion"):
        for envs in (4096, 32768):
            case, cell = f"{scene}, {envs:,} environments, GPU", f"gpu_{scene}_{envs}"
            there = theirs(scene, envs, "relu", "--device", "cuda")
            first = ours(scene, envs, *on, "train.micro_batch=1048576")
            claim = "against BenchMARL on the same GPU, ReLU"
            rows.append(Row(cell, claim, case, first, there, 3.0, cell=cell, clock="wall", gpu=True))
        one, ten = (ours(scene, 64, *on, "train.micro_batch=1048576", seeds=k) for k in (1, 10))
        case = f"{scene}, 64 environments per seed, GPU"
        name = f"gpu_seeds_{scene}"
        rows.append(
            Row(name, "ten seeds against one, time", case, one, ten, 1.5, "at most", 10.0, clock="wall", gpu=True)
        )
    return rows


ROWS: tuple[Row, ...] = (
    *_loop(),
    *_out_of_step(),
    *_generators(),
    *_updates(),
    *_seeds(),
    *_others(),
    *_gpu(),
)
