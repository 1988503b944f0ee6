"""`deepseek evaluate --perplexity`: how well a model predicts a text, and what quantising it costs."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from deepseek.cli.progress import Ticker
from deepseek.cli.screen import describe_weights, print_rows
from deepseek.core.errors import ConfigError
from deepseek.evaluation.perplexity import (
    BUILTIN_TEXT,
    DEFAULT_CONTEXT,
    builtin_documents,
    measure,
    read_documents,
    windows_of,
)
from deepseek.models.checkpoint import load_model
from deepseek.models.config import ModelConfig
from deepseek.models.locate import display_name, locate
from deepseek.models.quantize import QuantizationChoice, weight_size
from deepseek.models.tokenizer import Tokenizer
from deepseek.models.transformer import Quantization


def run(
    model: str,
    text: str,
    *,
    quantization: QuantizationChoice,
    quantization_cache: Path | None,
    compare: Quantization | None,
    context: int | None,
    max_tokens: int | None,
    json_output: bool,
) -> None:
    """Print a table or one JSON object. compare: the form of the same model to measure against; both are in memory then.

    context: tokens of a window, at most and by default the model's own length or 2048, whichever is less.
    """
    screen = Console(stderr=True)
    directory = locate(model)
    config = ModelConfig.from_file(directory)
    tokenizer = Tokenizer.from_dir(directory)
    tokenizer.check_fits(config.vocab_size)
    longest = config.max_position_embeddings
    if context is not None and context > longest:
        raise ConfigError("is longer than the model's", where="context", found=context, expected=f"at most {longest}")
    context = context or min(longest, DEFAULT_CONTEXT)
    builtin = text == BUILTIN_TEXT
    documents = builtin_documents(directory / "tokenizer.json") if builtin else read_documents(text, tokenizer)
    windows = windows_of(documents, context, max_tokens)
    with screen.status(Text(f"loading {model}")):
        measured = load_model(directory, quantization=quantization, quantization_cache=quantization_cache)
        reference = None if compare is None else load_model(directory, quantization=compare)
    total = sum(len(window.ids) - window.first for window in windows)
    with Ticker(screen, total) as ticker:
        report = measure(measured, windows, reference, lambda done, _total: ticker.update(done, "tokens"))
    size = weight_size(measured)
    if json_output:
        about = {
            "model": display_name(model),
            "text": text,
            "context": context,
            "quantization": measured.quantization,
            "compared_with": compare,
            "weight_bytes": size.nbytes,
            "bits_per_weight": round(size.bits_per_weight, 3),
        }
        print(json.dumps(about | report.to_json()))
        return
    rows = [
        ("model", display_name(model)),
        ("weights", describe_weights(measured.quantization, size)),
        ("text", f"{text}, windows of {context} tokens"),
    ]
    if reference is not None:
        rows.append(("reference", describe_weights(reference.quantization, weight_size(reference))))
    print_rows(Console(), rows + report.rows())
