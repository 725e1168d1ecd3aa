"""Judge any player: episodes on any environment, robust statistics, tables, and marl-eval's JSON."""

from __future__ import annotations

from hypermarl.evaluation.metrics import Episodes, Measurement, document, merge, read_json, write_json
from hypermarl.evaluation.pettingzoo import Player
from hypermarl.evaluation.statistics import Interval, interval, iqm, performance_profile, probability_of_improvement

__all__ = [
    "Episodes",
    "Interval",
    "Measurement",
    "Player",
    "document",
    "interval",
    "iqm",
    "merge",
    "performance_profile",
    "probability_of_improvement",
    "read_json",
    "write_json",
]
