"""Reads a `config.json` field by field, with types checked, and refuses at the end what nobody asked for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from deepseek.core.errors import ConfigError

# fmt: off
# Fields that describe the file, the training run, generation or other programs, never the forward pass.
INERT_FIELDS = frozenset((
    "architectures", "auto_map", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "dtype", "torch_dtype",
    "transformers_version", "use_cache", "initializer_range", "attention_dropout", "pretraining_tp", "model_type",
    "output_router_logits", "router_aux_loss_coef", "aux_loss_alpha", "seq_aux", "ep_size", "output_attentions",
    "output_hidden_states", "return_dict", "is_decoder", "id2label", "label2id", "chunk_size_feed_forward",
    "problem_type", "max_window_layers", "tokenizer_class", "torchscript", "use_bfloat16", "tf_legacy_loss", "prefix",
    "decoder_start_token_id", "finetuning_task", "task_specific_params", "forced_bos_token_id", "forced_eos_token_id",
    "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
    "qk_head_dim", "unsloth_version", "do_sample", "max_length", "min_length", "early_stopping", "num_beams",
    "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty",
    "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences",
    "output_scores", "return_dict_in_generate",
))
# Settings of other architectures that every old config.json repeats; switched on, they would change the answer.
OFF_FIELDS = (
    "add_cross_attention", "cross_attention_hidden_size", "is_encoder_decoder", "tie_encoder_decoder", "pruned_heads",
    "use_mrope",
)
# fmt: on
# Far above every model there is, and low enough that no product of a tensor's sides overflows.
LARGEST_SIZE = 2**20
LARGEST_WIDTH = 2**24
LARGEST_LENGTH_TOKENS = 2**31


class Fields:
    """One parsed config. `where` opens every message; what was read is remembered for `finish`."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw, self.where = raw, where
        self.seen: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        value = self.raw.get(name)
        return default if value is None else value

    def integer(self, name: str, default: int | None = None, low: int = 1, high: int = LARGEST_SIZE) -> int:
        value = self.get(name, default)
        expected = f"an integer from {low} to {high}"
        if value is None:
            raise self.error(name, "is missing", expected=expected)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, "is not usable", shorten(value), expected)
        return value

    def optional_integer(self, name: str) -> int | None:
        return None if self.get(name) is None else self.integer(name)

    def number(self, name: str, default: float) -> float:
        value = self.get(name, default)
        if not is_number(value) or not value > 0:
            raise self.error(name, "is not usable", shorten(value), "a number > 0")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "is not usable", shorten(value), "true or false")
        return value

    def choice(self, name: str, default: str, allowed: Collection[str]) -> str:
        value = self.get(name, default)
        if not isinstance(value, str) or value not in allowed:
            raise self.error(name, "is not supported", shorten(value), " or ".join(map(repr, allowed)))
        return value

    def must_be(self, name: str, only: Any) -> None:
        """A field that may stand there only with the value that changes nothing."""
        value = self.get(name, only)
        if value != only or isinstance(value, bool) != isinstance(only, bool):
            raise self.error(name, "is not supported", shorten(value), shorten(only))

    def must_be_off(self, name: str) -> None:
        """The same for a switch that is off when empty, false or null."""
        value = self.get(name)
        if value:
            raise self.error(name, "is not supported", shorten(value), "false, or no such field")

    def ignore(self, *names: str) -> None:
        self.seen.update(names)

    def finish(self) -> None:
        for name in self.raw:
            if name not in self.seen and name not in INERT_FIELDS and not name.startswith("_"):
                raise self.error(
                    name,
                    "is a field this model code does not know",
                    shorten(self.raw[name]),
                    "a field of this architecture",
                    "remove it if it does not change the forward pass; otherwise the model is not supported",
                )

    def error(
        self, name: str, what: str, found: object = None, expected: object = None, fix: str | None = None
    ) -> ConfigError:
        return ConfigError(what, where=f"{self.where}: {name}", found=found, expected=expected, fix=fix)


def is_number(value: object) -> bool:
    """A finite int or float."""
    # Python's JSON has integers without end; those that overflow a float are no numbers here.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= 1e300 if isinstance(value, int) else math.isfinite(value)


def shorten(value: object) -> str:
    """`repr` for a message of one line."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**60 else "an integer of more than 60 digits"
    return text if len(text) <= 60 else text[:57] + "..."
