"""TensorBoard event files, written record by record in the calling thread.

PyTorch's own writer queues records for a thread of its own: a killed run loses what it queued, a full disk surfaces as
a traceback out of that thread, and a process that forks environment workers takes its lock along. Here a record has
been handed to the system, or an `OSError` raised and the file left as it was, when a call returns.
"""

from __future__ import annotations

import colorsys
import io
import json
import math
import re
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tensorboard.compat.proto.event_pb2 import Event, SessionLog, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.text.plugin_data_pb2 import TextPluginData
from tensorboard.summary.writer.record_writer import RecordWriter

from hypermarl.runs import write_atomically

HISTOGRAM_BINS = 64
PALETTE_FRAMES = 8
SPRITE = 64
"""Pixels, each way, of the picture of an agent in the projector."""


class EventFile:
    """One new event file in `folder`; TensorBoard reads all files of a folder, in the order of their names, as one run.

    With `resumed_after`, what earlier files say about later steps is removed, and a TensorBoard that has read it
    already is told to forget it.
    """

    def __init__(self, folder: Path, *, resumed_after: int | None = None) -> None:
        if resumed_after is not None:
            _forget(folder, resumed_after)
        self.path = folder / f"events.out.tfevents.{_next_second(folder):010d}.hypermarl"
        self._file = self.path.open("x+b", buffering=0)
        self._write(Event(file_version="brain.Event:2", source_metadata=SourceMetadata(writer="hypermarl")))
        if resumed_after is not None:
            self._write(Event(step=resumed_after + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, summary: Summary) -> None:
        """Write all values of `summary` at once; raises `OSError`, leaving the file as it was."""
        self._write(Event(step=step, summary=summary))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        write_all(self._file, _record(event.SerializeToString()), self._file.seek(0, io.SEEK_END))

    def close(self) -> None:
        self._file.close()


def _forget(folder: Path, after: int) -> None:
    """Remove the events of later steps from all files, and a record that a killed run left unfinished."""
    for path in folder.glob("events.out.tfevents.*"):
        content = path.read_bytes()
        kept = b"".join(record for record, event in _records(content) if event.step <= after)
        if kept != content:
            write_atomically(path, kept)


def _records(content: bytes) -> Iterator[tuple[bytes, Event]]:
    """The whole records of an event file, as bytes and as events: length, its checksum, the event, its checksum."""
    start = 0
    while start + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        record = content[start : start + 16 + length]
        if record != _record(record[12:-4]):
            return  # damaged: TensorBoard reads no further either
        yield record, Event.FromString(record[12:-4])
        start += len(record)


def _record(content: bytes) -> bytes:
    file = io.BytesIO()
    RecordWriter(file).write(content)
    return file.getvalue()


def write_all(file: io.FileIO, content: bytes, offset: int) -> None:
    """Write `content` at `offset` and end the file there; on failure the file is put back as it was."""
    file.seek(offset)
    before = file.readall()
    try:
        _write_at(file, content, offset)
    except OSError:
        _write_at(file, before, offset)
        raise


def _write_at(file: io.FileIO, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    file.seek(offset)
    while rest:
        rest = rest[file.write(rest) or 0 :]
    file.truncate()


def _next_second(folder: Path) -> int:
    """Now, or later than the name of any event file of the folder: a run may be resumed within a second."""
    names = (re.match(r"events\.out\.tfevents\.(\d+)", path.name) for path in folder.glob("events.out.tfevents.*"))
    return max([int(time.time()), *(int(name[1]) + 1 for name in names if name)])


def scalars(values: Mapping[str, float]) -> Summary:
    """One summary of them all, by tag; NaN and infinities are drawn as such."""
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])


