"""Where a model's files are: the one that ships with the package, a directory, or a repository on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from deepseek.core.errors import ConfigError

BUILTIN = "builtin"
BUILTIN_NAME = "deepseek-tiny"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]


def builtin_dir() -> Path:
    """The directory of `deepseek-tiny`, inside the package."""
    return Path(__file__).parent / "builtin"


def locate(reference: str | Path) -> Path:
    """The local directory of "builtin", a path, or a hub id (downloaded once, then cached). Raises ConfigError."""
    text = str(reference)
    if text == BUILTIN:
        return builtin_dir()
    try:
        path = Path(text).expanduser()
        is_directory, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError):  # too long a name, no permission to look, "~nobody"
        is_directory = exists = False
    if text and is_directory:
        return path
    if text and exists:
        raise ConfigError("is a file", where=path, expected="a directory with config.json and *.safetensors")
    if not _HUB_ID.fullmatch(text):
        raise ConfigError(
            "no such model", where=repr(text), expected='"builtin", a checkpoint directory, or a hub id like "org/name"'
        )
    return _download(text)


def display_name(reference: str | Path) -> str:
    """What a model is called when nobody names it: the last part of its path or hub id."""
    return BUILTIN_NAME if str(reference) == BUILTIN else Path(str(reference)).resolve().name


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            "cannot be had from the hub, and no such directory exists",
            where=hub_id,
            found=" ".join(str(error).split())[:200],
            fix="check the name and the connection (HF_TOKEN for private models), or give a local directory",
        ) from error
