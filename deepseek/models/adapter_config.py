"""Reads a PEFT adapter's `adapter_config.json`: which matrices it adapts, with what rank and what scaling.

Every field is used, known to have no influence on what a trained adapter computes, or refused when it is set: DoRA,
biases, whole modules saved beside the matrices, adapted embeddings or experts would change the answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic_core import SchemaError, SchemaValidator, core_schema

from deepseek.core.errors import ConfigError
from deepseek.models.config_fields import LARGEST_WIDTH, Fields, is_number, shorten

CONFIG_FILE = "adapter_config.json"

# Fields that describe where the adapter comes from and how it was trained.
_INERT = (
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "inference_mode",
    "lora_dropout",
    "lora_ga_config",
    "loftq_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
)
# Ways to begin training that leave the base weights as they are; the others (PiSSA, OLoRA, CorDA, ...) move a part of
# the base weights into the adapter, and the rest is not the model we hold.
_INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")
_Number = TypeVar("_Number", int, float)
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """r, lora_alpha and their exceptions by module; names are modules of the Hugging Face model.

    targets: the module names, or ends of them after a dot, that are adapted; None: a regular expression says so, and
    the tensors themselves tell what it matched. layers: the decoder layers they are meant in; None: all.
    """

    r: int
    lora_alpha: float
    use_rslora: bool
    rank_pattern: tuple[tuple[SchemaValidator, int], ...]
    alpha_pattern: tuple[tuple[SchemaValidator, float], ...]
    targets: frozenset[str] | None
    excluded: frozenset[str]
    layers: frozenset[int] | None

    def rank(self, module: str) -> int:
        return _first_match(self.rank_pattern, module, self.r)

    def scaling(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) where the rank is to be stabilised (Kalajdzievski, rsLoRA, 2023)."""
        rank = self.rank(module)
        alpha = _first_match(self.alpha_pattern, module, self.lora_alpha)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def adapts(self, module: str) -> bool | None:
        """Whether the module is one of the targets; None where only the tensors tell."""
        if self.targets is None:
            return None
        if _ends_in(module, self.excluded):
            return False
        if module in self.targets or self.layers is None:
            return _ends_in(module, self.targets)
        layer = _LAYER.match(module)
        return layer is not None and int(layer[1]) in self.layers and _ends_in(module, self.targets)


def read_config(data: bytes, where: str) -> AdapterConfig:
    """Parse `adapter_config.json`. Raises ConfigError naming the field, what was found and what we support."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            "cannot be read as JSON", where=where, found=error, expected="a JSON object", fix="download it again"
        ) from None
    if not isinstance(raw, dict):
        raise ConfigError("is not a JSON object", where=where, found=type(raw).__name__, expected="an object")
    fields = Fields(raw, where)
    fields.choice("peft_type", "", ("LORA",))
    fields.choice("bias", "none", ("none",))
    start = fields.get("init_lora_weights", True)
    if not any(start is allowed or (isinstance(start, str) and start == allowed) for allowed in _INITIALISATIONS):
        raise fields.error(
            "init_lora_weights",
            "is not supported",
            shorten(start),
            ", ".join(json.dumps(allowed) for allowed in _INITIALISATIONS),
            "convert the adapter on saving: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    if fields.get("target_parameters"):
        raise fields.error(
            "target_parameters",
            "is not supported: routed experts cannot be adapted",
            shorten(raw["target_parameters"]),
            "no such field",
            "train the adapter on attention, dense and shared-expert projections",
        )
    targets, excluded = _names(fields, "target_modules"), _names(fields, "exclude_modules")
    if targets == frozenset():
        raise fields.error("target_modules", "is missing", expected="a list of module names, or a regular expression")
    config = AdapterConfig(
        r=fields.integer("r", 8, high=LARGEST_WIDTH),
        lora_alpha=fields.number("lora_alpha", 8),
        use_rslora=fields.flag("use_rslora"),
        rank_pattern=tuple((pattern, int(value)) for pattern, value in _patterns(fields, "rank_pattern")),
        alpha_pattern=tuple(_patterns(fields, "alpha_pattern")),
        targets=None if excluded is None else targets,
        excluded=excluded or frozenset(),
        layers=_layers(fields),
    )
    fields.ignore(*_INERT)
    for name in raw:
        if name not in fields.seen:
            fields.must_be_off(name)
    return config


def _names(fields: Fields, field: str) -> frozenset[str] | None:
    """A list of module names; None for a regular expression."""
    value = fields.get(field, [])
    if isinstance(value, str) and value:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise fields.error(field, "is not usable", shorten(value), "a list of module names, or a regular expression")
    return frozenset(value)


def _layers(fields: Fields) -> frozenset[int] | None:
    pattern = fields.get("layers_pattern")
    if pattern not in (None, [], "", "layers", ["layers"]):
        raise fields.error("layers_pattern", "is not supported", shorten(pattern), '"layers"')
    value = fields.get("layers_to_transform")
    if value is None or value == []:
        return None
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in listed):
        raise fields.error("layers_to_transform", "is not usable", shorten(value), "an integer, or a list of them")
    return frozenset(listed)


def _patterns(fields: Fields, field: str) -> list[tuple[SchemaValidator, float]]:
    """Exceptions by module, in order: {"a pattern of the end of the name": number}."""
    raw = fields.get(field, {})
    if not isinstance(raw, Mapping):
        raise fields.error(field, "is not usable", shorten(raw), "an object from patterns of module names to numbers")
    found = []
    for pattern, value in raw.items():
        whole = field == "rank_pattern"
        if not is_number(value) or not 0 < value <= LARGEST_WIDTH or (whole and value != int(value)):
            expected = f"{'an integer' if whole else 'a number'} above 0"
            raise fields.error(f"{field}: {pattern}", "is not usable", shorten(value), expected)
        try:
            found.append((_module_pattern(pattern), value))
        except SchemaError:
            raise fields.error(
                field,
                "has a pattern that is not a regular expression we take",
                shorten(pattern),
                "one without look-around and back references",
                "name the modules instead",
            ) from None
    return found


def _module_pattern(pattern: str) -> SchemaValidator:
    """PEFT's meaning: the pattern matches the whole name or its end after a dot.

    pydantic's engine takes time linear in the name, whatever the pattern: Python's own can be made to take forever by
    a file from a stranger.
    """
    return SchemaValidator(core_schema.str_schema(pattern=rf"^(?:.*\.)?(?:{pattern})$", regex_engine="rust-regex"))


def _first_match(patterns: tuple[tuple[SchemaValidator, _Number], ...], module: str, otherwise: _Number) -> _Number:
    return next((value for pattern, value in patterns if pattern.isinstance_python(module)), otherwise)


def _ends_in(module: str, names: frozenset[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)
