"""Which cells of a sweep are tried again, what is kept of each, and how the command ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweeps import FOUR, GAME, Script, fail, made, outcome, run

from hypermarl.errors import UserError
from hypermarl.marl.train import Result
from hypermarl.sweep import cell as process
from hypermarl.sweep import command
from hypermarl.sweep.folder import Cell, Record, SweepFolder


def test_cells_that_die_are_tried_again_mistakes_are_not_and_none_stops_the_others(tmp_path: Path) -> None:
    folder = made(tmp_path / "s", *GAME, "seed=range(0,6)")
    names = [cell.name for cell in folder.cells]
    ends = ["fine", "killed fine", "crash crash", "mistake", "early early", "fault fine"]
    script = Script(dict(zip(names, ends, strict=True)))
    whole, records, said = run(folder, script)
    assert whole
    assert [records[name].state for name in names] == [
        "finished", "finished", "failed", "failed", "failed", "finished",
    ]  # fmt: skip
    assert [script.begun.count(name) for name in names] == [1, 2, 2, 1, 2, 2]
    assert [records[name].sentence for name in names[2:5]] == [
        "RuntimeError: no luck", "Bad input.", "Its process was ended by SIGKILL; was memory short?",
    ]  # fmt: skip
    assert {name: folder.record(name).state for name in names} == {name: records[name].state for name in names}
    assert said.count("retrying") == 4 and "[6/6]" in said
    assert "Bad input." in said and str(folder.log(names[3])) in said


@pytest.mark.parametrize("retries, state, starts", [(0, "failed", 1), (2, "finished", 3)])
def test_the_number_of_retries_is_the_users(tmp_path: Path, retries: int, state: str, starts: int) -> None:
    folder = made(tmp_path / "s", *GAME)
    (cell,) = folder.cells
    script = Script({cell.name: "killed crash fine"})
    _, records, _ = run(folder, script, retries)
    assert (records[cell.name].state, script.begun.count(cell.name)) == (state, starts)


def test_going_on_skips_what_is_finished_and_tries_what_failed(tmp_path: Path) -> None:
    folder = made(tmp_path / "s")
    names = [cell.name for cell in folder.cells]
    run(folder, Script({names[1]: "mistake", names[2]: "crash crash"}))
    (folder.run(names[3]) / "config.json").unlink()  # the user removed a run
    script = Script({})
    whole, records, _ = run(SweepFolder.open(folder.path), script)
    assert whole and script.begun == names[1:]
    assert {record.state for record in records.values()} == {"finished"}
    assert [records[name].attempts for name in names] == [1, 2, 3, 2]
    script = Script({})
    assert run(folder, script)[0] and script.begun == []


def test_ctrl_c_stops_gently_and_starts_nothing_more(tmp_path: Path) -> None:
    folder = made(tmp_path / "s")
    names = [cell.name for cell in folder.cells]
    script = Script({names[0]: "interrupt", names[1]: "endless"})
    before = signal.getsignal(signal.SIGINT)
    whole, records, said = run(folder, script)
    assert not whole and script.stops == [False] and script.begun == names[:2]
    assert [records[name].state for name in names] == ["finished", "stopped", "waiting", "waiting"]
    assert "Ctrl-C again" in said
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    "script, code, parts",
    [
        ({}, 0, ["4 finished"]),
        ({0: "mistake"}, 1, ["1 failed", "Bad input.", "--resume S"]),
        ({0: "interrupt", 1: "endless"}, 130, ["--resume S", "1 stopped"]),
    ],
)
def test_the_exit_code_and_the_last_words_say_how_it_went(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: Mapping[int, str],
    code: int,
    parts: Sequence[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [cell.name for cell in made(tmp_path / "other").cells]
    launcher = Script({names[i]: words for i, words in script.items()})
    monkeypatch.setattr(command, "_launcher", lambda *_: launcher)
    assert command.run([*FOUR, "sweep.folder=S"], command.Options()) == code
    out = capsys.readouterr().out
    assert all(part in out for part in parts), out
    assert {path.name for path in (tmp_path / "S").iterdir()} == {
        ".lock", "sweep.json", "cells", "results.md", "results.csv", "cells.csv", "marl_eval.json",
    }  # fmt: skip


def test_two_commands_do_not_work_on_one_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "S")
    monkeypatch.setattr(command, "_launcher", lambda *_: Script({}))
    with folder.locked(), pytest.raises(UserError, match="Another command works on"):
        command.run(FOUR, command.Options(out=tmp_path / "S"))
    with folder.locked(), pytest.raises(UserError, match="Another command works on"):
        command.run((), command.Options(), resume=tmp_path / "S")


def test_a_launcher_that_cannot_work_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Script, folder: SweepFolder) -> str:
        raise UserError("No node sees it.")

    monkeypatch.setattr(command, "_launcher", lambda *_: Script({}))
    monkeypatch.setattr(Script, "open", refuse)
    with pytest.raises(UserError, match="No node"):
        command.run(FOUR, command.Options(out=tmp_path / "S"))
    assert not (tmp_path / "S").exists()
    made(tmp_path / "S")
    with pytest.raises(UserError, match="No node"):
        command.run(FOUR, command.Options(out=tmp_path / "S"))
    assert SweepFolder.open(tmp_path / "S").cells


def test_a_cell_writes_down_how_it_ended(tmp_path: Path) -> None:
    folder = made(tmp_path / "s", *GAME, "seeds=2")
    (cell,) = folder.cells

    def last(train: Any) -> tuple[int, Record]:
        return process.work(folder, cell, train), folder.record(cell.name)

    code, first = last(lambda folder, cell: outcome(cell, finished=False))
    assert (code, first.state, first.attempts, first.frame, first.document) == (4, "stopped", 1, 320, {})
    code, second = last(lambda *_: fail("crash"))
    assert (code, second.state, second.sentence) == (1, "crashed", "RuntimeError: no luck")
    code, third = last(lambda *_: fail("mistake"))
    assert (code, third.state, third.sentence) == (2, "failed", "Bad input.")
    code, fourth = last(lambda folder, cell: outcome(cell, failed=(1,)))
    assert (code, fourth.state, fourth.attempts, fourth.sentence) == (0, "finished", 4, "")
    assert fourth.failed_seeds == (1,) and fourth.seconds >= third.seconds >= first.seconds > 0
    runs = fourth.document["games"]["specialisation"]["ippo_hyper_mlp"]
    assert runs["seed_1"]["absolute_metrics"] == outcome(cell).episodes[1].metrics()


def test_a_cell_goes_on_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And begins anew where a kill left half a folder."""
    calls: list[str] = []

    class Recorder:
        def __init__(self, config: Any) -> None:
            calls.append(f"{config.train.folder}/{config.train.run}")

        @classmethod
        def resume(cls, path: Path) -> Recorder:
            calls.append(f"resume {path}")
            return cls.__new__(cls)

        def run(self) -> None: ...

    monkeypatch.setattr("hypermarl.marl.train.Experiment", Recorder)
    folder = made(tmp_path / "s", *GAME)
    (cell,) = folder.cells
    path = folder.run(cell.name)
    process.train(folder, cell)
    path.mkdir()
    (path / ".unfinished-config.json").touch()
    process.train(folder, cell)
    assert not path.exists()
    path.mkdir()
    (path / "config.json").touch()
    process.train(folder, cell)
    assert calls == [str(path), str(path), f"resume {path}"] and (path / "config.json").exists()


def test_numbers_that_are_not_finite_are_a_failure_not_a_result(tmp_path: Path) -> None:
    folder = made(tmp_path / "s", *GAME)
    (cell,) = folder.cells

    def infinite(folder: SweepFolder, cell: Cell) -> Result:
        found = outcome(cell)
        found.episodes[0].returns[0, 0] = np.inf
        return found

    assert process.work(folder, cell, infinite) == process.MISTAKE
    found = folder.record(cell.name)
    assert (found.state, found.document) == ("failed", {}) and "not finite" in found.sentence


def test_the_time_of_a_killed_process_is_counted_up_to_its_last_row(tmp_path: Path) -> None:
    folder = made(tmp_path / "s", *GAME)
    (cell,) = folder.cells
    began = time.time() - 1000
    folder.write_record(cell.name, Record("running", attempts=1, began=began, seconds=5.0))
    folder.run(cell.name).mkdir()
    (folder.run(cell.name) / "metrics.csv").touch()
    os.utime(folder.run(cell.name) / "metrics.csv", (began + 60, began + 60))
    assert folder.bury(cell.name, "crashed").seconds == pytest.approx(65, abs=0.1)
    assert folder.bury(cell.name, "crashed").seconds == pytest.approx(65, abs=0.1)
