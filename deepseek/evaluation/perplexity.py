"""How well a model predicts a text, and how far a quantised one strays from the model it was made from.

A document is cut into windows of at most `context` tokens, each starting half a window after the one before, and every
token is scored once, in the window where it has the most to look back on. A document begins with the
beginning-of-sequence token where the tokenizer has one; without it its first token has nothing before it and is not
scored.

    perplexity = exp(mean of -log p(token))          ratio = perplexity / perplexity of the other model
    KL = sum over the vocabulary of p log(p / q), with p of the other model (the reference) and q of this one, a token

The standard errors treat tokens as independent; that of the ratio is of paired differences, so it is much smaller than
those of the perplexities. Computed by the serving kernels in their exact form: a token's score is the one a server would
report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer as HFTokenizer
from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.models.context import Packed
from deepseek.models.tokenizer import Tokenizer
from deepseek.models.transformer import Model
from deepseek.training.curriculum import FAMILIES, encode, eval_draws

BUILTIN_TEXT = "builtin"
BUILTIN_DRAWS = 40  # conversations a family
DEFAULT_CONTEXT = 2048
_STEP_TOKENS = 2048  # computed at once
_LOGITS_AT_ONCE = 2**23


class Window(NamedTuple):
    """Tokens computed together; those from `first` on are scored."""

    ids: list[int]
    first: int


@dataclass(slots=True)
class Score:
    """Log-probabilities of the scored tokens, summed up."""

    tokens: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: Tensor) -> None:
        wide = values.double()
        self.tokens += values.numel()
        self.total += float(wide.sum())
        self.squares += float(wide.square().sum())

    @property
    def mean(self) -> float:
        return self.total / self.tokens

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        variance = max(0.0, self.squares / self.tokens - self.mean**2)
        return math.sqrt(variance / self.tokens)


@dataclass(slots=True)
class Report:
    """What was measured: a model's negative log-likelihoods, and against the other model, if there was one, its own, the
    differences, the divergences and on how many tokens both find the same token likeliest."""

    nll: Score = field(default_factory=Score)
    reference_nll: Score | None = None
    difference: Score = field(default_factory=Score)
    divergence: Score = field(default_factory=Score)
    divergences: list[float] = field(default_factory=list)
    same_top: int = 0

    def to_json(self) -> dict[str, Any]:
        """Numbers by name; perplexities with their standard errors."""
        result: dict[str, Any] = {"tokens": self.nll.tokens, **_perplexity("", self.nll)}
        if self.reference_nll is not None:
            ratio = math.exp(self.difference.mean)
            result |= _perplexity("reference_", self.reference_nll)
            result |= {
                "perplexity_ratio": ratio,
                "perplexity_ratio_error": ratio * self.difference.error,
                "kl_mean": self.divergence.mean,
                "kl_mean_error": self.divergence.error,
                "kl_median": self._quantile(0.5),
                "kl_p99": self._quantile(0.99),
                "kl_max": max(self.divergences),
                "same_top_share": self.same_top / self.nll.tokens,
            }
        return result

    def rows(self) -> list[tuple[str, str]]:
        """The same to read, a name and a value each."""
        numbers = self.to_json()
        shown = [
            ("tokens scored", str(numbers["tokens"])),
            ("perplexity", f"{numbers['perplexity']:.4f} ± {numbers['perplexity_error']:.4f}"),
        ]
        if self.reference_nll is not None:
            change, error = numbers["perplexity_ratio"] - 1, numbers["perplexity_ratio_error"]
            reference, reference_error = numbers["reference_perplexity"], numbers["reference_perplexity_error"]
            shown += [
                ("perplexity of the reference", f"{reference:.4f} ± {reference_error:.4f}"),
                ("change of perplexity", f"{change:+.3%} ± {error:.3%}"),
                (
                    "KL to the reference, mean",
                    f"{numbers['kl_mean']:.6f} ± {numbers['kl_mean_error']:.6f} nats a token",
                ),
                (
                    "KL median, 99th percentile, largest",
                    f"{numbers['kl_median']:.6f}, {numbers['kl_p99']:.6f}, {numbers['kl_max']:.6f}",
                ),
                ("same likeliest token", f"{numbers['same_top_share']:.2%}"),
            ]
        return shown

    def _quantile(self, share: float) -> float:
        ordered = sorted(self.divergences)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _perplexity(prefix: str, nll: Score) -> dict[str, float]:
    value = math.exp(nll.mean)
    return {f"{prefix}perplexity": value, f"{prefix}perplexity_error": value * nll.error}


@torch.inference_mode()
def measure(
    model: Model,
    windows: Sequence[Window],
    reference: Model | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Score `windows` under the packed `model`, and compare it with `reference` where one is given.

    on_progress is told tokens done and tokens in all. Raises ConfigError when there is nothing to score.
    """
    wanted = sum(len(window.ids) - window.first for window in windows)
    if not wanted:
        raise ConfigError("holds nothing to score", where="the text", found="fewer than two tokens")
    report = Report(reference_nll=None if reference is None else Score())
    for batch in _batches(windows):
        _measure_batch(report, model, reference, batch)
        if on_progress is not None:
            on_progress(report.nll.tokens, wanted)
    return report


