"""`hypermarl language` and `hypermarl swarm` as a user meets them: what they print and leave, and how they refuse."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import small_language as tiny
import torch
import yaml
from peft import PeftModel
from small import close
from small_runs import GAME, TASK, taught, words
from test_cli import WITHOUT_EXTRAS, say

from hypermarl import config as settings
from hypermarl.completion import complete, complete_language, complete_swarm
from hypermarl.errors import UserError
from hypermarl.language import judge, room
from hypermarl.language.export import CONFIG, OURS, TENSORS, read_adapter
from hypermarl.language.load import load_swarm, open_author
from hypermarl.language.settings import TEXT, LanguageConfig
from hypermarl.runs import RunFolder

__all__ = ["say", "taught"]  # fixtures


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def runs(model: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Finished runs, by name; made when first asked for, never changed."""
    from small_runs import config

    from hypermarl.language import run

    folder = tmp_path_factory.mktemp("runs")

    def made(name: str, *more: str) -> Path:
        if not (folder / name).exists():
            run.train(config(model, GAME, "train.updates=4", f"train.folder={folder}", f"train.run={name}", *more))
        return folder / name

    return made


# ------------------------------------------------------------------------------------------------------ training


def test_a_swarm_is_trained_and_shown_before_and_after(say, model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    said = say("swarm", "train", *words(model, *GAME), "train.updates=30", "train.run=first", "sharing=hyper_mlp")
    assert said.code == 0, said.err
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.out.splitlines() if line[:1] == "│"]
    talk = {row[0]: row for row in rows if len(row) == 5}
    assert list(talk) == ["auditor", "clerk", "scout"] and talk["clerk"][1] == "moon two cat"
    assert len({row[2] for row in talk.values()}) == 1  # one frozen model
    assert len({row[3] for row in talk.values()}) == 3  # paid to be different, they are
    assert all(row[4] == "1" for row in talk.values())
    assert ["greedy", "1.000"] in rows
    for part in ("tensorboard --logdir runs/first", "hypermarl evaluate runs/first", 'load_swarm("runs/first")'):
        assert part in said.out
    assert "language generate" not in said.out  # nothing reads words there
    latest = RunFolder.open(tmp_path / "runs/first").latest()
    assert latest is not None and latest.frame == 30


