"""The table of metrics: whole at every moment."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from full_disk import fast_disk, limited_files
from hypothesis import given, settings
from hypothesis import strategies as st

from hypermarl.errors import UserError
from hypermarl.monitoring.table import Table


@pytest.fixture(autouse=True, scope="module")
def _fast() -> Iterator[None]:
    with fast_disk():
        yield


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file, strict=True)]


def write(path: Path, *frames: int) -> Table:
    table = Table(path)
    for frame in frames:
        table.add(frame, {"x": frame / 4})
    return table


def test_a_row_is_on_disk_when_it_is_added(tmp_path: Path) -> None:
    write(tmp_path / "m.csv", 0, 10)
    assert (tmp_path / "m.csv").read_text() == "frame,x\n0,0.0\n10,2.5\n"


def test_columns_are_added_as_they_appear(tmp_path: Path) -> None:
    table = write(tmp_path / "m.csv", 0, 10)
    table.add(20, {"y, z": 3, "x": 1.0})
    table.add(30, {"y, z": math.nan})
    assert (tmp_path / "m.csv").read_text() == 'frame,x,"y, z"\n0,0.0,\n10,2.5,\n20,1.0,3\n30,,nan\n'


def test_one_frame_is_one_row(tmp_path: Path) -> None:
    table = write(tmp_path / "m.csv", 0)
    table.add(10, {"x": 123456.5, "y": 1.0})
    table.add(10, {"x": 2.0})  # shorter than what it replaces
    table.add(10, {"z": 3.0})  # with a new column
    table.add(20, {"x": 4.0})
    assert rows(tmp_path / "m.csv") == [
        {"frame": "0", "x": "0.0"},
        {"frame": "10", "x": "2.0", "y": "1.0", "z": "3.0"},
        {"frame": "20", "x": "4.0"},
    ]


def test_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    values = {"third": 1 / 3, "tiny": 5e-324, "large": -1.7e308, "inf": -math.inf, "count": 2**60}
    Table(tmp_path / "m.csv").add(0, values)
    (row,) = rows(tmp_path / "m.csv")
    assert {name: float(row[name]) for name in values} == values
    assert row["count"] == str(2**60)


def test_a_resumed_table_keeps_rows_up_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    write(path, 0, 10, 20, 30).close()
    table = Table(path, keep_until=20)
    assert [row["frame"] for row in rows(path)] == ["0", "10", "20"]
    table.add(20, {"y": 1.0})  # still the same row
    table.add(30, {"x": -1.0})
    assert rows(path)[2:] == [{"frame": "20", "x": "5.0", "y": "1.0"}, {"frame": "30", "x": "-1.0"}]


def test_a_table_is_continued_without_losing_rows(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    write(path, 0, 10).close()
    Table(path).add(20, {"x": 1.0})
    assert [row["frame"] for row in rows(path)] == ["0", "10", "20"]


def test_everything_after_the_checkpoint_may_go(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    write(path, 5, 10).close()
    table = Table(path, keep_until=0)
    assert path.read_text() == "frame,x\n"
    table.add(5, {"x": 1.0})
    assert rows(path) == [{"frame": "5", "x": "1.0"}]


@pytest.mark.parametrize("tail", ["20,7", "20", "20,nonsense\n", "20,1.0,5\n", "\x00\x00\x00\n", ",3.0\n"])
def test_damaged_rows_are_dropped(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "m.csv"
    write(path, 0, 10).close()
    with path.open("a") as file:
        file.write(tail)
    Table(path).add(30, {"x": 1.0})
    assert [row["frame"] for row in rows(path)] == ["0", "10", "30"]


@pytest.mark.parametrize("content", ["", "name,age\nx,1\n", "\xff\xfe"])
def test_another_table_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"m\.csv"):
        Table(path)
    assert path.read_text(encoding="latin-1") == content


@pytest.mark.parametrize("values", [{"x": 1e300}, {"new": 1.0}], ids=["row", "column"])
def test_a_full_disk_leaves_the_table_as_it_was(tmp_path: Path, values: dict[str, float]) -> None:
    path = tmp_path / "m.csv"
    table = write(path, 0, 10)
    before = path.read_text()
    for frame in (10, 20):
        with limited_files(len(before) + 1), pytest.raises(OSError, match="large"):
            table.add(frame, values)
        assert path.read_text() == before
    assert [found.name for found in tmp_path.iterdir()] == ["m.csv"]
    table.add(20, values)
    assert [row["frame"] for row in rows(path)] == ["0", "10", "20"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.dictionaries(st.sampled_from("abcd"), st.floats(allow_nan=False), min_size=1),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_any_history_makes_the_table_a_dictionary_would(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[int, dict[str, float], bool]]
) -> None:
    path = tmp_path_factory.mktemp("table") / "m.csv"
    table, frame, expected = Table(path), 0, {}
    for step, values, reopen in history:
        frame += step
        expected[frame] = expected.get(frame, {}) | values
        if reopen:
            table.close()
            table = Table(path)
        table.add(frame, values)
    found = rows(path) if path.exists() else []
    assert {int(float(row.pop("frame"))): {k: float(v) for k, v in row.items()} for row in found} == expected
    table.close()
