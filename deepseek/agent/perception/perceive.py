"""What a user hands over, as one message that the model can take, and notes of what became of each thing.

    perception = Perception([perceiver("ocr")])
    perceived = await perception.message("What does it cost?", [await Attachment.read("bill.png")], model.takes)
    perceived.message       # for the agent
    perceived.notes         # for the user: what each was, and what it became

Whatever became text stands between a line that says what it was and who made text of it, and a line that ends it: the model
and the reader of a trace can tell a user's words from a machine's reading.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from deepseek.agent.perception.documents import document_text
from deepseek.agent.perception.frames import can_decode, frames_of
from deepseek.agent.perception.perceivers import Perceiver
from deepseek.agent.perception.recognise import PerceptionError, Recognised, recognise
from deepseek.core.media.audio import check_audio
from deepseek.core.media.container import check_container
from deepseek.core.media.image import check_image
from deepseek.core.media.sniff import BadMedia, MediaLimits, canonical
from deepseek.core.messages import MediaKind, MediaPart, Message, Part, TextPart

_NAME_CHARS = 120


@dataclass(frozen=True, slots=True)
class PerceptionLimits:
    """Bounds of one message. Sizes in bytes, texts in characters.

    text_chars: of one document or reading; a longer one is cut, and said to be. frames, frame_side: of a film that is
    shown as images. perceive_s: for one reading by a perceiver.
    """

    attachments: int = 32
    document_bytes: int = 20 << 20
    total_bytes: int = 200 << 20
    text_chars: int = 200_000
    frames: int = 8
    frame_side: int = 1024
    perceive_s: float = 300.0
    media: MediaLimits = field(default_factory=MediaLimits)


@dataclass(frozen=True, slots=True)
class Attachment:
    """Something handed over. name: what it is called, for its reader. media_type: what it is said to be; only noted."""

    data: bytes
    name: str = ""
    media_type: str | None = None

    @classmethod
    async def read(cls, path: str | Path, most_bytes: int = 200 << 20) -> Attachment:
        """A file. Raises PerceptionError for one that cannot be read or is larger than `most_bytes`."""
        return await asyncio.to_thread(cls._read, Path(path), most_bytes)

    @classmethod
    def _read(cls, path: Path, most_bytes: int) -> Attachment:
        try:
            with path.open("rb") as file:
                data = file.read(most_bytes + 1)
        except OSError as error:
            raise PerceptionError("it cannot be read", where=path, found=error.strerror or str(error)) from error
        if len(data) > most_bytes:
            raise PerceptionError("it is too large", where=path, expected=f"at most {most_bytes} bytes")
        return cls(data, path.name)


@dataclass(frozen=True, slots=True)
class Note:
    """What became of one attachment. became: the kinds of parts it is in the message; by: who made text of it, if
    anybody. metadata: what its headers say. truncated: the text is not all of it."""

    name: str
    media_type: str
    size_bytes: int
    became: tuple[str, ...]
    by: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Perceived:
    message: Message
    notes: tuple[Note, ...]


class Perception:
    """perceivers: the first that takes a kind reads it. strict: what neither the model nor a perceiver can take is refused;
    else the model is told that it is there and cannot be seen."""

    def __init__(
        self,
        perceivers: Sequence[Perceiver] = (),
        limits: PerceptionLimits | None = None,
        *,
        strict: bool = True,
    ) -> None:
        self._perceivers, self._strict = tuple(perceivers), strict
        self._limits = limits or PerceptionLimits()

    async def message(
        self, text: str, attachments: Sequence[Attachment] = (), takes: frozenset[MediaKind] = frozenset()
    ) -> Perceived:
        """A user's message of the attachments in their order, then the text. takes: the model's own kinds.

        Raises PerceptionError for what cannot be taken, ConfigError where what would take it is not installed.
        """
        most = self._limits
        if len(attachments) > most.attachments:
            raise PerceptionError(
                "too many attachments", found=len(attachments), expected=f"at most {most.attachments}"
            )
        if (total := sum(len(one.data) for one in attachments)) > most.total_bytes:
            raise PerceptionError(
                "the attachments are too large together", found=f"{total} bytes", expected=f"at most {most.total_bytes}"
            )
        parts: list[Part] = []
        notes = []
        for number, attachment in enumerate(attachments, 1):
            name = _clean(attachment.name) or f"attachment {number}"
            made, note = await self._one(attachment, name, takes)
            parts += made
            notes.append(note)
        if text:
            parts.append(TextPart(text))
        return Perceived(Message("user", tuple(parts)), tuple(notes))

    async def _one(self, attachment: Attachment, name: str, takes: frozenset[MediaKind]) -> tuple[list[Part], Note]:
        data = attachment.data
        found = await asyncio.to_thread(self._recognised, attachment, name)
        if found.kind == "document":
            read = await document_text(data, found, self._limits.text_chars, name)
            about = _said(attachment, found.media_type, dict(read.metadata))
            part = _framed(name, found.media_type, about, "", read.text, read.truncated)
            return [part], Note(name, found.media_type, len(data), ("text",), "", about, read.truncated)
        kind, media_type, about = await asyncio.to_thread(self._checked, data, found, name)
        about = _said(attachment, media_type, about)
        media = MediaPart(kind, media_type, data)
        if kind in takes:
            return [media], Note(name, media_type, len(data), (kind,), "", about)
        if kind == "video" and can_decode():
            shown = await self._film(media, name, about, takes)
            if shown is not None:
                return shown
        read_by = self._reader(kind)
        if read_by is None:
            return self._unseen(name, media, about)
        text, truncated = await self._text(read_by, media, name)
        part = _framed(name, media_type, about, read_by.name, text, truncated)
        return [part], Note(name, media_type, len(data), ("text",), read_by.name, about, truncated)

    def _recognised(self, attachment: Attachment, name: str) -> Recognised:
        found = recognise(attachment.data, name)
        most = self._limits.document_bytes if found.kind == "document" else self._limits.media.bytes_of(found.kind)
        if len(attachment.data) > most:
            raise PerceptionError(
                "it is too large", where=name, found=f"{len(attachment.data)} bytes", expected=f"at most {most}"
            )
        return found

    def _checked(self, data: bytes, found: Recognised, name: str) -> tuple[MediaKind, str, dict[str, str]]:
        """Its kind and type, which for a container only its tracks tell, and what its headers say."""
        limits, media_type = self._limits.media, found.media_type
        try:
            if media_type.startswith("image/"):
                image = check_image(data, media_type, limits)
                about = {"pixels": f"{image.width} x {image.height}"}
                return "image", media_type, about | ({"frames": str(image.frames)} if image.frames > 1 else {})
            if media_type.startswith("audio/"):
                sound = check_audio(data, media_type, limits)
                values = {"seconds": sound.seconds, "sample_rate": sound.sample_rate, "channels": sound.channels}
                return "audio", media_type, {key: _shown(value) for key, value in values.items() if value is not None}
            container = check_container(data, media_type, limits)
        except BadMedia as error:
            raise PerceptionError(
                "it cannot be taken", where=name, found=error.found, expected=error.expected
            ) from error
        about = {} if container.seconds is None else {"seconds": _shown(container.seconds)}
        if container.kind == "video":
            return "video", media_type, about | {"pixels": f"{container.width} x {container.height}"}
        return "audio", media_type.replace("video/", "audio/"), about

    async def _film(
        self, film: MediaPart, name: str, about: dict[str, str], takes: frozenset[MediaKind]
    ) -> tuple[list[Part], Note] | None:
        """A film as frames, seen by the model or read, and what is said in it; None where nothing takes either."""
        eyes, ears = self._reader("image"), self._reader("audio")
        if not ("image" in takes or eyes is not None or ears is not None):
            return None
        parts: list[Part] = []
        by: list[str] = []
        became: list[str] = []
        truncated = False
        if "image" in takes or eyes is not None:
            frames = await frames_of(film, self._limits.frames, self._limits.frame_side)
            if "image" in takes:
                parts.append(TextPart(f"[{name}: {film.media_type}; {len(frames)} frames of it follow]"))
                for frame in frames:
                    parts += [TextPart(f"[{name} at {frame.seconds:g} s]"), frame.image]
                became.append("image")
            elif eyes is not None:
                read = [(frame.seconds, await self._text(eyes, frame.image, name)) for frame in frames]
                text = "\n".join(f"at {seconds:g} s: {words}" for seconds, (words, _) in read if words)
                parts.append(_framed(name, film.media_type, about, eyes.name, text, any(cut for _, (_, cut) in read)))
                by.append(eyes.name)
        if ears is not None:
            text, truncated = await self._text(ears, film, name)
            parts.append(_framed(name, film.media_type, about, ears.name, text, truncated))
            by.append(ears.name)
        if by:
            became.append("text")
        note = Note(name, film.media_type, len(film.data), tuple(became), ", ".join(by), about, truncated)
        return parts, note

    def _reader(self, kind: MediaKind) -> Perceiver | None:
        return next((one for one in self._perceivers if kind in one.kinds), None)

    async def _text(self, reader: Perceiver, part: MediaPart, name: str) -> tuple[str, bool]:
        try:
            async with asyncio.timeout(self._limits.perceive_s):
                text = await reader.text_of(part)
        except TimeoutError:
            raise PerceptionError(
                f"{reader.name} takes too long", where=name, found=f"{self._limits.perceive_s:g} s"
            ) from None
        return text[: self._limits.text_chars], len(text) > self._limits.text_chars

    def _unseen(self, name: str, media: MediaPart, about: dict[str, str]) -> tuple[list[Part], Note]:
        if self._strict:
            raise PerceptionError(
                f"the model takes no {media.kind}, and nothing here makes text of it",
                where=name,
                found=media.media_type,
                fix="take a model that does, or name a perceiver (whisper for speech, ocr for text in images)",
            )
        said = TextPart(f"[{_line(name, media.media_type, about)}; it cannot be seen or heard here]")
        return [said], Note(name, media.media_type, len(media.data), (), "", about)


def _framed(name: str, media_type: str, about: Mapping[str, str], by: str, text: str, truncated: bool) -> TextPart:
    made = f"; turned into text by {by}" if by else ""
    cut = f"\n[cut after {len(text)} characters]" if truncated else ""
    nothing = "" if text else "[nothing was found in it]"
    end = f"[end of {name}]"
    text = text.replace(end, end.strip("[]"))  # what is read cannot end itself
    return TextPart(f"[{_line(name, media_type, about)}{made}]\n{text}{nothing}{cut}\n{end}\n")


def _line(name: str, media_type: str, about: Mapping[str, str]) -> str:
    return ", ".join([f"{name}: {media_type}", *(f"{key} {_flat(value)}" for key, value in about.items())])


def _said(attachment: Attachment, media_type: str, about: dict[str, str]) -> dict[str, str]:
    said = attachment.media_type
    return about if said is None or canonical(said) == media_type else about | {"said to be": _flat(said)}


def _clean(name: str) -> str:
    """A name on one line that cannot look like the line around it."""
    return _flat(PurePath(name.replace("\\", "/")).name)


def _flat(text: str) -> str:
    shown = "".join(character if character.isprintable() and character not in "[]" else "_" for character in text)
    return shown[:_NAME_CHARS].strip()


def _shown(value: float | int) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
