"""Items of OpenAI's Responses API, as requests bring them and answers are made of, and the conversation they are inside.

An answer's items may be sent back as they came. Neighbouring items of the assistant (what it thought, said and called) are
one message inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

from deepseek.api.dialects.chat_messages import require_call
from deepseek.api.dialects.fields import CallId, FunctionName, Only, StrictModel, tag_of, tagged
from deepseek.api.dialects.media import (
    AudioContent,
    AudioData,
    FileContent,
    FileData,
    Given,
    ImageAddress,
    ImageContent,
    given_of,
)
from deepseek.core.messages import (
    MediaPart,
    Message,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
)

MAX_ITEMS = 4096

ItemId = Annotated[str, Field(min_length=1, max_length=128)]
Status = Literal["in_progress", "completed", "incomplete"]


class InputText(StrictModel):
    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Annotated[object, Only()] = None


class InputImage(StrictModel):
    type: Literal["input_image"]
    image_url: Annotated[str, Field(min_length=1, description="data:<type>;base64,<data>.")]
    detail: Literal["auto", "low", "high", "original"] | None = None
    file_id: Annotated[object, Only()] = None


class InputFile(StrictModel):
    """A file that is an image, a sound or a film."""

    type: Literal["input_file"]
    file_data: Annotated[str, Field(min_length=1, description="data:<type>;base64,<data>.")]
    filename: Annotated[str, Field(max_length=512)] | None = None
    file_id: Annotated[object, Only()] = None
    file_url: Annotated[object, Only()] = None


class InputAudio(StrictModel):
    type: Literal["input_audio"]
    input_audio: AudioData


class OutputText(StrictModel):
    """What an assistant said. Annotations and log-probabilities may be sent back; they are not read."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[object, Only([])] = None
    logprobs: list[dict[str, Any]] | None = None


class Refusal(StrictModel):
    type: Literal["refusal"]
    refusal: str


Content = Annotated[
    Annotated[InputText, tagged("input_text")]
    | Annotated[InputImage, tagged("input_image")]
    | Annotated[InputFile, tagged("input_file")]
    | Annotated[InputAudio, tagged("input_audio")]
    | Annotated[OutputText, tagged("output_text")]
    | Annotated[Refusal, tagged("refusal")],
    tag_of("type", "a part of type input_text, input_image, input_file, input_audio, output_text or refusal"),
]
Media = InputImage | InputFile | InputAudio


