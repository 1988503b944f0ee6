"""What decodes films and sounds for perceivers, each call in a process of its own: decoders are C, and files are strangers'.

PyAV (the extra `[perception]`) brings FFmpeg. The process is killed when its time or memory is over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepseek.agent.execution.errors import ToolFailed

SAMPLE_RATE = 16_000
"""What speech recognisers take, in samples a second, one channel."""


def film_frames(path: str, directory: str, frames: int, side: int) -> list[dict[str, Any]]:
    """Frames spread evenly over a film, as JPEG files in `directory`, their longer side at most `side` pixels.

    Returns their names and times in seconds. Raises ToolFailed.
    """
    import av

    written: list[dict[str, Any]] = []
    try:
        with av.open(path) as film:
            if not film.streams.video:
                raise ToolFailed("a film without pictures")
            stream = film.streams.video[0]
            seconds = film.duration / av.time_base if film.duration else None
            for index in range(frames):
                if index and not seconds:
                    break
                at = 0.0 if seconds is None else seconds * (index + 0.5) / frames
                film.seek(int(at * av.time_base))
                frame = _at(film, stream, at)
                if frame is None:
                    continue
                image = frame.to_image()
                image.thumbnail((side, side))
                name = f"{index:04d}.jpg"
                image.convert("RGB").save(Path(directory) / name, quality=85)
                written.append({"name": name, "seconds": round(float(frame.time or 0.0), 3)})
    except ToolFailed:
        raise
    except (OSError, ValueError, ArithmeticError, RuntimeError) as error:  # FFmpeg's own errors are OSErrors
        raise ToolFailed(f"a film that cannot be decoded: {error}"[:300]) from error
    if not written:
        raise ToolFailed("a film of which no frame can be decoded")
    return written


def _at(film: Any, stream: Any, seconds: float) -> Any:
    """The first frame at or after this time, from the keyframe before it; else the last there is."""
    last = None
    for frame in film.decode(stream):
        last = frame
        if frame.time is None or frame.time >= seconds:
            break
    return last


def sound_samples(path: str, written: str, most_s: float) -> float:
    """Write what is heard as 16-bit samples, little endian, one channel, `SAMPLE_RATE` a second; returns seconds.

    Raises ToolFailed.
    """
    import av

    most, count = int(most_s * SAMPLE_RATE), 0
    try:
        with av.open(path) as sound, open(written, "wb") as out:
            if not sound.streams.audio:
                return 0.0
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            for frame in sound.decode(sound.streams.audio[0]):
                for piece in resampler.resample(frame):
                    samples = piece.to_ndarray().reshape(-1)[: most - count]
                    out.write(samples.astype("<i2").tobytes())
                    count += len(samples)
                if count >= most:
                    break
    except (OSError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ToolFailed(f"a sound that cannot be decoded: {error}"[:300]) from error
    return count / SAMPLE_RATE