def histogram(tag: str, values: NDArray[np.floating]) -> Summary | None:
    """A histogram of the finite values; None if there are none."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return None
    counts, edges = np.histogram(finite, bins=HISTOGRAM_BINS)
    # Each bucket carries its right limit only, so an empty one in front says where the first begins.
    content = HistogramProto(
        min=finite.min(),
        max=finite.max(),
        num=finite.size,
        sum=finite.sum(),
        sum_squares=finite @ finite,
        bucket_limit=edges.tolist(),
        bucket=[0.0, *counts.astype(float).tolist()],
    )
    return Summary(value=[Summary.Value(tag=tag, histo=content)])


def text(tag: str, markdown: str) -> Summary:
    content = TensorProto(
        dtype=DT_STRING,
        string_val=[markdown.encode()],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
    )
    plugin = SummaryMetadata.PluginData(plugin_name="text", content=TextPluginData(version=0).SerializeToString())
    about = SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR)
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=content)])


def animation(tag: str, frames: NDArray[np.uint8], *, fps: float, width: int, length: int) -> Summary:
    """An animated picture of `[T, H, W, 3]`, shrunk to `width` and thinned to `length` frames that last as long."""
    stride = math.ceil(len(frames) / length)
    images = [Image.fromarray(frame) for frame in frames[::stride]]
    if images[0].width > width:
        size = (width, max(1, round(images[0].height * width / images[0].width)))
        images = [image.resize(size, Image.Resampling.LANCZOS) for image in images]
    palette = _common_palette(images)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    gif = io.BytesIO()
    # Browsers play frames shorter than 20 ms at 100 ms.
    duration = max(20, round(1000 * stride / fps))
    images[0].save(gif, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=False)
    picture = Summary.Image(
        height=images[0].height, width=images[0].width, colorspace=3, encoded_image_string=gif.getvalue()
    )
    return Summary(value=[Summary.Value(tag=tag, image=picture)])


def _common_palette(images: Sequence[Image.Image]) -> Image.Image:
    """One palette for all frames, from a few of them: a palette per frame flickers."""
    few = images[:: max(1, len(images) // PALETTE_FRAMES)][:PALETTE_FRAMES]
    sheet = Image.new("RGB", (few[0].width, few[0].height * len(few)))
    for place, image in enumerate(few):
        sheet.paste(image, (0, place * image.height))
    return sheet.quantize(colors=256)


def projector(embeddings: Iterable[tuple[str, str, str, str]]) -> str:
    """The projector's list of embeddings: each a name, and the files of its vectors, its labels and its sprites."""
    # JSON strings are strings of protobuf's text format too.
    return "".join(
        f"embeddings {{\n  tensor_name: {json.dumps(name)}\n"
        f"  tensor_path: {json.dumps(vectors)}\n  metadata_path: {json.dumps(labels)}\n"
        f"  sprite {{\n    image_path: {json.dumps(pictures)}\n"
        f"    single_image_dim: {SPRITE}\n    single_image_dim: {SPRITE}\n  }}\n}}\n"
        for name, vectors, labels, pictures in embeddings
    )


def sprites(labels: Sequence[str]) -> bytes:
    """A PNG sheet of discs for the projector, one per label, each of its own hue and with the number of the label."""
    across = math.ceil(math.sqrt(len(labels)))
    sheet = Image.new("RGBA", (across * SPRITE, across * SPRITE))
    for place, label in enumerate(labels):
        # Drawn four times as large and shrunk, for smooth edges.
        size = 4 * SPRITE
        disc = Image.new("RGBA", (size, size))
        draw = ImageDraw.Draw(disc)
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(place / len(labels), 0.75, 0.8))
        draw.ellipse((8, 8, size - 8, size - 8), fill=(red, green, blue, 255))
        number = re.search(r"\d+$", label)
        name = number[0] if number else str(place)
        draw.text((size / 2, size / 2), name, fill="white", font=ImageFont.load_default(0.6 * size), anchor="mm")
        sheet.paste(disc.resize((SPRITE, SPRITE)), (place % across * SPRITE, place // across * SPRITE))
    png = io.BytesIO()
    sheet.save(png, "PNG")
    return png.getvalue()


def session_start(settings: Mapping[str, bool | int | float | str]) -> Summary:
    """A run's row on the HPARAMS page.

    No list of columns is written: TensorBoard then makes one from all the runs it shows, with what differs first.
    """
    start = SessionStartInfo(start_time_secs=time.time())
    for name, value in settings.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    return _session(hparams_metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))


def session_end() -> Summary:
    end = SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=time.time())
    return _session(hparams_metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))


def _session(tag: str, content: HParamsPluginData) -> Summary:
    about = hparams_metadata.create_summary_metadata(content)
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=hparams_metadata.NULL_TENSOR)])
