"""What a tool of a server answers, as parts of a message; and these as the text that a model reads.

Images and sounds are taken for what their bytes are, not for what the server says they are.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence

import mcp_types as types

from deepseek.core.media.sniff import KIND_OF, canonical, sniff
from deepseek.core.messages import MediaPart, Part, TextPart

MAX_BLOCKS = 1000


def parts_of(result: types.CallToolResult) -> list[Part]:
    """The blocks in their order; a structured answer alone becomes JSON text."""
    parts = [_part(block) for block in result.content[:MAX_BLOCKS]]
    if not parts and result.structured_content is not None:
        return [TextPart(json.dumps(result.structured_content, ensure_ascii=False))]
    if len(result.content) > MAX_BLOCKS:
        parts.append(TextPart(f"[{len(result.content) - MAX_BLOCKS} more blocks are left out]"))
    return parts


def text_of(parts: Sequence[Part]) -> str:
    """The parts as text, one after the other; what is no text is named."""
    return "\n".join(_text(part) for part in parts)


def _part(block: types.ContentBlock) -> Part:
    match block:
        case types.TextContent(text=text):
            return TextPart(text)
        case types.ImageContent(data=data, mime_type=said) | types.AudioContent(data=data, mime_type=said):
            return _media(data, said, block.type)
        case types.ResourceLink(name=name, uri=uri, mime_type=said):
            return TextPart(f"[resource {name}: {uri}{f', {said}' if said else ''}]")
        case types.EmbeddedResource(resource=resource):
            if isinstance(resource, types.TextResourceContents):
                return TextPart(f"[resource {resource.uri}]\n{resource.text}\n[end of resource]")
            return _media(resource.blob, resource.mime_type or "", f"resource {resource.uri}")


def _media(encoded: str, said: str, what: str) -> Part:
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return TextPart(f"[{what} that cannot be decoded]")
    found = sniff(data)
    if found is None:
        return TextPart(f"[{what}: {len(data)} bytes{f' said to be {said}' if said else ''}]")
    # Of a container only the tracks say whether it is a film; the server may know.
    if found in ("video/mp4", "video/webm") and canonical(said).startswith("audio/"):
        found = found.replace("video/", "audio/")
    return MediaPart(KIND_OF[found], found, data)


def _text(part: Part) -> str:
    if isinstance(part, TextPart):
        return part.text
    if isinstance(part, MediaPart):
        return f"[{part.kind}: {part.media_type}, {len(part.data)} bytes]"
    return ""
