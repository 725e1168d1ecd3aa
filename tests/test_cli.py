"""The command line as a user meets it: what it prints, what it leaves, and one sentence for each mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

from hypermarl import cli
from hypermarl import config as settings
from hypermarl.completion import complete
from hypermarl.errors import UserError
from hypermarl.marl.settings import ExperimentConfig
from hypermarl.runs import RunFolder

SMALL = ["train.steps=10", "train.frames=320", "model.actor=[8]", "model.critic=[8]", "train.progress=false"]
GAME = ["env=games/specialisation", "evaluation.episodes=4", "evaluation.video=false", *SMALL]


class Said:
    """What a command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run a command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["hypermarl", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run."""
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-m", "hypermarl", "train", *GAME, f"train.folder={folder}", "train.run=run"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "run"


def total(out: str) -> int:
    """The number of trained parameters in what --dry-run printed."""
    row = next(line for line in out.splitlines() if re.match(r"│ agents +│", line))
    return int(row.split("│")[6].replace(",", ""))


# ---------------------------------------------------------------------------------------------------- dry run


@pytest.mark.parametrize(
    "sharing, expected",
    [
        ("shared_id", 11_658),
        ("independent", 44_584),
        ("hyper_linear", 55_730),
        ("hyper_mlp_paper", 728_346),
    ],
)
def test_dry_run_counts_the_papers_parameters(say, sharing: str, expected: int) -> None:  # type: ignore[no-untyped-def]
    said = say("train", "env=vmas/dispersion", f"sharing={sharing}", "--dry-run")
    assert said.code == 0 and total(said.out) == expected


@pytest.mark.parametrize("sharing", ["hyper_mlp", "hyper_low_rank"])
def test_our_defaults_stay_small(say, sharing: str) -> None:  # type: ignore[no-untyped-def]
    assert total(say("train", "env=vmas/dispersion", f"sharing={sharing}", "--dry-run").out) < 100_000


def test_dry_run_prints_settings_that_build_again_and_writes_nothing(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    said = say("train", "env=games/synchronisation", "seed=5", "env.options.n_agents=6", "--dry-run")
    printed = yaml.safe_load(said.out[: said.out.index("Trained parameters")])
    config = settings.build(ExperimentConfig, printed)
    assert config.seed == 5 and config.env.options["n_agents"] == 6
    assert not list(tmp_path.iterdir())


def test_dry_run_counts_every_group_and_their_sum(say) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("mpe2")
    out = say("train", "env=pettingzoo/mpe2.simple_tag_v3", "--dry-run").out
    rows = [line.split("│")[1:] for line in out.splitlines() if line.startswith("│")]
    totals = [int(row[5].replace(",", "")) for row in rows]
    assert len(rows) == 3 and rows[-1][0].strip() == "all" and totals[0] + totals[1] == totals[2]


# --------------------------------------------------------------------------------------- train, evaluate, resume


def test_training_prints_the_result_and_what_comes_next(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    said = say("train", *GAME, "train.run=first")
    assert said.code == 0
    assert "team return" in said.out and "tensorboard --logdir runs/first" in said.out
    latest = RunFolder.open(tmp_path / "runs/first").latest()
    assert latest is not None and latest.frame == 320


def test_a_run_of_several_seeds_is_evaluated_and_its_seeds_rendered(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    said = say("train", *GAME, "train.run=two", "seeds=2", "seed=7")
    assert "hypermarl render runs/two/seed_7" in said.out
    assert say("render", "runs/two/seed_7", "--out", "film.gif").code == 0
    assert (tmp_path / "film.gif").stat().st_size > 1000
    said = say("evaluate", "runs/two", "--episodes", "3", "--form", "vectorised", "--json", "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    assert set(content["games"]["specialisation"]["ippo_hyper_mlp"]) == {"seed_7", "seed_8"}


def test_evaluate_writes_one_file_per_form(say, trained: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    said = say("evaluate", str(trained), "--episodes", "2", "--json", "out.json")
    assert said.code == 0 and "vectorised" in said.out and "pettingzoo" in said.out
    assert {path.name for path in tmp_path.iterdir()} == {"out-vectorised.json", "out-pettingzoo.json"}
    assert all(word in said.out for word in ("out-vectorised.json", "summary.json"))


def test_environment_words_change_the_runs_own_environment_or_replace_it(trained: Path) -> None:
    own = cli.env_for(trained, ["env.options.episode_steps=3", "env.num_envs=2"])
    assert own is not None
    assert (own.name, own.num_envs) == ("specialisation", 2)
    assert own.options == {"n_agents": 4, "temporal": True, "episode_steps": 3}
    other = cli.env_for(trained, ["env=vmas/balance", "env.options.n_agents=3"])
    assert other is not None
    assert (other.kind, other.name, other.options) == ("vmas", "balance", {"n_agents": 3})
    assert cli.env_for(trained, []) is None
    checkpoint = next((trained / "checkpoints").iterdir())
    assert cli.env_for(checkpoint, ["env.num_envs=2"]) == cli.env_for(trained, ["env.num_envs=2"])
    with pytest.raises(UserError, match="'seed'"):
        cli.env_for(trained, ["seed=3"])


def test_resume_trains_on(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    say("train", *GAME, "train.run=first")
    said = say("resume", "runs/first", "--frames", "640")
    assert said.code == 0 and "640 frames" in said.out
    latest = RunFolder.open(tmp_path / "runs/first").latest()
    assert latest is not None and latest.frame == 640


def test_ctrl_c_ends_with_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hypermarl", "train", *GAME, "train.frames=100_000_000", "train.run=long"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    metrics = tmp_path / "runs/long/metrics.csv"
    for _ in range(3000):
        if metrics.exists() and len(metrics.read_text().splitlines()) > 2:
            break
        if child.poll() is not None:
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0 and "hypermarl resume runs/long" in out
    assert RunFolder.open(tmp_path / "runs/long").latest() is not None


def test_export_writes_networks(say, trained: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for words, folder in ((["--out", "nets"], tmp_path / "nets"), ([], trained / "networks")):
        said = say("export", str(trained), "--format", "torch", *words)
        assert said.code == 0
        assert {path.name for path in folder.iterdir()} == {
            f"agent_{i}.{ending}" for i in range(4) for ending in ("pt2", "json")
        }


SICK = """
from pettingzoo import ParallelEnv
from gymnasium import spaces
import numpy as np

class Sick(ParallelEnv):
    metadata = {"name": "sick_v0"}
    possible_agents = ["a", "b"]

    def observation_space(self, agent):
        return spaces.Box(-1, 1, (3,))

    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return {agent: np.zeros(3, np.float32) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions):
        seen = {agent: np.zeros(3, np.float32) for agent in self.agents}
        rewards = {"a": 0.0, "b": float("nan")}
        no = dict.fromkeys(self.agents, False)
        return seen, rewards, no, no, {agent: {} for agent in self.agents}

def make(**options):
    return Sick()
"""


def test_doctor_says_what_is_wrong_and_training_refuses_it(
    say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "sick.py").write_text(SICK)
    monkeypatch.syspath_prepend(str(tmp_path))
    said = say("doctor", "env=sick:make")
    assert said.code == 2 and re.search(r"^mend .*'b'.*NaN", said.out, re.MULTILINE)
    said = say("train", "env=sick:make", *SMALL, "env.max_steps=10", "env.num_envs=2")
    assert said.code == 2 and re.fullmatch(r"error: .*'b'.*NaN.*\n", said.err)


def test_doctor_finds_our_own_environment_sound(say) -> None:  # type: ignore[no-untyped-def]
    said = say("doctor", "env=games/specialisation", "env.options.n_agents=3")
    assert said.code == 0 and "mend" not in said.out and "3 agents" in said.out


# ------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    "words, parts",
    [
        (["train"], ["env="]),
        (["train", "env=vmas/dispersoin"], ["dispersoin", "dispersion"]),
        (["train", "env=games/specialization"], ["specialization", "specialisation"]),
        (["train", "env=gmaes/specialisation"], ["gmaes", "games"]),
        (["train", "env=no_such_package.there:make"], ["no_such_package"]),
        (["train", *GAME, "env.options.agents=3"], ["agents", "n_agents"]),
        (["train", *GAME, "sharing=hyper_mpl"], ["hyper_mpl", "hyper_mlp"]),
        (["train", *GAME, "algorithm.lrr=1"], ["algorithm.lrr", "algorithm.lr"]),
        (["train", *GAME, "device=cuda:99"], ["cuda:99"]),
        (["train", *GAME, "device=gpu"], ["gpu"]),
        (["train", *GAME, "seed"], ["seed"]),
        (["list", "environments"], ["environments", "envs"]),
        (["resume", "nowhere"], ["nowhere"]),
        (["evaluate", "nowhere"], ["nowhere"]),
        (["render", "nowhere"], ["nowhere"]),
        (["export", "nowhere", "--out", "x"], ["nowhere"]),
        (["evaluate", "nowhere", "--episodes", "0"], ["episodes"]),
        (["evaluate", "nowhere", "--form", "both_"], ["form"]),
        (["doctor"], ["env="]),
        (["doctor", "seed=3"], ["seed"]),
        (["bogus"], ["bogus"]),
    ],
)
def test_a_mistake_is_named_exits_with_2_and_writes_nothing(
    say, tmp_path: Path, words: list[str], parts: list[str]
) -> None:  # type: ignore[no-untyped-def]
    said = say(*words)
    assert said.code == 2 and said.out == ""
    assert all(part in said.err for part in parts), said.err
    assert "Traceback" not in said.err and not list(tmp_path.iterdir())
    if said.err.startswith("error:"):
        assert said.err.count("\n") == 1


def test_a_run_of_another_environment_is_refused(say, trained: Path) -> None:  # type: ignore[no-untyped-def]
    before = sorted(path for path in trained.rglob("*"))
    said = say("evaluate", str(trained), "env=games/specialisation", "env.options.n_agents=6", "--episodes", "1")
    assert said.code == 2 and "games/specialisation" in said.err and "cannot play" in said.err
    assert sorted(path for path in trained.rglob("*")) == before


def test_a_damaged_run_is_refused_and_named(say, trained: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import shutil

    shutil.copytree(trained, tmp_path / "copy")
    latest = RunFolder.open(tmp_path / "copy").latest()
    assert latest is not None
    policy = latest.path / "policy.safetensors"
    policy.write_bytes(policy.read_bytes()[:-8])
    for command in ("resume", "evaluate", "render"):
        said = say(command, "copy")
        assert said.code == 2 and str(latest.path.name) in said.err and said.err.startswith("error: ")


def test_the_existing_run_is_left_alone_by_one_of_the_same_name(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    say("train", *GAME, "train.run=same")
    before = (tmp_path / "runs/same/metrics.csv").read_bytes()
    assert say("train", *GAME, "train.run=same").code == 0
    assert (tmp_path / "runs/same/metrics.csv").read_bytes() == before
    assert RunFolder.open(tmp_path / "runs/same-2").latest() is not None


def test_faults_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(RuntimeError, match="ours"):
        cli.main()


def test_a_missing_package_of_an_extra_is_named_and_another_is_our_fault() -> None:
    assert "pip install 'hypermarl[video]'" in str(cli._sentence(ModuleNotFoundError("no", name="imageio.v2")))
    assert cli._sentence(ModuleNotFoundError("no", name="hypermarl.nowhere")) is None


def test_debugging_shows_the_traceback_of_a_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake() -> None:
        raise UserError("yours")

    monkeypatch.setattr(cli, "app", mistake)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    monkeypatch.setenv("HYPERMARL_DEBUG", "1")
    with pytest.raises(UserError):
        cli.main()


WITHOUT_EXTRAS = """
    import sys
    from hypermarl import cli

    class Hiding:
        def __init__(self, finder):
            self.finder = finder

        def find_spec(self, name, path=None, target=None):
            hidden = name.partition(".")[0] in cli.EXTRAS
            return None if hidden else self.finder.find_spec(name, path, target)

        def __getattr__(self, name):
            return getattr(self.finder, name)

    sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
    cli.main()
"""


@pytest.mark.parametrize(
    "words, code, package",
    [
        (GAME, 0, ""),
        (["env=vmas/dispersion", *SMALL], 2, "vmas"),
        (["env=pettingzoo/mpe2.simple_spread_v3", *SMALL], 2, "mpe2"),
    ],
)
def test_without_extras_the_core_trains_and_the_rest_names_its_pip_command(
    tmp_path: Path, words: list[str], code: int, package: str
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WITHOUT_EXTRAS), "train", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    if code:
        assert re.fullmatch(rf"error: .*pip install .*{package}.*\n", done.stderr)
        assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------- small things


def test_list_shows_every_preset_with_its_line(say) -> None:  # type: ignore[no-untyped-def]
    for what, group in cli.LISTS.items():
        said = say("list", what)
        for name, line in settings.presets(group, {"envs": "train", "texts": "swarm"}.get(what)).items():
            assert re.search(rf"^{group}={re.escape(name)} +{re.escape(line)}$", said.out, re.MULTILINE)
    assert "vmas/<scenario>" in say("list", "envs").out


def test_version_names_what_is_installed(say) -> None:  # type: ignore[no-untyped-def]
    import torch

    assert f"torch {torch.__version__}" in say("version").out


def test_completion_offers_groups_then_presets() -> None:
    assert complete("sh") == ["sharing="]
    assert complete("sharing=hyper_m") == ["sharing=hyper_mlp", "sharing=hyper_mlp_paper"]


def test_help_lists_every_command(say) -> None:  # type: ignore[no-untyped-def]
    out = say("--help").out
    work = ("train", "sweep", "language", "swarm", "resume", "evaluate", "render", "export")
    for command in (*work, "list", "doctor", "version"):
        assert re.search(rf"^│ {command} ", out, re.MULTILINE), command


def test_help_and_list_do_not_wait_for_torch() -> None:
    script = (
        "import sys; from hypermarl import cli\ntry: cli.main()\nexcept SystemExit: assert 'torch' not in sys.modules"
    )
    for words in (["--help"], ["train", "--help"], ["sweep", "--help"], ["swarm", "train", "--help"], ["list", "envs"]):
        subprocess.run([sys.executable, "-c", script, *words], check=True, capture_output=True)


def test_python_m_hypermarl_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hypermarl", "list", "sharing"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0 and "sharing=hyper_mlp" in done.stdout
    assert os.listdir(tmp_path) == []