@pytest.mark.usefixtures("taught")
def test_a_task_is_taught_resumed_and_examined(
    say, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    said = say("language", "train", *words(model, *TASK), "train.updates=3", "train.run=lessons")
    assert said.code == 0, said.err
    for column in ("seen", "unseen", "new", "shuffled", "random"):
        assert re.search(rf"^│ {column} +│ +\d\.\d+ │ +\d\.\d+ │$", said.out, re.MULTILINE), column
    assert "hypermarl language generate runs/lessons" in said.out
    said = say("resume", "runs/lessons", "--frames", "5")
    assert said.code == 0 and "Trained 5 updates" in said.out
    said = say("evaluate", "runs/lessons", "--episodes", "3", "--json", "out.json")
    assert said.code == 0, said.err
    content = json.loads((tmp_path / "out.json").read_text())["seed_0"]
    again = json.loads((tmp_path / "runs/lessons/evaluation/colours-000000000005.json").read_text())
    assert again["results"]["seed_0"] == content and again["items"] == 3
    asked: list[int] = []
    monkeypatch.setattr(judge, "examine", lambda learner, items, seed: asked.append(items) or {"exact/seen": 0.0})
    for options in (["--episodes", "3"], []):
        assert say("evaluate", "runs/lessons", *options).code == 0
    assert asked == [3, 2]  # else as many as the run's own evaluation asks


def test_two_seeds_are_evaluated_together_or_one_alone(say, model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    more = ("train.updates=2", "train.run=two", "seeds=2", "seed=7")
    said = say("swarm", "train", *words(model, *GAME), *more)
    assert said.code == 0 and "mean of 2 seeds" in said.out and "Run folder:  runs/two\n" in said.out
    assert say("evaluate", "runs/two", "--episodes", "3", "--json", "out.json").code == 0
    played = json.loads((tmp_path / "out.json").read_text())["pettingzoo"]["small_words:make"]["reinforce_hyper_text"]
    assert set(played) == {"seed_7", "seed_8"}
    assert len(played["seed_7"]["absolute_metrics"]["return_clerk"]) == 3
    assert {path.name for path in (tmp_path / "runs/two/evaluation").iterdir()} == {
        "pettingzoo-small_words.make-000000000002-pettingzoo.json",
        "pettingzoo-small_words.make-000000000002-summary.json",
    }
    said = say("evaluate", "runs/two", "--episodes", "2", "--run-seed", "8", "env.options.steps=2")
    assert said.code == 0 and re.search(r"episode length +│ +2 ", said.out), said.out + said.err
    assert (tmp_path / "runs/two/seed_8/evaluation").is_dir()


def test_dry_run_prints_settings_that_build_again_counts_and_leaves_nothing(say, model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    said = say("swarm", "train", *words(model, *GAME), "seed=5", "--dry-run")
    assert said.code == 0, said.err
    config = settings.build(LanguageConfig, yaml.safe_load(said.out[: said.out.index(" Trained parameters")]))
    assert config.seed == 5 and config.env is not None and config.env.name == "small_words:make"
    row = [cell.strip() for cell in said.out.splitlines()[-2].split("│")[1:-1]]
    adapter = tiny.target().spec.numel()
    # for every number of the adapter a head of 32 and a base; how texts become 32 numbers is not trained
    assert row == [f"{n:,}" for n in (0, 33 * adapter, 33 * adapter, adapter, 4 * adapter)]
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------ adapters


def test_generated_adapters_give_the_same_in_peft(say, runs: Any, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run = runs("plain")
    (tmp_path / "texts").write_text("red one\n\nmoon two cat\n")
    said = say("language", "generate", str(run), "--text", "green dog", "--texts", "texts", "--out", "adapters")
    assert said.code == 0, said.err
    folders = sorted(path.name for path in (tmp_path / "adapters").iterdir())
    assert folders == ["green-dog", "moon-two-cat", "red-one"]
    swarm = load_swarm(run)
    swarm.add("new", role="green dog")
    ids = torch.tensor([tiny.backbone().encode("sun cat")])
    plain = tiny.model()(ids).logits[0, -1]
    for agent, name in (("auditor", "red-one"), ("clerk", "moon-two-cat"), ("new", "green-dog")):
        theirs = PeftModel.from_pretrained(tiny.model(), tmp_path / "adapters" / name)(ids).logits[0, -1]
        close(swarm.logits({agent: "sun cat"})[agent][0], theirs)
        assert not torch.allclose(theirs, plain, atol=1e-3)
    author = open_author(run)
    stored = read_adapter(tmp_path / "adapters/green-dog", author.backbone, author.target)
    assert (stored.text, stored.generator) == ("green dog", author.sha256)
    assert json.loads((tmp_path / "adapters/green-dog" / OURS).read_text())["frame"] == "{prompt}"


def test_a_document_longer_than_the_encoder_reads_adds_up(say, runs: Any, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run = runs("plain")
    (tmp_path / "policy.txt").write_text("red one two. " * 14 + "moon " * 3)
    (tmp_path / "short.txt").write_text("red one\n")
    both = ("--document", "policy.txt", "--document", "short.txt")
    said = say("language", "generate", str(run), *both, "--out", "out")
    assert said.code == 0 and "rank 9 of 2 chunks" in said.out and "--max-lora-rank 16" in said.out, said.out
    assert json.loads((tmp_path / "out/policy" / CONFIG).read_text())["r"] == 3 * tiny.RANK
    assert json.loads((tmp_path / "out/short" / CONFIG).read_text())["r"] == tiny.RANK
    author = open_author(run)
    chunks = ["red one two. " * 13 + "red", "one two. moon moon moon"]
    parts = author.weights([author.code(chunk.strip()) for chunk in _cut(tmp_path / "policy.txt")])
    common = author.shared()
    assert common is not None and len(chunks) == 2
    added = {name: -delta for name, delta in author.target.deltas(common).items()}
    for i in range(2):
        for name, delta in author.target.deltas(parts, i).items():
            added[name] = added[name] + delta
    theirs = PeftModel.from_pretrained(tiny.model(), tmp_path / "out/policy").merge_and_unload()
    plain = dict(tiny.model().named_parameters())
    for name, delta in added.items():
        close(theirs.get_parameter(name) - plain[name], delta, atol=1e-4)
    said = say("language", "generate", str(run), *both[:2], "--out", "fine", "--chunk", "10")
    assert said.code == 0 and re.search(r"rank \d+ of [5-9] chunks", said.out)


def _cut(path: Path) -> list[str]:
    """By hand: 40 tokens are forty words, and no sentence ends at the fortieth."""
    whole = path.read_text().split()
    last = max(i for i in range(40) if whole[i].endswith("."))
    return [" ".join(whole[: last + 1]), " ".join(whole[last + 1 :])]


def test_ranks_that_no_server_takes_are_warned_of(say, runs: Any, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "long.txt").write_text("red one two cat dog " * 40)
    said = say("language", "generate", str(runs("plain")), "--document", "long.txt", "--out", "out", "--chunk", "1")
    assert said.code == 0 and re.fullmatch(r"warning: the rank 603 of out/long is more than the 512 .*\n", said.err)


# ------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    "line, parts",
    [
        (["language", "train"], ["task="]),
        (["language", "train", "task=rolse"], ["'rolse'", "'roles'"]),
        (["language", "train", "task.name=rolse"], ["'rolse'", "'roles'"]),
        (["language", "train", "task=roles", "env=words/relay"], ["env=words/relay", "sharing=, task="]),
        (["language", "train", "task=roles", "teach.rolls=3"], ["teach.rolls", "teach.roles"]),
        (["language", "train", "task=roles", "sharing=hyper_txt"], ["hyper_txt", "hyper_text"]),
        (["language", "train", "task=roles", "device=gpu"], ["gpu"]),
        (["language", "train", "task=roles", "teach.asked=0"], ["teach.asked", "at least 1"]),
        (["swarm", "train", "env=words/relay", "reward.entropy_fall=[0.6,0.5]"], ["entropy_fall", "[0.6, 0.5]"]),
        (["swarm", "train", "env=words/relay", "reward.entropy_fall=[0.6]"], ["entropy_fall"]),
        (["language", "train", "task=roles", "backbone.model=nowhere"], ["nowhere", "smollm2"]),
        (["swarm", "train"], ["env="]),
        (["swarm", "train", "env=words/specialization"], ["specialization", "specialisation"]),
        (["swarm", "train", "env=wrods/relay"], ["wrods", "words"]),
        (["swarm", "train", "env=vmas/dispersion"], ["vmas"]),
        (["swarm", "train", "env=no_such_package.there:make"], ["no_such_package"]),
        (["swarm", "train", "env=words/relay", "task=roles"], ["task=roles", "env=, sharing="]),
        (["swarm", "train", "env=words/relay", "env.options.kind=3"], ["kind", "kinds"]),
        (["swarm", "train", "env=words/relay", "algorithm=ippo"], ["algorithm=ippo"]),
        (["train", "env=games/specialisation", "sharing=hyper_text"], ["hyper_text", "language agents"]),
        (["train", "env=words/specialisation"], ["words", "hypermarl swarm train"]),
        (["language", "generate", "nowhere", "--out", "x", "--text", "a"], ["nowhere"]),
        (["language", "generate", "nowhere", "--out", "x"], ["--text"]),
        (["language", "generate", "nowhere", "--out", "x", "--texts", "absent"], ["absent"]),
    ],
)
def test_a_mistake_is_named_exits_with_2_and_leaves_nothing(
    say, tmp_path: Path, line: list[str], parts: list[str]
) -> None:  # type: ignore[no-untyped-def]
    refused(say(*line), *parts)
    assert not list(tmp_path.iterdir())


def refused(said: Any, *parts: str) -> None:
    assert said.code == 2 and said.out == "" and said.err.startswith("error: "), said.err + said.out
    assert said.err.count("\n") == 1 and all(part in said.err for part in parts), said.err


def test_what_cannot_be_generated_is_told_why(say, runs: Any, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run = str(runs("plain"))
    (tmp_path / "blank").write_text(" \n")
    (tmp_path / "odd").write_bytes(b"\xff\xfe")
    for words_, parts in (
        (["--text", " "], ["empty"]),
        (["--text", "red " * 50], ["50 tokens", "40"]),
        (["--texts", "blank"], ["blank is empty"]),
        (["--document", "odd"], ["UTF-8"]),
        (["--document", "blank", "--chunk", "9"], ["blank is empty"]),
    ):
        refused(say("language", "generate", run, "--out", "x", *words_), *parts)
    (tmp_path / "fine").write_text("red one")
    said = say("language", "generate", run, "--out", "x", "--document", "fine", "--chunk", "41")
    refused(said, "--chunk 41", "40")
    for sharing, part in (("independent", "each agent"), ("hyper_mlp", "reads no words"), ("shared", "one adapter")):
        other = str(runs(sharing, f"sharing={sharing}"))
        refused(say("language", "generate", other, "--out", "x", "--text", "red"), sharing, part)
    assert not (tmp_path / "x").exists()


def test_damage_is_named(say, runs: Any, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(runs("plain"), tmp_path / "copy")
    latest = RunFolder.open(tmp_path / "copy").latest()
    assert latest is not None
    policy = latest.path / "policy.safetensors"
    policy.write_bytes(policy.read_bytes()[:-8])
    ways: tuple[list[str], ...] = (
        ["resume", "copy"],
        ["evaluate", "copy"],
        ["language", "generate", "copy", "--out", "x", "--text", "red"],
    )
    for line in ways:
        refused(say(*line), latest.path.name)
    say("language", "generate", str(runs("plain")), "--out", "x", "--text", "red")
    author = open_author(runs("plain"))
    content = safetensors.torch.load_file(tmp_path / "x/red" / TENSORS)
    safetensors.torch.save_file({name: 2 * tensor for name, tensor in content.items()}, tmp_path / "x/red" / TENSORS)
    with pytest.raises(UserError, match="is damaged or cut short"):
        read_adapter(tmp_path / "x/red", author.backbone, author.target)


def test_another_base_is_refused_by_every_command(say, model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(model, tmp_path / "base")
    other = tiny.folder(tmp_path / "other", seed=1)
    line = words(Path("base"), *GAME)
    assert say("swarm", "train", *line, "train.updates=1", "train.run=first").code == 0
    was = RunFolder.open(tmp_path / "runs/first").groups["base"]["sha256"]
    shutil.copytree(other, tmp_path / "base", dirs_exist_ok=True)
    for words_ in (
        ["resume", "runs/first"],
        ["evaluate", "runs/first"],
        ["language", "generate", "runs/first", "--out", "x", "--text", "red"],
    ):
        refused(say(*words_), was[:12], "cannot be used with base (hash ")


def test_runs_of_another_kind_and_other_agents_are_refused(say, runs: Any) -> None:  # type: ignore[no-untyped-def]
    run = str(runs("plain"))
    refused(say("evaluate", run, "env.options.n_agents=2"), "auditor, clerk, scout", "add()")
    refused(say("evaluate", run, "seed=3"), "'seed'")
    refused(say("evaluate", run, "--form", "vectorised"), "pettingzoo")
    refused(say("evaluate", run, "--run-seed", "4"), "seed 0, not 4")
    for line in (["render", run], ["export", run]):
        refused(say(*line), "language agents")


@pytest.mark.usefixtures("taught")
def test_a_task_has_no_environment(say, model: Path) -> None:  # type: ignore[no-untyped-def]
    say("language", "train", *words(model, *TASK), "train.updates=1", "train.run=lessons")
    refused(say("evaluate", "runs/lessons", "env=words/relay"), "colours", "no environment")


def test_too_little_memory_is_told_before_it_runs_out(
    say, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    run = str(runs("plain"))
    monkeypatch.setattr(room, "available", lambda device: 10)
    refused(say("language", "generate", run, "--out", "x", "--text", "red"), "0 such agents fit")
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_no_model_is_refused(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty").mkdir()
    refused(say("swarm", "train", *words(Path("empty"), *GAME)), "empty is no model", "config.json")
    assert not (tmp_path / "runs").exists()


def test_without_the_extra_the_pip_command_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WITHOUT_EXTRAS), "swarm", "train", "env=words/specialisation"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and re.fullmatch(r"error: .*pip install .*hypermarl\[language\].*\n", done.stderr)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------- small things


def test_presets_that_read_words_are_known_as_such() -> None:
    for name in settings.presets("sharing"):
        preset = resources.files(settings.PRESETS).joinpath(f"sharing/{name}.yaml").read_text()
        reads = yaml.safe_load(preset)["conditioning"] in TEXT
        assert reads == (name not in settings.presets("sharing", "train")), name


def test_lists_and_completion_know_what_each_command_takes(say) -> None:  # type: ignore[no-untyped-def]
    assert re.search(r"^task=roles +\S", say("list", "tasks").out, re.MULTILINE)
    texts = say("list", "texts").out
    assert "env=words/specialisation" in texts and "env=textarena/" in texts and "vmas" not in texts
    assert "words/" not in say("list", "envs").out
    assert complete_language("") == ["sharing=", "task="] and complete_swarm("") == ["env=", "sharing="]
    assert "sharing=hyper_text" in complete_swarm("sharing=") and "sharing=hyper_text" not in complete("sharing=")
    assert all(word.startswith("env=words/") for word in complete_swarm("env=w")) and complete("env=w") == []


def test_help_names_the_commands_and_does_not_wait_for_torch(say) -> None:  # type: ignore[no-untyped-def]
    out = say("language", "--help").out
    assert "train" in out and "generate" in out
    script = (
        "import sys; from hypermarl import cli\ntry: cli.main()\n"
        "except SystemExit: assert not {'torch', 'hydra', 'transformers'} & set(sys.modules)"
    )
    for line in (["language", "generate", "--help"], ["swarm", "train", "--help"], ["list", "tasks"]):
        subprocess.run([sys.executable, "-c", script, *line], check=True, capture_output=True)
