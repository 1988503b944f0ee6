"""Who turns into text what a model cannot take: speech, text in images. By name, so that a configuration can ask for one.

    @register_perceiver("captions")
    class Captions:
        name = "captions"
        kinds = frozenset({"image"})

        async def text_of(self, part: MediaPart) -> str: ...

Built in, each from an extra: `whisper` (faster-whisper, `[speech]`) and `ocr` (RapidOCR, `[ocr]`).
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from deepseek.agent.perception.frames import samples_of
from deepseek.agent.perception.recognise import PerceptionError
from deepseek.core.errors import ConfigError
from deepseek.core.messages import MediaKind, MediaPart

_NO_PARAMS: Mapping[str, Any] = MappingProxyType({})


class Perceiver(Protocol):
    """Makes text of parts of certain kinds."""

    @property
    def name(self) -> str:
        """What the user and the model are told made the text."""
        ...

    @property
    def kinds(self) -> frozenset[MediaKind]: ...

    async def text_of(self, part: MediaPart) -> str:
        """What is said or written in it; empty where there is nothing. Raises PerceptionError."""
        ...


Make = TypeVar("Make", bound=Callable[..., Perceiver])

_MAKERS: dict[str, Callable[..., Perceiver]] = {}


def register_perceiver(name: str) -> Callable[[Make], Make]:
    """Register what makes a perceiver under a name. Raises ConfigError for one that is taken."""

    def keep(make: Make) -> Make:
        if name in _MAKERS:
            raise ConfigError("a perceiver of this name is registered already", where="perceivers", found=repr(name))
        _MAKERS[name] = make
        return make

    return keep


def perceiver(name: str, params: Mapping[str, Any] = _NO_PARAMS) -> Perceiver:
    """The perceiver of this name, made with these parameters. Raises ConfigError."""
    make = _MAKERS.get(name)
    if make is None:
        raise ConfigError(
            "no such perceiver", where="perceivers", found=repr(name), expected=", ".join(sorted(_MAKERS))
        )
    try:
        return make(**params)
    except TypeError as error:
        raise ConfigError("parameters that it does not take", where=f"perceiver {name!r}", found=str(error)) from None


@register_perceiver("whisper")
class Whisper:
    """Speech, by faster-whisper. model: a name it knows, or a directory; it is loaded with the first sound.

    seconds: how much of a sound is listened to. One sound at a time; what is being recognised cannot be stopped.
    """

    name = "whisper"
    kinds: frozenset[MediaKind] = frozenset({"audio"})

    def __init__(
        self, model: str = "small", device: str = "auto", language: str | None = None, seconds: float = 3600.0
    ) -> None:
        if find_spec("faster_whisper") is None:
            raise ConfigError(
                "speech is recognised by faster-whisper, which is not installed",
                where="perceiver 'whisper'",
                fix="pip install 'deepseek-stack[speech]'",
            )
        self._of, self._device, self._language, self._seconds = model, device, language, seconds
        self._model: Any = None
        self._one = asyncio.Lock()

    async def text_of(self, part: MediaPart) -> str:
        samples = await samples_of(part, self._seconds)
        async with self._one:
            return await asyncio.to_thread(self._recognise, samples)

    def _recognise(self, samples: bytes) -> str:
        import numpy as np
        from faster_whisper import WhisperModel

        try:
            if self._model is None:
                self._model = WhisperModel(self._of, device=self._device)
            heard = np.frombuffer(samples, "<i2").astype(np.float32) / 32768
            segments, _ = self._model.transcribe(heard, language=self._language)
            return "\n".join(segment.text.strip() for segment in segments).strip()
        except Exception as error:  # its model cannot be had, or its native half fails
            raise PerceptionError("speech cannot be recognised", where="whisper", found=str(error)[:300]) from error


@register_perceiver("ocr")
class TextInImages:
    """Text in images, by RapidOCR, line by line. confidence: lines it is less sure of are left out, 0 to 1.

    One image at a time; what is being read cannot be stopped.
    """

    name = "ocr"
    kinds: frozenset[MediaKind] = frozenset({"image"})

    def __init__(self, confidence: float = 0.5) -> None:
        if find_spec("rapidocr_onnxruntime") is None:
            raise ConfigError(
                "text in images is read by RapidOCR, which is not installed",
                where="perceiver 'ocr'",
                fix="pip install 'deepseek-stack[ocr]'",
            )
        self._confidence = confidence
        self._engine: Any = None
        self._one = asyncio.Lock()

    async def text_of(self, part: MediaPart) -> str:
        async with self._one:
            return await asyncio.to_thread(self._read, part.data)

    def _read(self, data: bytes) -> str:
        import numpy as np
        from PIL import Image
        from rapidocr_onnxruntime import RapidOCR

        try:
            if self._engine is None:
                self._engine = RapidOCR()
            with Image.open(io.BytesIO(data)) as image:
                pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]
            lines, _ = self._engine(pixels)
        except Exception as error:  # Pillow and onnxruntime fail in many ways
            raise PerceptionError("the image cannot be read", where="ocr", found=str(error)[:300]) from error
        return "\n".join(text for _, text, sure in lines or () if float(sure) >= self._confidence)
