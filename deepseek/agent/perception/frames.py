"""A film as some of its frames, for models that see images and no films, and what is heard in it, for those that do not hear.

Moving images (GIF, PNG, WebP) are films to Pillow; films proper need the extra `[perception]`.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deepseek.agent.execution.registry import ToolRegistry
from deepseek.agent.execution.tool import Tool
from deepseek.agent.perception.isolated import film_frames, sound_samples
from deepseek.agent.perception.recognise import PerceptionError
from deepseek.core.errors import ConfigError, ToolError
from deepseek.core.messages import MediaPart

DECODE_S = 120.0
DECODE_MEMORY_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Frame:
    """seconds: from the film's beginning."""

    image: MediaPart
    seconds: float


def can_decode() -> bool:
    """Whether the extra that decodes films and sounds is installed."""
    return find_spec("av") is not None


async def frames_of(film: MediaPart, most: int, side: int) -> list[Frame]:
    """At most `most` frames, spread evenly, their longer side at most `side` pixels. Raises PerceptionError, ConfigError."""
    _require_decoder("films")
    directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="deepseek-film-"))
    try:
        path = directory / "film"
        await asyncio.to_thread(path.write_bytes, film.data)
        found = await _decoded("film_frames", path=str(path), directory=str(directory), frames=most, side=side)
        return [
            Frame(
                MediaPart("image", "image/jpeg", await asyncio.to_thread((directory / one["name"]).read_bytes)),
                float(one["seconds"]),
            )
            for one in found
        ]
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


async def samples_of(sound: MediaPart, most_s: float) -> bytes:
    """What is heard, as `isolated.sound_samples` writes it. Raises PerceptionError, ConfigError."""
    _require_decoder("sounds")
    directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="deepseek-sound-"))
    try:
        path, written = directory / "sound", directory / "samples"
        await asyncio.to_thread(path.write_bytes, sound.data)
        await _decoded("sound_samples", path=str(path), written=str(written), most_s=most_s)
        return await asyncio.to_thread(written.read_bytes)
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _require_decoder(what: str) -> None:
    if not can_decode():
        raise ConfigError(
            f"{what} are decoded by PyAV, which is not installed",
            where="perception",
            fix="pip install 'deepseek-stack[perception]'",
        )


async def _decoded(name: str, **arguments: Any) -> Any:
    try:
        return await _DECODERS.aexecute(name, **arguments)
    except ToolError as error:
        raise PerceptionError("it cannot be decoded", found=error.what[:300]) from error


_DECODERS = ToolRegistry(
    [
        Tool.of(function, isolate=True, timeout_s=DECODE_S, memory_bytes=DECODE_MEMORY_BYTES)
        for function in (film_frames, sound_samples)
    ]
)
