"""deepseek-stack: train, serve, extend and debug DeepSeek-architecture language models on your own hardware.

    from deepseek import LLM, SamplingParams
    print(LLM("builtin").generate("Hello", SamplingParams(temperature=0))[0].text)

Fronts are imported when first used, so that `import deepseek` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek.core.sampling import SamplingParams
    from deepseek.engine.llm import LLM, Completion

__version__ = "0.1.0"
__all__ = ["LLM", "Completion", "SamplingParams", "__version__"]

_FRONTS = {
    "LLM": "deepseek.engine.llm",
    "Completion": "deepseek.engine.llm",
    "SamplingParams": "deepseek.core.sampling",
}


def __getattr__(name: str) -> Any:
    if name in _FRONTS:
        return getattr(import_module(_FRONTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
