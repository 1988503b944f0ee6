"""Which markup a model writes, found from its chat template and its tokenizer.

| name | models | calls |
|---|---|---|
| deepseek-v3 | V3, V3-0324, R1 and its distillations | control tokens, arguments in a fence (`tool_tokens`) |
| deepseek-v3.1 | V3.1, the built-in model | control tokens, bare arguments (`tool_tokens`) |
| deepseek-v3.2 | V3.2 | DSML, `function_calls` (`dsml`) |
| deepseek-v4 | V4 | DSML, `tool_calls` (`dsml`) |
| none | all others | none: the answer is text, and thinking where the tokenizer has `</think>` |

The template decides: it writes the calls of earlier turns as the model was taught to. Reading does not need more than
the family; which member of it matters where a call is forced (`deepseek.chat.forced`).
"""

from __future__ import annotations

from collections.abc import Sequence

from deepseek.chat.dsml import BLOCKS, DSML, DsmlMarkers
from deepseek.chat.markup import THINK_END, Markup
from deepseek.chat.tool_tokens import FENCE, SEPARATOR, ToolTokenMarkers
from deepseek.core.errors import ConfigError
from deepseek.models.tokenizer import Tokenizer

FORMATS: dict[str, type[ToolTokenMarkers] | type[DsmlMarkers] | None] = {
    "deepseek-v3": ToolTokenMarkers,
    "deepseek-v3.1": ToolTokenMarkers,
    "deepseek-v3.2": DsmlMarkers,
    "deepseek-v4": DsmlMarkers,
    "none": None,
}


def format_of(template: str | None, control_tokens: Sequence[str]) -> str:
    """The name of the format that a template writes; without one, V4's where the tokenizer has its token."""
    if template is None:
        return "deepseek-v4" if DSML in control_tokens else "none"
    if DSML in template:
        return "deepseek-v3.2" if DSML + BLOCKS[1] in template else "deepseek-v4"
    if SEPARATOR in template:
        return "deepseek-v3" if FENCE in template else "deepseek-v3.1"
    return "none"


def markup_of(tokenizer: Tokenizer, name: str) -> Markup:
    """The markup of a model that writes the format of this name. Raises ConfigError for a name that is none."""
    if name not in FORMATS:
        raise ConfigError("unknown format of tool calls", found=repr(name), expected=" | ".join(FORMATS))
    tokens = tokenizer.control_tokens
    special = [literal for literal, token in tokens.items() if token.special]
    thinks = THINK_END in tokens or (tokenizer.chat_template is not None and THINK_END in tokenizer.chat_template)
    return Markup(tokens, special, thinks=thinks, calls=FORMATS[name])