class MessageItem(StrictModel):
    """A message; an assistant's may be one that was answered before."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Content], Field(min_length=1)]
    id: ItemId | None = None
    status: Status | None = None
    phase: Annotated[object, Only()] = None

    @model_validator(mode="after")
    def _parts_fit_the_role(self) -> MessageItem:
        if isinstance(self.content, str):
            return self
        if self.role == "assistant":
            if not all(isinstance(part, OutputText | Refusal) for part in self.content):
                raise PydanticCustomError("disagree", "output_text and refusal parts in a message of the assistant")
        elif any(isinstance(part, OutputText | Refusal) for part in self.content):
            raise PydanticCustomError("disagree", "input parts in a message that is not the assistant's")
        elif self.role != "user" and not all(isinstance(part, InputText) for part in self.content):
            raise PydanticCustomError("disagree", "input_text parts in a message of system or developer")
        return self


class FunctionCallItem(StrictModel):
    """A call that the assistant made."""

    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: str
    id: ItemId | None = None
    status: Status | None = None
    caller: Annotated[object, Only()] = None
    namespace: Annotated[object, Only()] = None


class FunctionResultItem(StrictModel):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: str | Annotated[list[InputText], Field(min_length=1)]
    id: ItemId | None = None
    status: Status | None = None
    caller: Annotated[object, Only()] = None
    name: Annotated[object, Only()] = None
    namespace: Annotated[object, Only()] = None


class SummaryText(StrictModel):
    type: Literal["summary_text"]
    text: str


class ReasoningText(StrictModel):
    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(StrictModel):
    """What the assistant thought."""

    type: Literal["reasoning"]
    id: ItemId | None = None
    summary: list[SummaryText]
    content: list[ReasoningText] | None = None
    status: Status | None = None
    encrypted_content: Annotated[object, Only()] = None


def _tag(value: object) -> str | None:
    # A message may leave its type out.
    found = value.get("type", "message") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{found}>" if isinstance(found, str) else None


Item = Annotated[
    Annotated[MessageItem, tagged("message")]
    | Annotated[FunctionCallItem, tagged("function_call")]
    | Annotated[FunctionResultItem, tagged("function_call_output")]
    | Annotated[ReasoningItem, tagged("reasoning")],
    Discriminator(
        _tag,
        custom_error_type="unknown_member",
        custom_error_message="an item of type message, function_call, function_call_output or reasoning",
    ),
]
AnyItem = MessageItem | FunctionCallItem | FunctionResultItem | ReasoningItem


def media_in(items: Sequence[AnyItem], places: Sequence[str]) -> list[Given]:
    """The parts that are no text, in order. places: of the items. Raises Problem as `given_of`."""
    return [
        _given(part, f"{place}.content.{index}")
        for item, place in zip(items, places, strict=True)
        if isinstance(item, MessageItem) and not isinstance(item.content, str)
        for index, part in enumerate(item.content)
        if isinstance(part, InputImage | InputFile | InputAudio)
    ]


def messages_of(items: Sequence[AnyItem], places: Sequence[str], media: Mapping[str, MediaPart]) -> tuple[Message, ...]:
    """media: the checked parts by field. Raises Problem 422 for the result of a call that is not there."""
    found: list[Message] = []
    spoken: list[Part] = []
    calls: set[str] = set()

    def end_turn() -> None:
        if spoken:
            found.append(Message("assistant", tuple(spoken)))
            spoken.clear()

    for item, place in zip(items, places, strict=True):
        if isinstance(item, FunctionResultItem):
            require_call(item.call_id, calls, f"{place}.call_id")
            end_turn()
            text = item.output if isinstance(item.output, str) else "".join(part.text for part in item.output)
            found.append(Message("tool", (ToolResultPart(item.call_id, text),)))
        elif isinstance(item, FunctionCallItem):
            if item.status != "incomplete":  # one that was cut off was never made
                calls.add(item.call_id)
                spoken.append(ToolCallPart(item.call_id, item.name, item.arguments))
        elif isinstance(item, ReasoningItem):
            texts = item.content if item.content else item.summary
            thought = "".join(part.text for part in texts)
            if thought:
                spoken.append(ThinkingPart(thought))
        elif item.role == "assistant":
            spoken.extend(_parts(item, place, media))
        else:
            end_turn()
            role: Literal["system", "user"] = "user" if item.role == "user" else "system"
            found.append(Message(role, tuple(_parts(item, place, media))))
    end_turn()
    return tuple(found)


def _parts(item: MessageItem, place: str, media: Mapping[str, MediaPart]) -> Iterable[Part]:
    if isinstance(item.content, str):
        yield TextPart(item.content)
        return
    for index, part in enumerate(item.content):
        if isinstance(part, InputText | OutputText):
            yield TextPart(part.text)
        elif isinstance(part, Refusal):
            yield TextPart(part.refusal)
        else:
            yield media[_field(part, f"{place}.content.{index}")]


def _given(part: Media, place: str) -> Given:
    content: ImageContent | FileContent | AudioContent
    if isinstance(part, InputImage):
        content = ImageContent(type="image_url", image_url=ImageAddress(url=part.image_url, detail=part.detail))
    elif isinstance(part, InputFile):
        content = FileContent(type="file", file=FileData(file_data=part.file_data, filename=part.filename))
    else:
        content = AudioContent(type="input_audio", input_audio=part.input_audio)
    return replace(given_of(content, place), field=_field(part, place))


def _field(part: Media, place: str) -> str:
    if isinstance(part, InputImage):
        return f"{place}.image_url"
    return f"{place}.file_data" if isinstance(part, InputFile) else f"{place}.input_audio.data"
