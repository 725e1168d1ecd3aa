"""Run folders: what training leaves on disk, written so that a kill or a full disk never costs the last good state.

    run/config.json                               format, versions, resolved settings, groups of agents
    run/checkpoints/<frame, 12 digits>/           {policy,optimizer,state}.safetensors  meta.json
    run/seed_<k>/                                 a run folder of its own for each seed of `seeds=K`

Tensors are safetensors, everything else is JSON; nothing is unpickled. A checkpoint is written beside its final place,
flushed to the disk and renamed, and its `meta.json` holds the SHA-256 of every file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from hypermarl.errors import UserError

FORMAT = 1
PARTS = ("policy", "optimizer", "state")
_CONFIG = "config.json"
_META = "meta.json"
_FRAME = re.compile(r"\d{12,}")
_UNFINISHED = ".unfinished-"
_PACKAGES = ("torch", "torchrl", "tensordict", "numpy", "safetensors", "vmas", "pettingzoo", "mpe2", "gymnasium")


@dataclass(frozen=True)
class Checkpoint:
    """One saved moment of a run; `frame` counts environment steps per seed."""

    frame: int
    iteration: int
    path: Path


class RunFolder:
    """One run on disk; make it with `create` or `open`."""

    def __init__(self, path: Path, config: dict[str, Any], groups: dict[str, Any], versions: dict[str, str]) -> None:
        self.path = path
        self.config = config
        self.groups = groups
        self.versions = versions

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any], groups: Mapping[str, Any]) -> RunFolder:
        """A new run at `path`, which must be absent or empty; `config` and `groups` must be plain JSON values."""
        path = Path(path)
        versions = _versions()
        content = {
            "format": FORMAT,
            "hypermarl": versions.get("hypermarl", "unknown"),
            "versions": versions,
            "config": dict(config),
            "groups": dict(groups),
        }
        text = json.dumps(content, indent=2)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} already exists and is not empty; choose another train.run or train.folder.")
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_atomically(path / _CONFIG, text.encode())
        except OSError as error:
            raise UserError(f"The run folder {path} cannot be written: {_reason(error)}.") from error
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """The run at `path`; a UserError says what is wrong with a folder that is not a readable run of ours."""
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"There is no run folder {path}.")
        content = _read_json(path / _CONFIG, f"{path} is not a HyperMARL run: it has no {_CONFIG}.")
        _check_format(content, path / _CONFIG)
        config, groups, versions = (content.get(key) for key in ("config", "groups", "versions"))
        if not isinstance(config, dict) or not isinstance(groups, dict) or not isinstance(versions, dict):
            raise UserError(f"{path / _CONFIG} was not written by HyperMARL, or is damaged.")
        return cls(path, config, groups, versions)

    # -------------------------------------------------------------------------------------------- writing

    def save(
        self,
        frame: int,
        iteration: int,
        *,
        policy: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor] | None = None,
        state: Mapping[str, Tensor] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Write a checkpoint whole or not at all; `meta` takes plain JSON values.

        A full disk is a UserError, and what was saved before stays. An intact checkpoint of the same frame is kept as
        it is: it is the same moment of the same run.
        """
        final = self._checkpoints / f"{frame:012d}"
        try:
            if final.exists() and self._is_intact(final):
                return Checkpoint(frame, int(_read_meta(final)["iteration"]), final)
            self._checkpoints.mkdir(parents=True, exist_ok=True)
            self._sweep()
            unfinished = self._checkpoints / f"{_UNFINISHED}{frame:012d}"
            try:
                self._write(unfinished, frame, iteration, (policy, optimizer, state), meta or {})
                if final.exists():  # damaged, as was seen above
                    shutil.rmtree(final)
                os.replace(unfinished, final)
                _flush_folder(self._checkpoints)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
        except OSError as error:
            raise UserError(
                f"The checkpoint {final} cannot be written: {_reason(error)}; what was saved before stays."
            ) from error
        return Checkpoint(frame, iteration, final)

    def _write(
        self,
        folder: Path,
        frame: int,
        iteration: int,
        parts: Sequence[Mapping[str, Tensor] | None],
        meta: Mapping[str, Any],
    ) -> None:
        folder.mkdir()
        sha: dict[str, str] = {}
        sizes: dict[str, int] = {}
        for part, tensors in zip(PARTS, parts, strict=True):
            if tensors is None:
                continue
            # copied, because safetensors refuses tensors that share memory, as views of one parameter do
            content = safetensors.torch.save(
                {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
            )
            file = f"{part}.safetensors"
            _write_flushed(folder / file, content)
            sha[file] = hashlib.sha256(content).hexdigest()
            sizes[file] = len(content)
        known = {"format": FORMAT, "frame": frame, "iteration": iteration, "sha": sha, "sizes": sizes}
        _write_flushed(folder / _META, json.dumps({**known, "meta": dict(meta)}, indent=2).encode())
        _flush_folder(folder)

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` complete checkpoints, and never the last one."""
        old = self.checkpoints()[: -max(keep, 1)]
        for checkpoint in old:
            # renamed first: a kill in the middle of the removal leaves no half a checkpoint
            doomed = checkpoint.path.with_name(_UNFINISHED + checkpoint.path.name)
            with contextlib.suppress(OSError):
                os.replace(checkpoint.path, doomed)
                shutil.rmtree(doomed)

    def _sweep(self) -> None:
        """Remove what a killed process left unfinished; one process writes a run at a time."""
        for left in self._checkpoints.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)

    # -------------------------------------------------------------------------------------------- reading

    def checkpoints(self) -> list[Checkpoint]:
        """Checkpoints whose files are all there in full length, oldest first."""
        found = []
        for path in self._folders():
            with contextlib.suppress(UserError):
                content = _read_meta(path)
                if all(_size(path / file) == size for file, size in content["sizes"].items()):
                    found.append(Checkpoint(int(content["frame"]), int(content["iteration"]), path))
        return found

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is intact to the last bit; None before the first; UserError if all are damaged."""
        for checkpoint in reversed(self.checkpoints()):
            if self._is_intact(checkpoint.path):
                return checkpoint
        if damaged := list(self._folders()):
            raise UserError(f"No checkpoint of {self.path} is intact; the newest is {damaged[-1]}.")
        return None

    def load(self, checkpoint: Checkpoint, parts: Sequence[str] = PARTS) -> dict[str, dict[str, Tensor]]:
        """The tensors of a checkpoint by part, on the CPU; parts that were not saved are absent."""
        loaded: dict[str, dict[str, Tensor]] = {}
        for part, content in self._verified(checkpoint.path, parts):
            try:
                tensors = safetensors.torch.load(content)
            except (SafetensorError, ValueError, KeyError) as error:
                raise UserError(f"{checkpoint.path / part}.safetensors cannot be read: {error}.") from error
            # cloned to be aligned as torch allocates: the order of sums may depend on that, and resuming is exact
            loaded[part] = {name: torch.clone(tensor) for name, tensor in tensors.items()}
        return loaded

    def meta(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The plain values given to `save` as `meta`."""
        given = _read_meta(checkpoint.path).get("meta", {})
        return dict(given)

    def seeds(self) -> list[RunFolder]:
        """The runs of the single seeds of a run with `seeds=K`, in order; empty for a run of one seed."""
        numbered = {
            int(path.name.removeprefix("seed_")): path for path in self.path.glob("seed_*") if path.name[5:].isdigit()
        }
        return [RunFolder.open(numbered[number]) for number in sorted(numbered)]

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _folders(self) -> Iterator[Path]:
        if self._checkpoints.is_dir():
            names = (path for path in self._checkpoints.iterdir() if _FRAME.fullmatch(path.name))
            yield from sorted(names, key=lambda path: int(path.name))

    def _verified(self, path: Path, parts: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        sha = _read_meta(path)["sha"]
        for part in parts:
            file = path / f"{part}.safetensors"
            if file.name not in sha:
                continue
            try:
                content = file.read_bytes()
            except OSError as error:
                raise UserError(f"{file} cannot be read: {_reason(error)}.") from error
            if hashlib.sha256(content).hexdigest() != sha[file.name]:
                raise UserError(f"{file} is damaged or cut short: it is not what was written there.")
            yield part, content

    def _is_intact(self, path: Path) -> bool:
        try:
            return all(content is not None for _, content in self._verified(path, PARTS))
        except UserError:
            return False


def unused(path: str | Path) -> Path:
    """`path` if nothing is there, else the first free of path-2, path-3, ..."""
    path = Path(path)
    candidate, number = path, 1
    while candidate.exists() and (not candidate.is_dir() or any(candidate.iterdir())):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, so that whoever reads sees the old or the new, never a part."""
    unfinished = path.with_name(_UNFINISHED + path.name)
    try:
        _write_flushed(unfinished, content)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    """Make renames inside `path` survive a power cut; only POSIX can open a folder for it."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_meta(folder: Path) -> dict[str, Any]:
    content = _read_json(folder / _META, f"{folder} is not a complete checkpoint: it has no {_META}.")
    _check_format(content, folder / _META)
    if not isinstance(content.get("sha"), dict) or not isinstance(content.get("sizes"), dict):
        raise UserError(f"{folder / _META} was not written by HyperMARL, or is damaged.")
    return content


def _read_json(path: Path, absent: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(absent) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}.") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged or cut short: it is not valid JSON.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} was not written by HyperMARL.")
    return content


def _check_format(content: Mapping[str, Any], path: Path) -> None:
    number = content.get("format")
    if isinstance(number, bool) or not isinstance(number, int):
        raise UserError(f"{path} was not written by HyperMARL: it names no format.")
    if number > FORMAT:
        raise UserError(
            f"{path} has format {number}, newer than this version of HyperMARL reads ({FORMAT}); upgrade it."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("hypermarl", *_PACKAGES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
