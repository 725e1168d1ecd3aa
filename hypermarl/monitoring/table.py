"""A CSV file of numbers that is whole at every moment, whatever kills the run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from hypermarl.errors import UserError
from hypermarl.monitoring.events import write_all
from hypermarl.runs import write_atomically


class Table:
    """A row per frame, in the order of frames; columns are added as they appear.

    What the file holds already is kept, up to frame `keep_until` where that is given; damaged rows, such as a last one
    that was not finished, are dropped. Raises `OSError`, and `UserError` where the file is another kind of table.
    """

    def __init__(self, path: Path, *, keep_until: int | None = None) -> None:
        self.path = path
        self.columns = ["frame"]
        self._row: dict[str, float] = {}
        self._row_start = 0
        self._file: io.FileIO | None = None
        if path.exists():
            self._continue(math.inf if keep_until is None else keep_until)

    def add(self, frame: int, values: Mapping[str, float]) -> None:
        """Add to the row of `frame` if it is the last, else add a row; on `OSError` the file stays as it was."""
        same = self._row.get("frame") == frame
        row = {**(self._row if same else {}), **values, "frame": frame}
        new = [name for name in row if name not in self.columns]
        columns = self.columns + new
        line = _line([_cell(row.get(name)) for name in columns])
        start = self._row_start if same else self._end()
        if new or self._file is None:
            start = self._widen(columns, len(new), start, line)
        else:
            write_all(self._file, line, start)
        self.columns, self._row, self._row_start = columns, row, start

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _continue(self, keep_until: float) -> None:
        content = self.path.read_bytes()
        header, *lines = content[: content.rfind(b"\n") + 1].decode(errors="replace").splitlines() or [""]
        self.columns = next(csv.reader([header]), [])
        if self.columns[:1] != ["frame"]:
            raise UserError(f"{self.path} is not a table of metrics: its first column should be 'frame'.")
        rows = [(line, self._parse(line)) for line in lines]
        kept = [(line, row) for line, row in rows if row and row["frame"] <= keep_until]
        start = _join([header, *(line for line, _ in kept[:-1])])
        whole = start + _join([line for line, _ in kept[-1:]])
        if whole != content:
            write_atomically(self.path, whole)
        if kept:
            self._row, self._row_start = kept[-1][1] or {}, len(start)
        self._open()

    def _parse(self, line: str) -> dict[str, float] | None:
        """A row by column; None where it is damaged."""
        try:
            row = {name: float(cell) for name, cell in zip(self.columns, line.split(","), strict=True) if cell}
        except ValueError:
            return None
        return row if "frame" in row else None

    def _widen(self, columns: list[str], added: int, start: int, line: bytes) -> int:
        """Rewrite the file with new columns, empty so far, and `line` in place of what begins at `start`."""
        rows = self.path.read_bytes()[:start].decode().splitlines()[1:] if self._file else []
        before = _line(columns) + _join([row + "," * added for row in rows])
        write_atomically(self.path, before + line)
        self.close()
        self._open()
        return len(before)

    def _open(self) -> None:
        self._file = self.path.open("r+b", buffering=0)

    def _end(self) -> int:
        return self._file.seek(0, io.SEEK_END) if self._file else 0


def _join(lines: Sequence[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)
