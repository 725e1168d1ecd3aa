"""What a run shows of itself: TensorBoard events, and the same numbers as a table, `metrics.csv`.

A `Monitor` watches one seed and writes into that seed's run folder:

    metrics.csv                     a row per logged frame, a column per scalar
    events.out.tfevents.*           everything, for `tensorboard --logdir`
    projector_config.pbtxt          the agents' embeddings for TensorBoard's projector, with
    embeddings/<name>-<frame>.tsv   their vectors and
    embeddings/<name>-labels.*      their labels, as text and as pictures

Steps are frames, counted per seed. The scalars of a training run, by tag (with several groups of agents, tags of
`loss`, `policy` and `diversity` end in `/<group>`):

| tag | what it says |
|---|---|
| `return/team` | mean return of the team in the episodes that ended since the last row |
| `return/<agent>` | the same for one agent |
| `episode/length` | mean steps of those episodes |
| `evaluation/team`, `evaluation/<agent>` | mean return of evaluation episodes |
| `loss/policy`, `loss/value`, `loss/entropy` | terms of the objective, as they are added up |
| `policy/entropy` | entropy of the action distributions, nats |
| `policy/kl` | estimated KL divergence between the policies before and after the update, nats |
| `policy/clip_fraction` | share of samples whose probability ratio was clipped |
| `policy/gradient_norm` | norm of the gradient before it is clipped |
| `diversity/snd` | system neural diversity, 0 (all act alike) to 1 (`hypermarl.diversity`) |
| `diversity/weight_spread` | distance of agents' generated weights from their mean, relative to its norm |
| `diversity/gradient_cosine` | mean cosine between agents' gradients, +1 agreement, -1 conflict |
| `time/fps` | frames per second, of all seeds together |
| `time/environment`, `time/generation`, `time/update`, ... | share of wall-clock time |
| `Final/<metric>` | the result of the run; upper case so that the HPARAMS page lists it before other scalars |

Also `weights/<tensor>` (histograms of generated weights), `video/<name>` (an animated picture), `config` (text).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from hypermarl.errors import UserError
from hypermarl.monitoring import events
from hypermarl.monitoring.table import Table
from hypermarl.runs import write_atomically

METRICS = "metrics.csv"
PROJECTOR = "projector_config.pbtxt"
EMBEDDINGS = "embeddings"
KEPT_EMBEDDINGS = 10
VIDEO_WIDTH = 400
VIDEO_FRAMES = 200

Scalars = Mapping[str, float | Tensor | NDArray[np.floating]]


class Monitor:
    """Writes one seed's metrics into `folder`, which it makes if need be.

    `labels` are the names of the N agents. With `purge_step`, the frame of the checkpoint that a run is resumed from,
    what was logged after that frame is forgotten; without it, rows are added to those already there. Every method
    raises `UserError` if the folder cannot be written, and what was written before stays as it was.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        tensorboard: bool = True,
        labels: Sequence[str] = (),
        purge_step: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.labels = tuple(labels)
        self._tensorboard = tensorboard
        self._resumed_after = purge_step
        self._events: events.EventFile | None = None
        self._closed = False
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._table = Table(self.folder / METRICS, keep_until=purge_step)
            if tensorboard and purge_step is not None:
                for _, frame, path in self._embedding_files():
                    if frame > purge_step:
                        path.unlink()
                self._write_projector()

    def scalars(self, frame: int, values: Scalars) -> None:
        """One value per tag, or one per agent: a vector `[N]` under tag `return` is logged as `return/<agent>`.

        Several calls for one frame make one row. NaN and infinities are written as they are.
        """
        flat = dict(self._flat(values))
        if not flat:
            return
        with self._writing():
            self._table.add(frame, flat)
            self._add(frame, lambda: events.scalars(flat))

    def histograms(self, frame: int, weights: Mapping[str, Tensor]) -> None:
        """Distribution of each generated tensor `[N, *shape]` over agents and entries, as `weights/<name>`."""
        for name, tensor in weights.items():
            values = tensor.detach().double().cpu().numpy()
            self._add(frame, lambda name=name, values=values: events.histogram(f"weights/{name}", values))  # type: ignore[misc]

    def text(self, content: str, *, tag: str = "config", frame: int = 0) -> None:
        """A text, shown letter by letter, for instance the resolved config as YAML."""
        # Indented, Markdown takes it for code; a fence would end at a fence inside.
        markdown = "\n".join("    " + line for line in content.splitlines())
        self._add(frame, lambda: events.text(tag, markdown))

    def embeddings(self, frame: int, matrix: Tensor, labels: Sequence[str] = (), *, name: str = "agents") -> None:
        """Points `[N, d]` for TensorBoard's projector, labelled by agent; the first and the latest few are kept.

        A running TensorBoard reads the list of embeddings once, when it first sees the run: log the first embedding
        before anything else, and reload TensorBoard for later ones.
        """
        labels = tuple(labels) or self.labels
        if matrix.ndim != 2 or len(matrix) != len(labels):
            raise ValueError(f"embeddings should be [{len(labels)}, d] for as many labels, not {list(matrix.shape)}")
        if not self._tensorboard:
            return
        points = torch.nan_to_num(matrix.detach().double().cpu())
        # The projector draws at least three components.
        points = torch.nn.functional.pad(points, (0, max(0, 3 - points.shape[1])))
        rows = "".join("\t".join(f"{value:.8g}" for value in row) + "\n" for row in points.tolist())
        names = "".join(re.sub(r"\s+", " ", label) + "\n" for label in labels)
        with self._writing():
            name = re.sub(r"[^\w.]+", "_", name)
            (self.folder / EMBEDDINGS).mkdir(exist_ok=True)
            write_atomically(self.folder / EMBEDDINGS / f"{name}-labels.tsv", names.encode())
            write_atomically(self.folder / EMBEDDINGS / f"{name}-labels.png", events.sprites(labels))
            write_atomically(self.folder / EMBEDDINGS / f"{name}-{frame:012d}.tsv", rows.encode())
            kept = sorted(path for found, _, path in self._embedding_files() if found == name)
            for path in kept[1 : 1 - KEPT_EMBEDDINGS]:
                path.unlink()
            self._write_projector()

    def video(
        self, frame: int, frames: NDArray[np.uint8] | Tensor, *, fps: float = 20.0, name: str = "evaluation"
    ) -> None:
        """Pictures `[T, H, W, 3]` of one episode, bytes, as one animated picture on the IMAGES page."""
        pictures = np.asarray(frames)
        if pictures.ndim != 4 or pictures.shape[3] != 3 or 0 in pictures.shape or pictures.dtype != np.uint8:
            raise ValueError(f"a video should be [T, H, W, 3] bytes, not {list(pictures.shape)} of {pictures.dtype}")
        self._add(
            frame,
            lambda: events.animation(f"video/{name}", pictures, fps=fps, width=VIDEO_WIDTH, length=VIDEO_FRAMES),
        )

    def hparams(self, config: Mapping[str, Any], metrics: Mapping[str, float] | None = None, *, frame: int = 0) -> None:
        """The run's row on the HPARAMS page: `config` at the start; at the end again, with the results.

        `config` may be nested, names are joined by dots. `metrics` become scalars `Final/<name>` and mark the run as
        finished. TensorBoard keeps the first `config` it sees.
        """
        self._add(frame, lambda: events.session_start(flatten(config)))
        if metrics is not None:
            self.scalars(frame, {f"Final/{name}": value for name, value in metrics.items()})
            self._add(frame, events.session_end)

    def close(self) -> None:
        """Close the files; may be called again."""
        self._closed = True
        self._table.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _flat(self, values: Scalars) -> Iterator[tuple[str, float]]:
        for tag, value in values.items():
            array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
            if array.ndim == 0:
                yield tag, _number(array.item())
            elif array.shape == (len(self.labels),):
                for label, entry in zip(self.labels, array.tolist(), strict=True):
                    yield f"{tag}/{label}", _number(entry)
            else:
                raise ValueError(f"{tag!r} should be a number or one per agent {self.labels}, not {list(array.shape)}")

    def _add(self, frame: int, make: Callable[[], Summary | None]) -> None:
        """Write an event; the file is made with the first one, so that nothing else of the run comes later."""
        if self._closed:
            raise ValueError(f"the monitor of {self.folder} is closed")
        if not self._tensorboard:
            return
        summary = make()
        if summary is None:
            return
        with self._writing():
            if self._events is None:
                self._events = events.EventFile(self.folder, resumed_after=self._resumed_after)
            self._events.add(frame, summary)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"Metrics cannot be written to {self.folder}: {error.strerror or error}.") from error

    def _embedding_files(self) -> list[tuple[str, int, Path]]:
        """Name, frame, path of every embedding on disk."""
        paths = (self.folder / EMBEDDINGS).glob("*.tsv")
        found = ((re.fullmatch(r"(.+)-(\d{12,})", path.stem), path) for path in paths)
        return [(match[1], int(match[2]), path) for match, path in found if match]

    def _write_projector(self) -> None:
        """List the embeddings on disk. The projector opens the one whose name sorts first: that is to be the latest."""
        files = self._embedding_files()
        latest = {name: max(frame for found, frame, _ in files if found == name) for name, _, _ in files}
        entries = [
            (
                f"{name} (latest, frame {frame})" if frame == latest[name] else f"{name} at frame {frame:012d}",
                f"{EMBEDDINGS}/{path.name}",
                f"{EMBEDDINGS}/{name}-labels.tsv",
                f"{EMBEDDINGS}/{name}-labels.png",
            )
            for name, frame, path in sorted(files)
        ]
        if entries:
            write_atomically(self.folder / PROJECTOR, events.projector(entries).encode())
        else:
            (self.folder / PROJECTOR).unlink(missing_ok=True)


def _number(value: Any) -> float:
    return int(value) if isinstance(value, int) else float(value)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested settings as `{"a.b": value}`; lists become text, None is left out."""
    flat: dict[str, bool | int | float | str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (bool, int, float, str)):
            flat[prefix + name] = value
        elif value is not None:
            flat[prefix + name] = str(value)
    return flat
