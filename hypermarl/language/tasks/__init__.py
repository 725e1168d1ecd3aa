"""The tasks there are, by name; a module is imported when its task is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from hypermarl.errors import UserError
from hypermarl.language.task import Task
from hypermarl.typed import arguments

# name -> the module whose function `make(**options)` returns the task
TASKS: dict[str, str] = {
    "roles": ".roles",
    "conditional": ".conditional",
    "documents": ".documents",
}


def make_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """The task called `name`; its options are the arguments of its `make`."""
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.0)
        raise UserError(f"There is no task {name!r}; did you mean {close[0]!r}?")
    make = import_module(TASKS[name], __name__).make
    task: Task = make(**arguments(make, options or {}, "task.options"))
    return task
