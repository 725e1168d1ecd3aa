"""What a sweep shows: its tables against an independent computation, and the lines while it runs."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import trim_mean
from sweeps import GAME, done, made, outcome

from hypermarl.evaluation.metrics import absolute_scores, read_json
from hypermarl.evaluation.statistics import interval, iqm
from hypermarl.sweep import conduct, display, grid, results
from hypermarl.sweep.folder import Record


def test_the_tables_say_what_an_independent_computation_says(tmp_path: Path) -> None:
    folder = made(tmp_path / "s", *GAME, "sharing=hyper_mlp,shared_id", "env.options.n_agents=2,3", "seed=range(0,9)")
    for cell in folder.cells:
        done(folder, cell)
    records = conduct.settle(folder)
    results.write(folder, records)
    lines = list(csv.DictReader((folder.path / "results.csv").open()))
    methods = [(n, sharing) for sharing in ("hyper_mlp", "shared_id") for n in (2, 3)]
    assert [(line["task"], line["method"]) for line in lines] == [
        (f"games/specialisation n_agents={n}", f"ippo_{sharing}") for n, sharing in methods
    ]
    document = read_json(folder.path / "marl_eval.json")
    for line in lines:
        own = [
            cell
            for cell in folder.cells
            if line["method"].endswith(cell.config.sharing.name)
            and line["task"].endswith(str(cell.config.env.options["n_agents"]))
        ]
        assert len(own) == int(line["seeds"]) == int(line["finished"]) == 9
        for metric in results.METRICS:
            means = [np.mean(outcome(cell).episodes[0].metrics()[metric]) for cell in own]
            assert float(line[f"{metric}_iqm"]) == pytest.approx(trim_mean(means, 0.25), rel=1e-12)
            bounds = interval(iqm, means)
            assert float(line[f"{metric}_low"]) == pytest.approx(bounds.low, rel=1e-12)
            assert float(line[f"{metric}_high"]) == pytest.approx(bounds.high, rel=1e-12)
            assert float(line[f"{metric}_std"]) == pytest.approx(np.std(means), rel=1e-12)
        merged = absolute_scores(document, "games")[line["method"]]
        column = sorted(document["games"]).index(line["task"].removeprefix("games/"))
        assert merged[:, column] == pytest.approx([np.mean(outcome(cell).episodes[0].team) for cell in own])
    markdown = (folder.path / "results.md").read_text()
    point, low, high = (float(lines[1][f"return_{name}"]) for name in ("iqm", "low", "high"))
    assert f"| games/specialisation n_agents=3 | ippo_hyper_mlp | 9 | {point:.3g} [{low:.3g}, {high:.3g}] |" in markdown
    speed = 9 * 320 / sum(records[cell.name].seconds for cell in folder.cells[:9])
    assert float(lines[0]["frames_per_second"]) == pytest.approx(speed, rel=0.01)


def test_seeds_of_one_process_count_one_by_one_and_what_is_missing_is_said(tmp_path: Path) -> None:
    folder = made(tmp_path / "s", *GAME, "seeds=3", "seed=0,3", "sharing=hyper_mlp,shared_id")
    done(folder, folder.cells[0])
    results.write(folder, conduct.settle(folder))
    first, second = csv.DictReader((folder.path / "results.csv").open())
    assert (first["seeds"], first["finished"], second["finished"]) == ("6", "3", "0")
    means = [np.mean(played.team) for played in outcome(folder.cells[0]).episodes]
    assert float(first["return_iqm"]) == pytest.approx(np.mean(means)) and second["return_iqm"] == ""
    cells = list(csv.DictReader((folder.path / "cells.csv").open()))
    assert [(line["cell"] == folder.cells[0].name, line["seed"], bool(line["return"])) for line in cells[:4]] == [
        (True, "0", True), (True, "1", True), (True, "2", True), (False, "0", False),
    ]  # fmt: skip
    assert "| 3 of 6 |" in (folder.path / "results.md").read_text()


def test_a_value_that_was_the_default_before_it_was_varied_has_its_name(tmp_path: Path) -> None:
    folder = made(tmp_path / "s", *GAME, "seed=0")
    order = grid.read([*GAME, "algorithm.lr=1e-3,2e-3", "seed=0"])
    folder.add(order.grid, grid.plans(order.grid))
    results.write(folder, conduct.settle(folder))
    assert [line["algorithm.lr"] for line in csv.DictReader((folder.path / "cells.csv").open())] == ["0.001", "0.002"]
    methods = {score.method for score in results.scores(folder, conduct.settle(folder))}
    assert methods == {"ippo_hyper_mlp lr=0.001", "ippo_hyper_mlp lr=0.002"}


def test_the_newest_numbers_of_a_run_are_read_whatever_state_its_file_is_in(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    assert display.last_row(tmp_path, [0]) == {}
    file.write_text("frame,return/team,time/fps\n")
    assert display.last_row(tmp_path, [0]) == {}
    file.write_text("frame,return/team,time/fps\n10,1.5,100.0\n20,,90.0\n")
    assert display.last_row(tmp_path, [0]) == {"frame": 20.0, "time/fps": 90.0}
    file.write_text("frame,return/team,time/fps\n10,1.5,100.0\n20,2")
    assert display.last_row(tmp_path, [0]) == {}
    (tmp_path / "seed_4").mkdir()
    file.rename(tmp_path / "seed_4/metrics.csv")
    (tmp_path / "seed_4/metrics.csv").write_text("frame,x\n" + "".join(f"{i},{i}\n" for i in range(20_000)))
    assert display.last_row(tmp_path, [4, 5]) == {"frame": 19_999.0, "x": 19_999.0}


def test_a_terminal_shows_what_runs(tmp_path: Path) -> None:
    folder = made(tmp_path / "s")
    cell = folder.cells[0]
    folder.run(cell.name).mkdir()
    (folder.run(cell.name) / "metrics.csv").write_text("frame,return/team,time/fps\n160,1.5,1234.0\n")
    said = io.StringIO()
    shown = display.Display(folder, conduct.settle(folder), Console(file=said, force_terminal=True, width=100))
    with shown:
        record = Record("running", attempts=2, began=time.time() - 65)
        shown.changed(cell, record)
        shown.tick({cell.name: record})
    for part in (cell.name, "160/320", "50%", "1.23k", "1.5", "1:05", "1 running", "3 waiting"):
        assert part in said.getvalue(), part


def test_records_that_cannot_be_read_count_as_none(tmp_path: Path) -> None:
    folder = made(tmp_path / "s", *GAME)
    (cell,) = folder.cells
    done(folder, cell)
    file = folder.runs / f"{cell.name}.json"
    good = json.loads(file.read_text())
    assert folder.record(cell.name).state == "finished"
    for bad in ([], {**good, "format": 9}, {**good, "state": "odd"}, {"format": 1}, None):
        file.write_text("" if bad is None else json.dumps(bad))
        assert folder.record(cell.name) == Record()
