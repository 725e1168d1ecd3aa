"""What is shown of a running run, with a clock of our own instead of time."""

from __future__ import annotations

import io
import math
import threading

import pytest
from rich.console import Console

from hypermarl.monitoring.progress import Clock, Progress, duration, short


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def quiet() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=False, width=80), file


def terminal(width: int = 80) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=True, width=width, color_system=None, legacy_windows=False), file


# Clock


def test_a_clock_adds_up_by_name() -> None:
    hands = Hands()
    clock = Clock(now=hands)
    for seconds in (1.0, 2.0):
        with clock("environment"):
            hands.time += seconds
    with clock("update"):
        hands.time += 5.0
    hands.time += 2.0
    assert clock.seconds == {"environment": 3.0, "update": 5.0}
    assert clock.shares() == {"environment": 0.3, "update": 0.5}


def test_time_inside_another_block_counts_once() -> None:
    hands = Hands()
    clock = Clock(now=hands)
    with clock("update"):
        hands.time += 1.0
        with clock("generation"):
            hands.time += 2.0
            with clock("update"):
                hands.time += 0.5
        hands.time += 4.0
    assert clock.seconds == {"update": 5.5, "generation": 2.0}


def test_a_block_that_raises_is_counted_and_left() -> None:
    hands = Hands()
    clock = Clock(now=hands)

    def fail() -> None:
        with clock("update"):
            hands.time += 1.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    hands.time += 1.0
    with clock("environment"):
        hands.time += 1.0
    assert clock.seconds == {"update": 1.0, "environment": 1.0}


def test_a_restarted_clock_begins_anew() -> None:
    hands = Hands()
    clock = Clock(now=hands)
    timer = clock("update")
    with timer:
        hands.time += 3.0
    clock.restart()
    assert clock.shares() == {"update": 0.0}
    with timer:
        hands.time += 1.0
    hands.time += 3.0
    assert clock.shares() == {"update": 0.25}


def test_queued_work_is_waited_for() -> None:
    hands = Hands()
    queued = [0.0]

    def synchronise() -> None:
        hands.time += queued[0]
        queued[0] = 0.0

    clock = Clock(synchronise, now=hands)
    with clock("update"):
        queued[0] = 2.0
    with clock("environment"):
        hands.time += 1.0
    assert clock.seconds == {"update": 2.0, "environment": 1.0}


# Progress


def test_without_a_terminal_a_line_is_printed_now_and_then() -> None:
    hands = Hands()
    console, file = quiet()
    with Progress(1000, seeds=2, interval=10.0, console=console, now=hands) as progress:
        for frame in range(100, 1001, 100):
            hands.time += 4.0
            progress.update(frame, returns=[-1.0, 0.5], shares={"environment": 0.25, "update": 0.7})
    lines = file.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["30%", "60%", "90%", "100%"]
    # 100 frames of two seeds in 4 seconds; 700 frames of each are left.
    assert lines[0] == (
        "training 30%  300/1k frames  50/s  0:28 left  return -0.25 [-1, 0.5]  environment 25%  update 70%"
    )


def test_the_last_line_is_not_printed_twice() -> None:
    hands = Hands()
    console, file = quiet()
    with Progress(10, interval=1.0, console=console, now=hands) as progress:
        hands.time += 2.0
        progress.update(10, returns=1.0)
    assert file.getvalue().splitlines() == ["training 100%  10/10 frames  5/s  0:00 left  return 1"]


def test_a_resumed_run_is_timed_from_where_it_begins() -> None:
    hands = Hands()
    console, _ = quiet()
    with Progress(1000, start=900, console=console, now=hands) as progress:
        assert math.isnan(progress.speed)
        hands.time += 2.0
        progress.update(920)
        assert progress.speed == 10.0


def test_speed_is_that_of_the_last_half_minute() -> None:
    hands = Hands()
    console, _ = quiet()
    with Progress(10_000, console=console, now=hands) as progress:
        for second in range(1, 201):
            hands.time += 1.0
            progress.update(second if second <= 100 else 100 + 10 * (second - 100))
        assert progress.speed == pytest.approx(10.0)


def test_nothing_is_printed_when_not_shown() -> None:
    for console, file in (quiet(), terminal()):
        with Progress(10, shown=False, interval=0.0, console=console) as progress:
            progress.update(5)
            progress.message("hello")
        assert file.getvalue() == ""


def test_a_terminal_gets_a_bar_that_fits_and_no_thread() -> None:
    for width in (60, 100, 140):
        hands = Hands()
        console, file = terminal(width)
        before = threading.active_count()
        with Progress(2_000_000, console=console, now=hands) as progress:
            hands.time += 10.0
            progress.update(500_000, returns=-0.5, shares={"environment": 0.3, "generation": 0.05, "update": 0.6})
            assert threading.active_count() == before
            assert "25%" in file.getvalue()
            progress.message("[checkpoint] written")
        shown = file.getvalue()
        for part in ("25%", "500k/2M frames", "50k/s", "0:30 left", "return -0.5", "environment 30%"):
            assert part in shown
        assert "[checkpoint] written" in shown


def test_the_terminal_is_given_back_when_a_run_is_interrupted() -> None:
    console, file = terminal()
    with pytest.raises(KeyboardInterrupt), Progress(10, console=console):
        raise KeyboardInterrupt
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert file.getvalue().rindex(shown) > file.getvalue().rindex(hidden)


def test_missing_returns_and_more_frames_than_planned() -> None:
    hands = Hands()
    console, file = quiet()
    with Progress(100, interval=0.0, console=console, now=hands) as progress:
        hands.time += 1.0
        progress.update(128, returns=[math.nan, math.nan])
    assert file.getvalue().splitlines() == ["training 100%  128/100 frames  128/s  0:00 left  return -"]


def test_numbers_and_durations_are_short() -> None:
    numbers = [0, 12.34, 950, 1000, 12_345, 4_500_000, 2e9, -1500, math.nan]
    assert [short(number) for number in numbers] == ["0", "12.3", "950", "1k", "12.3k", "4.5M", "2G", "-1.5k", "-"]
    assert [duration(seconds) for seconds in (0, 5.4, 65, 3600, 36_061, math.inf)] == [
        "0:00",
        "0:05",
        "1:05",
        "1:00:00",
        "10:01:01",
        "-",
    ]