def _measure_batch(report: Report, model: Model, reference: Model | None, batch: list[Window]) -> None:
    ids = torch.tensor([token for window in batch for token in window.ids])
    rows: list[int] = []
    start = 0
    for window in batch:  # the token at place i is predicted by the row before it
        rows += range(start + window.first - 1, start + len(window.ids) - 1)
        start += len(window.ids)
    context = Packed.of([len(window.ids) for window in batch])
    hidden = model(ids, context)
    reference_hidden = None if reference is None else reference(ids, context)
    step = max(1, _LOGITS_AT_ONCE // model.config.vocab_size)
    for part in torch.split(torch.tensor(rows), step):
        targets = ids[part + 1, None]
        q = model.logits(hidden[part]).log_softmax(-1)
        nll = -q.gather(1, targets)[:, 0]
        report.nll.add(nll)
        if reference is None or reference_hidden is None or report.reference_nll is None:
            continue
        p = reference.logits(reference_hidden[part]).log_softmax(-1)
        reference_nll = -p.gather(1, targets)[:, 0]
        report.reference_nll.add(reference_nll)
        report.difference.add(nll - reference_nll)
        # Where p is 0 its logarithm is -inf, and the term nothing.
        divergence = torch.where(p.isneginf(), 0.0, p.exp() * (p - q)).sum(-1)
        report.divergence.add(divergence)
        report.divergences += divergence.tolist()
        report.same_top += int((p.argmax(-1) == q.argmax(-1)).sum())


def _batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    batch: list[Window] = []
    for window in windows:
        if batch and sum(len(one.ids) for one in batch) + len(window.ids) > _STEP_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    yield batch


def windows_of(documents: Iterable[Sequence[int]], context: int, limit: int | None = None) -> list[Window]:
    """Cut documents (token ids) into windows, `limit` scored tokens in all (None: every one).

    Raises ConfigError for a context below 2.
    """
    if context < 2:
        raise ConfigError("is too short to predict anything", where="context", found=context, expected="2 or more")
    windows: list[Window] = []
    left = math.inf if limit is None else limit
    half = context // 2
    for document in documents:
        ids, done = list(document), 1  # the first token is what the second is predicted from
        while done < len(ids) and left > 0:
            start = 0 if done == 1 else done - half
            end = int(min(len(ids), start + context, done + left))
            windows.append(Window(ids[start:end], done - start))
            left -= end - done
            done = end
    return windows


def read_documents(file: str | Path, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """A text file as one document; a `.jsonl` file as one a line, its "text" or else all its texts, line by line.

    Raises ConfigError naming file and line.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            "cannot be read", where=path, found=error, expected='a UTF-8 text or .jsonl file, or "builtin"'
        ) from None
    for document in _json_lines(path, text) if path.suffix == ".jsonl" else [text]:
        ids = tokenizer.encode(document, add_bos=False)
        yield ids if tokenizer.bos_id is None else [tokenizer.bos_id, *ids]


def _json_lines(path: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError("is not JSON", where=f"{path}, line {number}", found=error) from None
        values = [parsed.get("text")] if isinstance(parsed, dict) and "text" in parsed else parsed
        values = list(values.values()) if isinstance(values, dict) else values
        texts = [value for value in values if isinstance(value, str)] if isinstance(values, list) else []
        if not texts:
            raise ConfigError(
                "holds no text", where=f"{path}, line {number}", found=line[:60], expected='{"text": "..."}'
            )
        yield "\n".join(texts)


def builtin_documents(tokenizer_file: Path, draws: int = BUILTIN_DRAWS, seed: int = 0) -> Iterator[list[int]]:
    """The built-in curriculum's held-out conversations, `draws` of each family in known phrasings, families taking turns:
    texts whose questions training never showed, whole, from the system prompt to the last answer. For models that know
    its special tokens.
    """
    tokenizer = HFTokenizer.from_file(str(tokenizer_file))
    families = [eval_draws(family, None, draws, seed=seed) for family in FAMILIES]
    for row in zip_longest(*families):  # a family may have fewer texts
        for sample in row:
            if sample is not None:
                yield encode(sample, tokenizer)[0]
