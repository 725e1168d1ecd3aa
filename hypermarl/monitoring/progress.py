"""What a person watching a run sees: how far it is, how fast, where the time goes, and the return."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

SPEED_WINDOW = 30.0
"""Seconds over which frames per second are averaged."""
SHORTEST_REFRESH = 0.1
"""Seconds between two drawings of the bar, at least."""


class Clock:
    """Adds up seconds by name: `with clock("environment"): ...`.

    Inside another name's block the outer one stands still, so that shares never exceed the whole. On an accelerator,
    `synchronise` (such as `torch.cuda.synchronize`) waits for queued work before each reading; without it the time of
    queued work counts for whatever block waits for it.
    """

    def __init__(
        self, synchronise: Callable[[], object] | None = None, *, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self.seconds: dict[str, float] = {}
        self._timers: dict[str, _Timer] = {}
        self._running: list[str] = []
        self._now = now if synchronise is None else _after(synchronise, now)
        self._mark = self._begin = self._now()

    def __call__(self, name: str) -> _Timer:
        timer = self._timers.get(name)
        if timer is None:
            timer = self._timers[name] = _Timer(self, name)
            self.seconds[name] = 0.0
        return timer

    def shares(self) -> dict[str, float]:
        """Share of the time since the last `restart` that went to each name; the rest went to none."""
        total = self._now() - self._begin
        return {name: seconds / total if total > 0 else 0.0 for name, seconds in self.seconds.items()}

    def restart(self) -> None:
        """Begin to count anew; call it outside of all blocks."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        self._begin = self._now()


class _Timer:
    """The blocks of one name of one clock."""

    __slots__ = ("_clock", "_name")

    def __init__(self, clock: Clock, name: str) -> None:
        self._clock = clock
        self._name = name

    def __enter__(self) -> None:
        clock = self._clock
        now = clock._now()
        if clock._running:
            clock.seconds[clock._running[-1]] += now - clock._mark
        clock._running.append(self._name)
        clock._mark = now

    def __exit__(self, *_: object) -> None:
        clock = self._clock
        now = clock._now()
        clock.seconds[clock._running.pop()] += now - clock._mark
        clock._mark = now


def _after(synchronise: Callable[[], object], now: Callable[[], float]) -> Callable[[], float]:
    def read() -> float:
        synchronise()
        return now()

    return read


class Progress:
    """Shows a run of `frames` frames per seed: a bar in a terminal, elsewhere a line every `interval` seconds.

    A context manager; the terminal is as before when it ends, however it ends. `start` is the frame a resumed run
    begins at; `shown=False` prints nothing. Speed counts the frames of all `seeds`. Goes to the standard error stream.
    It is drawn by `update`, without a thread, which a process that forks environment workers could not have.
    """

    def __init__(
        self,
        frames: int,
        *,
        seeds: int = 1,
        start: int = 0,
        title: str = "training",
        unit: str = "frames",
        shown: bool = True,
        interval: float = 30.0,
        console: Console | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.frames = frames
        self.seeds = seeds
        self.frame = start
        self._title = title
        self._unit = unit
        self._interval = interval
        self._now = now
        self._console = console or Console(file=sys.stderr)
        self._shown = shown
        self._moments: deque[tuple[float, int]] = deque()
        self._last_drawn = -math.inf
        self._last_printed = -1
        self._detail = ""
        self._live: Live | None = None
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
            expand=True,
        )
        self._task = self._bar.add_task(title, total=frames, completed=start, numbers="")

    def __enter__(self) -> Progress:
        self._moments.append((self._now(), self.frame))
        self._last_drawn = self._now()
        if self._shown and self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                auto_refresh=False,
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._shown and self._last_printed != self.frame:
            self._print_line()

    def update(
        self,
        frame: int,
        *,
        returns: float | Sequence[float] | None = None,
        shares: Mapping[str, float] | None = None,
        detail: str = "",
    ) -> None:
        """Say that `frame` is reached; `returns` of the team, one per seed, `shares` of time as of `Clock`, or what
        else there is to tell, in words."""
        now = self._now()
        self.frame = frame
        self._moments.append((now, frame))
        while len(self._moments) > 2 and self._moments[1][0] < now - SPEED_WINDOW:
            self._moments.popleft()
        parts = [f"{name} {share:.0%}" for name, share in (shares or {}).items()]
        told = [] if returns is None else [_return(returns)]
        self._detail = "  ".join([*told, *([detail] if detail else []), *parts])
        self._bar.update(self._task, completed=frame, numbers=self._numbers())
        if self._live is not None and now - self._last_drawn >= SHORTEST_REFRESH:
            self._last_drawn = now
            self._live.refresh()
        elif self._live is None and self._shown and now - self._last_drawn >= self._interval:
            self._last_drawn = now
            self._print_line()

    @property
    def speed(self) -> float:
        """Frames per second of all seeds together, over the last half minute; NaN before the second update."""
        (begin, first), (end, last) = (self._moments[0], self._moments[-1]) if self._moments else ((0.0, 0), (0.0, 0))
        return (last - first) * self.seeds / (end - begin) if end > begin else math.nan

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        if self._shown:
            self._console.print(text, markup=False, highlight=False)

    def _numbers(self) -> str:
        return f"{short(self.frame)}/{short(self.frames)} {self._unit}  {short(self.speed)}/s  {self._left()}"

    def _left(self) -> str:
        seconds = max(0, self.frames - self.frame) * self.seeds / self.speed if self.speed > 0 else math.nan
        return f"{duration(seconds)} left"

    def _render(self) -> Group:
        return Group(self._bar.get_renderable(), Text(self._detail, no_wrap=True, overflow="ellipsis"))

    def _print_line(self) -> None:
        self._last_printed = self.frame
        share = min(1.0, self.frame / self.frames)
        line = f"{self._title} {share:.0%}  {self._numbers()}"
        self._console.print(f"{line}  {self._detail}".rstrip(), markup=False, highlight=False, soft_wrap=True)


def _return(returns: float | Sequence[float]) -> str:
    """`return 1.2`, or of several seeds their mean and range."""
    values = [returns] if isinstance(returns, (int, float)) else [float(value) for value in returns]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "return -"
    mean = f"return {sum(finite) / len(finite):.4g}"
    return mean if len(values) == 1 else f"{mean} [{min(finite):.4g}, {max(finite):.4g}]"


def short(number: float) -> str:
    """`950`, `12.3k`, `4.5M`; `-` where there is none."""
    if not math.isfinite(number):
        return "-"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """`1:05`, `2:03:04`; `-` where it is not known."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
