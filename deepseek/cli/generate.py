"""`deepseek generate`: one prompt, one completion or several."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepseek.core.constraint import Constraint
from deepseek.core.engine import TokenLogprob, Tokens
from deepseek.core.errors import ConfigError
from deepseek.core.sampling import SamplingParams
from deepseek.engine.build import EngineOptions, build_loop
from deepseek.engine.llm import LLM, Completion
from deepseek.models.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = 256


def run(
    model: str,
    options: EngineOptions,
    prompt: str | None,
    prompt_ids: str | None,
    params: SamplingParams,
    *,
    max_tokens: int | None,
    constraint: Constraint | None,
    adapter: Path | None,
    json_output: bool,
) -> None:
    """Print the text as it comes (of several, each when all are done), or one JSON object: text, token_ids,
    finish_reason, usage, and where asked for logprobs and choices.

    max_tokens: None takes 256, or what the context leaves, if less. Raises DeepSeekError for whatever cannot be served.
    """
    if (prompt is None) == (prompt_ids is None):
        found = "neither" if prompt is None else "both"
        raise ConfigError("one of --prompt and --prompt-ids is needed", found=found)
    if prompt == "":
        raise ConfigError("the text is empty", where="--prompt", expected="some text to complete")
    if params.logprobs is not None and not json_output:
        raise ConfigError("scores are only shown in JSON", where="--logprobs", fix="add --json")
    parsed = None if prompt_ids is None else parse_ids(prompt_ids)
    loaded = build_loop(model, options)
    ids = loaded.tokenizer.encode(prompt or "") if parsed is None else parsed
    params = replace(params, max_tokens=_limit(max_tokens, loaded.max_model_len, len(ids)))
    llm = LLM(loaded)
    if adapter is not None:
        llm.load_adapter("adapter", adapter)

    def show(_index: int, tokens: Tokens) -> None:
        print(tokens.text, end="", flush=True)

    streams = not json_output and params.n == 1
    completions = llm.generate(
        ids,
        params,
        constraint=constraint,
        adapter=None if adapter is None else "adapter",
        on_token=show if streams else None,
    )
    if json_output:
        json.dump(as_json(completions, loaded.tokenizer), sys.stdout, ensure_ascii=False)
        print()
    elif streams:
        print()
    else:
        for index, completion in enumerate(completions):
            print(f"[{index}] {completion.text}")


def constraint_of(json_schema: Path | None, regex: str | None, choices: Sequence[str]) -> Constraint | None:
    """What the output must match. Raises ConfigError or AdmissionError."""
    if sum((json_schema is not None, regex is not None, bool(choices))) > 1:
        raise ConfigError("give one of --json-schema, --regex and --choice", found="several")
    if json_schema is not None:
        try:
            return Constraint.json_schema(json_schema.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("cannot be read", where=f"--json-schema {json_schema}", found=error) from error
    if regex is not None:
        return Constraint.regex(regex)
    return Constraint.choice(choices) if choices else None


def as_json(completions: Sequence[Completion], tokenizer: Tokenizer) -> dict[str, Any]:
    """The first completion, with `choices` beside it where there are several."""
    choices = [_choice(completion, tokenizer) for completion in completions]
    usage = completions[0].usage
    result = choices[0] | {
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        }
    }
    return result if len(choices) == 1 else result | {"choices": choices}


def parse_ids(text: str) -> list[int]:
    """`1,2,3` to token ids. Raises ConfigError naming what is not a number."""
    ids: list[int] = []
    for part in text.split(","):
        if not (part.strip().isascii() and part.strip().isdecimal()):
            raise ConfigError("not a token id", where="--prompt-ids", found=repr(part), expected="numbers like 1,2,3")
        ids.append(int(part))
    return ids


def _limit(max_tokens: int | None, max_model_len: int, prompt_tokens: int) -> int:
    """A prompt that leaves no room at all is the engine's to refuse."""
    room = max(1, max_model_len - prompt_tokens)
    if max_tokens is None:
        return min(DEFAULT_MAX_TOKENS, room)
    if max_tokens > room and prompt_tokens < max_model_len:
        raise ConfigError(
            "more than the context leaves",
            where="--max-tokens",
            found=max_tokens,
            expected=f"at most {room} (a context of {max_model_len} less a prompt of {prompt_tokens} tokens)",
        )
    return max_tokens


def _choice(completion: Completion, tokenizer: Tokenizer) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
    }
    if completion.logprobs is not None:
        choice["logprobs"] = [_score(entry, tokenizer) for entry in completion.logprobs]
    return choice


def _score(entry: TokenLogprob, tokenizer: Tokenizer) -> dict[str, Any]:
    def token(token_id: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.token_bytes(token_id).decode("utf-8", "replace")
        return {"token": text, "token_id": token_id, "logprob": max(logprob, -9999.0)}  # JSON has no infinity

    return token(entry.token_id, entry.logprob) | {"top": [token(other, logprob) for other, logprob in entry.top]}
