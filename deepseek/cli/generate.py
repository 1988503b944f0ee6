"""`deepseek generate`: one prompt, one completion."""

from __future__ import annotations

import json
import sys

from deepseek.core.engine import Tokens
from deepseek.core.errors import ConfigError
from deepseek.core.sampling import SamplingParams
from deepseek.engine.build import EngineOptions
from deepseek.engine.llm import LLM


def run(
    model: str,
    prompt: str | None,
    prompt_ids: str | None,
    params: SamplingParams,
    *,
    max_model_len: int | None,
    json_output: bool,
) -> None:
    """Print the text as it comes, or one JSON object: text, token_ids, finish_reason, usage."""
    if (prompt is None) == (prompt_ids is None):
        found = "neither" if prompt is None else "both"
        raise ConfigError("one of --prompt and --prompt-ids is needed", found=found)
    given: str | list[int] = prompt if prompt is not None else parse_ids(prompt_ids or "")
    llm = LLM(model, options=EngineOptions(max_model_len=max_model_len, max_sequences=1))

    def show(_index: int, tokens: Tokens) -> None:
        print(tokens.text, end="", flush=True)

    completion = llm.generate(given, params, on_token=None if json_output else show)[0]
    if not json_output:
        print()
        return
    usage = completion.usage
    result = {
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
    }
    json.dump(result, sys.stdout, ensure_ascii=False)
    print()


def parse_ids(text: str) -> list[int]:
    """`1,2,3` to token ids. Raises ConfigError naming what is not a number."""
    ids: list[int] = []
    for part in text.split(","):
        if not (part.strip().isascii() and part.strip().isdecimal()):
            raise ConfigError("not a token id", where="--prompt-ids", found=repr(part), expected="numbers like 1,2,3")
        ids.append(int(part))
    return ids
