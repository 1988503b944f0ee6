"""The files a tokenizer is made of: reading them, and rewriting `tokenizer.json` so that control tokens vanish.

`tokenizer.json` is the format of the `tokenizers` library: normalizer, pre-tokenizer, model, decoder and a
list of added tokens that are cut out of a text before anything else happens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HFTokenizer

from deepseek.core.errors import TokenizerError

Json = dict[str, Any]

_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
_FIX_FILES = "download the checkpoint's tokenizer files again"
_FIX_NO_FAST = "save it with transformers: AutoTokenizer.from_pretrained(path).save_pretrained(path)"


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What the directory's files say, parsed but not yet interpreted. Absent optional files are empty."""

    directory: Path
    tokenizer: Json
    tokenizer_config: Json
    special_tokens_map: Json
    generation_config: Json
    config: Json
    template_file: str | None

    @classmethod
    def read(cls, directory: Path) -> TokenizerFiles:
        """Raises TokenizerError if the directory or tokenizer.json is missing, or any file is damaged."""
        path = directory / "tokenizer.json"
        if not path.is_file():
            legacy = sorted(p.name for p in directory.glob("*.model")) if directory.is_dir() else []
            raise TokenizerError(
                "no tokenizer.json" if directory.is_dir() else "no such directory",
                where=directory,
                found=", ".join(legacy) or None,
                expected="a Hugging Face model directory with tokenizer.json",
                fix=_FIX_NO_FAST if legacy else _FIX_FILES,
            )
        template = directory / "chat_template.jinja"
        return cls(
            directory=directory,
            tokenizer=_read_json(path),
            tokenizer_config=_read_optional(directory / "tokenizer_config.json"),
            special_tokens_map=_read_optional(directory / "special_tokens_map.json"),
            generation_config=_read_optional(directory / "generation_config.json"),
            config=_read_optional(directory / "config.json"),
            template_file=_read_text(template) if template.is_file() else None,
        )

    def named_tokens(self) -> dict[str, str]:
        """bos_token, eos_token and so on, whether written as a string or as {"content": ...}."""
        found = {}
        for name in _NAMED:
            source = self.tokenizer_config if name in self.tokenizer_config else self.special_tokens_map
            value = source.get(name)
            content = value.get("content") if isinstance(value, dict) else value
            if content is None or content == "":
                continue
            if not isinstance(content, str):
                raise self._wrong("tokenizer_config.json", name, value, 'a string or {"content": string}')
            found[name] = content
        return found

    def chat_template(self) -> str | None:
        """chat_template.jinja if there is one, else the chat_template field (of several the one named "default")."""
        if self.template_file is not None:
            return self.template_file
        value = self.tokenizer_config.get("chat_template")
        if isinstance(value, list):
            named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
            value = named.get("default")
            if value is None:
                raise self._wrong(
                    "tokenizer_config.json", "chat_template", sorted(map(str, named)), 'one named "default"'
                )
        if value is not None and not isinstance(value, str):
            raise self._wrong("tokenizer_config.json", "chat_template", value, "a string")
        return value

    def eos_ids(self) -> list[int]:
        """Ids that end an answer, of generation_config.json first, then of config.json."""
        ids: list[int] = []
        for name, source in (("generation_config.json", self.generation_config), ("config.json", self.config)):
            value = source.get("eos_token_id")
            entries = value if isinstance(value, list) else [] if value is None else [value]
            if not all(isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0 for entry in entries):
                raise self._wrong(name, "eos_token_id", value, "a token id or a list of them")
            ids += entries
        return ids

    def flag(self, name: str, default: bool) -> bool:
        value = self.tokenizer_config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong("tokenizer_config.json", name, value, "true or false")
        return value

    def _wrong(self, file: str, field: str, found: object, expected: str) -> TokenizerError:
        return TokenizerError(
            f"unusable field {field!r}",
            where=self.directory / file,
            found=repr(found)[:80],
            expected=expected,
            fix=_FIX_FILES,
        )


def hf_tokenizer(data: Json, where: Path) -> HFTokenizer:
    """The `tokenizers` object of a parsed tokenizer.json, without truncation and padding."""
    try:
        return HFTokenizer.from_str(json.dumps({**data, "truncation": None, "padding": None}))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError("damaged tokenizer file", where=where, found=str(error)[:200], fix=_FIX_FILES) from error


def ordinary_json(data: Json, control: set[str]) -> Json:
    """`tokenizer.json` in which the control tokens do not exist, so that their spelling is ordinary text.

    Ids of all other tokens are unchanged. The unknown token stays in the vocabulary, where the model needs
    it, but no longer matches text.
    """
    model = data["model"]
    if model.get("type") not in {"BPE", "WordLevel"}:
        raise TokenizerError(
            "unsupported kind of tokenizer", found=model.get("type"), expected="BPE (or WordLevel)", fix=_FIX_NO_FAST
        )
    gone = control - {model.get("unk_token")}
    vocab = {token: token_id for token, token_id in model["vocab"].items() if token not in gone}
    kept_added = [token for token in data.get("added_tokens") or [] if token["content"] not in control]
    # An added token takes its id from the model's vocabulary, or else the next free one: spell it out.
    vocab |= {token["content"]: token["id"] for token in kept_added}
    model = {**model, "vocab": vocab}
    if model["type"] == "BPE":
        model["merges"] = [merge for merge in model["merges"] if not gone.intersection(_merge_tokens(merge))]
    return {**data, "model": model, "added_tokens": kept_added, "post_processor": None}


def continuation_json(data: Json) -> Json | None:
    """`tokenizer.json` for text that does not begin the sequence; None if that makes no difference.

    Metaspace with prepend_scheme "first" puts a space before the first word of a sequence only.
    """
    changed = False

    def rewrite(part: object) -> object:
        nonlocal changed
        if isinstance(part, list):
            return [rewrite(entry) for entry in part]
        if not isinstance(part, dict):
            return part
        if part.get("type") == "Metaspace" and part.get("prepend_scheme") == "first":
            changed = True
            return {**part, "prepend_scheme": "never"}
        return {key: rewrite(value) for key, value in part.items()}

    pre_tokenizer = rewrite(data.get("pre_tokenizer"))
    return {**data, "pre_tokenizer": pre_tokenizer} if changed else None


def _merge_tokens(merge: Any) -> tuple[str, str, str]:
    left, right = merge if isinstance(merge, list) else merge.split(" ", 1)
    return left, right, left + right


def _read_optional(path: Path) -> Json:
    return _read_json(path) if path.is_file() else {}


def _read_json(path: Path) -> Json:
    try:
        value = json.loads(_read_text(path))
    except ValueError as error:
        raise TokenizerError("not valid JSON", where=path, found=str(error), fix=_FIX_FILES) from error
    if not isinstance(value, dict):
        raise TokenizerError("not a JSON object", where=path, found=type(value).__name__, fix=_FIX_FILES)
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError("not UTF-8 text", where=path, found=str(error), fix=_FIX_FILES) from error
    except OSError as error:
        raise TokenizerError(
            "cannot be read", where=path, found=error.strerror, fix="check the file's permissions"
        ) from error
