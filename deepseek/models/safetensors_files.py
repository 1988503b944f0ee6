"""The safetensors files of a checkpoint directory: which there are, what their headers say, and reading by memory map.

One file is called model.safetensors; several are listed by model.safetensors.index.json. The headers say what is really
there, so they are read and the index's list of tensors is not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from deepseek.core.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_OTHER_FORMATS = ("*.bin", "*.pth", "*.pt", "*.gguf")
_ELEMENT_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_SMALLEST_WINDOW_BYTES, _LARGEST_WINDOW_BYTES = 2**18, 64 * 2**20
_ROW_BLOCK = 128  # what FP8 scales and the kernels' layouts can be cut at


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor's header: where it is, its shape, its type in safetensors' spelling, and its size."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def read_headers(directory: Path) -> dict[str, Entry]:
    """Every tensor of the checkpoint by name. Raises CheckpointError for missing, damaged and overlapping files."""
    entries: dict[str, Entry] = {}
    for file in _weight_files(directory):
        try:
            with safe_open(file, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118  # not a dict
                    view = handle.get_slice(name)
                    shape, dtype = tuple(view.get_shape()), view.get_dtype()
                    if name in entries:
                        raise CheckpointError(
                            "stands in two files",
                            where=f"{file}: {name}",
                            found=f"{name} in {entries[name].file.name} too",
                            expected="each tensor once",
                            fix="remove the file that does not belong to this checkpoint",
                        )
                    entries[name] = Entry(file, shape, dtype, math.prod(shape) * _ELEMENT_BYTES.get(dtype, 1))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                "is not a whole safetensors file",
                where=file,
                found=f"{_size(file)} bytes: {error}",
                expected="a header and all the bytes it promises",
                fix="download it again",
            ) from error
    return entries


def _size(file: Path) -> int | str:
    return file.stat().st_size if file.is_file() else "no"


def _weight_files(directory: Path) -> list[Path]:
    single, index = directory / SINGLE_FILE, directory / INDEX_FILE
    if single.exists():
        return [single]
    if index.exists():
        return [directory / name for name in _shard_names(index)]
    other = sorted(file.name for pattern in _OTHER_FORMATS for file in directory.glob(pattern))
    raise CheckpointError(
        "has no weights we read",
        where=directory,
        found=other[0] if other else f"no {SINGLE_FILE} and no {INDEX_FILE}",
        expected=f"{SINGLE_FILE}, or {INDEX_FILE} with its files",
        fix="convert the checkpoint to safetensors" if other else "finish the download",
    )


def _shard_names(index: Path) -> list[str]:
    try:
        parsed = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            "cannot be read as JSON", where=index, found=error, expected="a JSON object", fix="download it again"
        ) from None
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            "lists no files",
            where=f"{index}: weight_map",
            found=type(weight_map).__name__,
            expected="an object from tensor names to file names",
            fix="download it again",
        )
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name or "\0" in name:
            raise CheckpointError(
                "names a file outside the checkpoint",
                where=f"{index}: {tensor}",
                found=repr(name),
                expected="the plain name of a file beside the index",
                fix="do not use this checkpoint if you did not write the index yourself",
            )
    names = sorted(set(weight_map.values()))
    for name in names:
        if not (index.parent / name).exists():
            raise CheckpointError(
                "names a file that is not there",
                where=index,
                found=f"no {name}",
                expected=f"{len(names)} files beside the index",
                fix="finish the download",
            )
    return names


class Reader:
    """Reads tensors by name through a memory map that is dropped whenever a 256th of all bytes went through it.

    What it returns is a view of the map: copy what is to be kept, and let the view go before the next one.
    """

    def __init__(self, entries: dict[str, Entry]) -> None:
        self.entries = entries
        self._file: Path | None = None
        self._handle: Any = None
        self._mapped = 0
        total = sum(entry.nbytes for entry in entries.values())
        self._window = min(max(total // 256, _SMALLEST_WINDOW_BYTES), _LARGEST_WINDOW_BYTES)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()

    def read(self, name: str) -> Tensor:
        """The tensor as stored, of its own shape and type."""
        entry = self.entries[name]
        tensor: Tensor = self._open(entry, entry.nbytes).get_tensor(name)
        return tensor

    def _open(self, entry: Entry, nbytes: int) -> Any:
        """A map that `nbytes` more of the entry's file may be read through."""
        if entry.file != self._file or self._mapped + nbytes > self._window:
            self._drop()
            try:
                self._handle, self._file = safe_open(entry.file, framework="pt"), entry.file
            except (SafetensorError, OSError) as error:
                raise CheckpointError("changed while it was read", where=entry.file, found=error) from error
        self._mapped += nbytes
        return self._handle

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The same in pieces of whole rows, a multiple of 128 of them, each small enough for one map."""
        entry = self.entries[name]
        if entry.nbytes <= self._window or len(entry.shape) < 2:
            yield self.read(name)
            return
        rows, row_bytes = entry.shape[0], entry.nbytes // entry.shape[0]
        step = max(1, self._window // (row_bytes * _ROW_BLOCK)) * _ROW_BLOCK
        for first in range(0, rows, step):
            handle = self._open(entry, min(step, rows - first) * row_bytes)
            yield handle.get_slice(name)[first : first + step]
            del handle

    def _drop(self) -> None:
        self._file, self._handle, self._mapped = None, None, 0
