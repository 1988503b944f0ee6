"""Quantised weights kept on disk, so that a model loads again without the work of quantising it.

One directory in the cache for each pair of a checkpoint and a quantization, named by the SHA-256 of what the weights are
made from: every byte of the checkpoint's files, the quantization, and the version of the rules. So other weights have
another name, and stale ones cannot be served. It holds `model.safetensors` (of tensor T: codes `T`, those of 4 bits two to
a byte, and scales `T_scale`) and `cache.json` (CRC-32 of each tensor's bytes, checked while they are read).

Reading a checkpoint to hash it costs less than quantising it, but not nothing. `sources.json` remembers the hash of a
file by its path, size, inode and times of change; that of its status (ctime) is set by the system and cannot be set back.

Written aside and renamed when complete. Nothing is ever removed: a directory may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deepseek.core.errors import CheckpointError, DeepSeekError
from deepseek.models.safetensors_files import SINGLE_FILE, Reader, read_headers
from deepseek.precision.integer import Bits, IntegerPieces, integer_block

_MANIFEST = "cache.json"
_SOURCES = "sources.json"
_ASIDE = ".writing-"
_FORMAT_VERSION = 1
# A file changed this shortly before it was hashed could change again within the clock's tick: not remembered.
_SETTLED_NS = 2 * 10**9


class DamagedCacheError(DeepSeekError):
    """A cache does not hold what it says. It is made anew from the checkpoint."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """A tensor of the cache: its shape [N, K] and bits."""

    shape: tuple[int, int]
    bits: Bits

    @property
    def code_shape(self) -> tuple[int, int]:
        """Of the codes in the file: two 4-bit codes to a byte."""
        n, k = self.shape
        return (n, k) if self.bits == 8 else (n, -(-k // 2))

    @property
    def scale_shape(self) -> tuple[int, int]:
        return self.shape[0], -(-self.shape[1] // integer_block(self.bits))


Plan = Mapping[str, Quantized]
"""What is quantised, by tensor name, in the order in which it is loaded."""


def cache_key(files: Iterable[Path], label: str, directory: Path) -> str:
    """The name of the cache of `files` (a checkpoint's) quantised as `label` says. Reads every byte of a file unless it
    is remembered in `directory`."""
    remembered = _read_json(directory / _SOURCES)
    hashes: dict[str, Any] = {}
    digest = hashlib.sha256(f"{_FORMAT_VERSION}\n{label}\n".encode())
    for file in sorted(set(files)):
        path = str(file.resolve())
        state = _state(file)
        known = remembered.get(path)
        if not isinstance(known, dict) or known.get("state") != state or not isinstance(known.get("sha256"), str):
            with file.open("rb") as opened:
                known = {"state": state, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}
            if state != _state(file):
                raise CheckpointError("changed while it was read", where=file)
            if time.time_ns() - max(state[-2:]) > _SETTLED_NS:
                hashes[path] = known
        digest.update(known["sha256"].encode())
    if hashes:
        _write_json(directory / _SOURCES, remembered | hashes)
    return digest.hexdigest()


def _state(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


class CacheReader:
    """A complete cache. Raises DamagedCacheError, when made or at the end of a tensor's pieces."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.directory, self.plan = directory, plan
        try:
            self._entries = read_headers(directory)
        except CheckpointError as error:
            raise DamagedCacheError("is damaged", where=directory, found=error) from error
        expected = {entry: (shape, dtype) for name in plan for entry, shape, dtype in _layout(name, plan[name])}
        if {name: (entry.shape, entry.dtype) for name, entry in self._entries.items()} != expected:
            raise DamagedCacheError("is damaged", where=directory, found="other tensors than it should hold")
        self._sums = _read_json(directory / _MANIFEST)
        self._reader = Reader(self._entries)

    def pieces(self, name: str) -> IntegerPieces:
        """Codes and scales of a tensor; what was read is only good when the last piece has come without an error."""
        return IntegerPieces(self.plan[name].bits, self._read(name))

    def _read(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        try:
            yield from self._checked(name)
        except (CheckpointError, OSError) as error:  # it may be deleted at any time
            raise DamagedCacheError("is damaged", where=self.directory, found=error) from error

    def _checked(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        kind = self.plan[name]
        # The scales are copied: the map they stand in may be dropped before the codes are read.
        scales = self._reader.read(_scale(name)).clone()
        found = [0, zlib.crc32(_bytes(scales))]
        row = 0
        for stored in self._reader.pieces(name):
            found[0] = zlib.crc32(_bytes(stored), found[0])
            last = row + stored.shape[0]
            if last == kind.shape[0] and self._sums.get(name) != found:
                raise DamagedCacheError("is damaged", where=self.directory, found=f"other bytes in {name}")
            yield stored if kind.bits == 8 else unpack_nibbles(stored, kind.shape[1]), scales[row:last]
            row = last
            del stored


class CacheWriter:
    """Writes a cache while its tensors are quantised. Failing to write never fails the load: it ends the writing, and
    `error` says why."""

    def __init__(self, directory: Path, key: str, plan: Plan) -> None:
        self.target, self.plan = directory / key, plan
        self.error: OSError | None = None
        self._sums: dict[str, list[int]] = {}
        self._aside: Path | None = None
        self._file: BinaryIO | None = None
        header, self._places = _header(plan)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=directory))
            self._file = (self._aside / SINGLE_FILE).open("wb")
            self._file.write(header)
        except OSError as error:
            self._fail(error)

    def pieces(self, name: str, source: IntegerPieces) -> IntegerPieces:
        """The same pieces, kept on their way."""
        return IntegerPieces(source.bits, self._keep(name, source))

    def _keep(self, name: str, source: IntegerPieces) -> Iterator[tuple[Tensor, Tensor]]:
        sums = [0, 0]
        at = [self._places[name], self._places[_scale(name)]]
        for codes, scales in source.pieces:
            stored = codes if source.bits == 8 else pack_nibbles(codes)
            for i, part in enumerate((stored, scales)):
                data = _bytes(part.contiguous())
                sums[i] = zlib.crc32(data, sums[i])
                self._write(at[i], data)
                at[i] += len(data)
            del stored
            self._sums[name] = sums  # before the last piece is handed on: whoever has it need not ask for more
            yield codes, scales
            del codes, scales

    def finish(self) -> None:
        """Put the complete cache in its place. A tensor that was not given to `pieces` makes it incomplete."""
        if self._file is None or self._aside is None:
            return
        try:
            self._file.close()
            if self._sums.keys() != self.plan.keys():
                raise OSError("not every tensor was written")
            _write_json(self._aside / _MANIFEST, self._sums)
            if self.target.exists():
                if _is_whole(self.target, self.plan):  # another process was first, and others may be reading it
                    return
                shutil.rmtree(self.target, ignore_errors=True)
            os.rename(self._aside, self.target)
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Remove what was written aside and did not become a cache."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # it writes what it still held, on a disk that may be full
                self._file.close()
            self._file = None
        if self._aside is not None:
            shutil.rmtree(self._aside, ignore_errors=True)

    def _write(self, place: int, data: memoryview) -> None:
        if self._file is None:
            return
        try:
            self._file.seek(place)
            self._file.write(data)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.error = error
        self.close()


def _is_whole(directory: Path, plan: Plan) -> bool:
    """Whether a cache there can be read to its end."""
    try:
        reader = CacheReader(directory, plan)
        for name in plan:
            for _ in reader.pieces(name).pieces:
                pass
    except DamagedCacheError:
        return False
    return True


def pack_nibbles(codes: Tensor) -> Tensor:
    """4-bit codes int8 [N, K] as uint8 [N, ceil(K / 2)]: code + 8, the first half of a row in the low bits."""
    half = -(-codes.shape[1] // 2)
    bits = (codes + 8).view(torch.uint8)
    packed = bits[:, :half].clone()
    packed[:, : codes.shape[1] - half] |= bits[:, half:] << 4
    return packed


def unpack_nibbles(packed: Tensor, k: int) -> Tensor:
    """Back to int8 [N, k]."""
    half = packed.shape[1]
    codes = torch.empty((packed.shape[0], k), dtype=torch.int8)
    codes[:, :half] = (packed & 15).view(torch.int8) - 8
    codes[:, half:] = (packed[:, : k - half] >> 4).view(torch.int8) - 8
    return codes


def _layout(name: str, kind: Quantized) -> list[tuple[str, tuple[int, int], str]]:
    return [(name, kind.code_shape, "I8" if kind.bits == 8 else "U8"), (_scale(name), kind.scale_shape, "BF16")]


def _header(plan: Plan) -> tuple[bytes, dict[str, int]]:
    """The head of the safetensors file, and where each tensor's bytes begin."""
    header: dict[str, Any] = {}
    places: dict[str, int] = {}
    end = 0
    # Scales first: torch wants two-byte numbers at even places.
    laid_out = [_layout(name, kind) for name, kind in plan.items()]
    for entry, shape, dtype in [scales for _, scales in laid_out] + [codes for codes, _ in laid_out]:
        first, end = end, end + math.prod(shape) * (2 if dtype == "BF16" else 1)
        header[entry] = {"dtype": dtype, "shape": list(shape), "data_offsets": [first, end]}
        places[entry] = first
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, {name: place + 8 + len(text) for name, place in places.items()}


def _scale(name: str) -> str:
    return name + "_scale"


def _bytes(tensor: Tensor) -> memoryview:
    flat: npt.NDArray[np.uint8] = tensor.view(torch.uint8).numpy().reshape(-1)
    return flat.data


def _read_json(file: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is none, or no JSON in it."""
    try:
        parsed = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    aside = file.with_name(f"{file.name}.{os.getpid()}")
    aside.write_text(json.dumps(value), encoding="utf-8")
    os.replace(aside, file)
