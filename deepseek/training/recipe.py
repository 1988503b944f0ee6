"""A training run in one YAML file: the model, the data, the schedule. Unknown or contradictory fields are refused."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deepseek.core.errors import ConfigError
from deepseek.models.config import ModelConfig


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSection(_Section):
    """Where samples come from.

    course: "basics" from nothing to single calls, or "agent" for a model that has the basics. seed: which endless
    sequence of samples. tokenizer: "builtin", or a directory with `tokenizer.json`. max_length: tokens; longer samples
    are drawn anew. assistant_only_from: the share of the run after which only the assistant's tokens count in the loss.
    """

    source: Literal["curriculum"] = "curriculum"
    course: Literal["basics", "agent"] = "basics"
    seed: int = Field(0, ge=0)
    tokenizer: str = "builtin"
    max_length: int = Field(512, ge=8)
    assistant_only_from: float = Field(2 / 3, ge=0, le=1)


class OptimizerSection(_Section):
    """AdamW (Loshchilov and Hutter) with linear warm-up and a cosine down to `final_lr_share` of the peak.

    clip_norm: largest norm of all gradients together. balance_rate: step of the routers' correction bias per training
    step (V3 technical report, section 2.1.2); 0 leaves it alone.
    """

    lr: float = Field(2e-3, gt=0)
    final_lr_share: float = Field(0.1, ge=0, le=1)
    warmup_steps: int = Field(100, ge=0)
    betas: tuple[float, float] = Field((0.9, 0.95), strict=False)  # YAML has lists, no tuples
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    balance_rate: float = Field(1e-3, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> OptimizerSection:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {list(self.betas)} must be at least 0 and less than 1")
        return self


class Recipe(_Section):
    """One run, kept in the directory `output`/`name`.

    model: the fields of a Hugging Face `config.json`. init_from: a model to go on from ("builtin", a directory or a hub
    id), instead of random weights; it must be of the same shape. tokens: how many to train on in all. tokens_per_step: the most a
    step holds; samples are taken whole, so it holds a little less. mtp_weight: of the multi-token-prediction loss in the
    first two thirds of the run, mtp_weight_final in the last (V3 technical report, section 4.2). compute_dtype "auto"
    multiplies in bfloat16 where the processor does so natively, else in float32. keep_checkpoints: how many of the
    newest stay on disk.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    output: str = Field("runs", min_length=1)
    seed: int = Field(0, ge=0)
    model: dict[str, Any]
    init_from: str | None = Field(None, min_length=1)
    init_std: float = Field(0.02, gt=0)
    tokens: int = Field(gt=0)
    tokens_per_step: int = Field(4096, gt=0)
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    mtp_weight: float = Field(0.3, ge=0)
    mtp_weight_final: float = Field(0.1, ge=0)
    checkpoint_every_steps: int = Field(500, gt=0)
    keep_checkpoints: int = Field(2, ge=1)
    log_every_steps: int = Field(10, gt=0)
    data: DataSection = DataSection()
    optimizer: OptimizerSection = OptimizerSection()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.data.max_length > self.tokens_per_step:
            raise ValueError(f"data.max_length {self.data.max_length} exceeds tokens_per_step {self.tokens_per_step}")
        if self.tokens < self.tokens_per_step:
            raise ValueError(f"tokens {self.tokens} is less than one step of {self.tokens_per_step}")
        warmup = self.optimizer.warmup_steps
        if warmup and warmup >= self.total_steps:
            raise ValueError(f"optimizer.warmup_steps {warmup} leaves nothing of the run's {self.total_steps} steps")
        return self

    @property
    def total_steps(self) -> int:
        return -(-self.tokens // self.tokens_per_step)

    def model_config_of(self, where: str = "recipe") -> ModelConfig:
        """The `model` section, read. Raises ConfigError naming `where`, the field, what was found and expected."""
        config = ModelConfig.from_hf(self.model, where=f"{where}: model")
        if self.data.max_length > config.max_position_embeddings:
            raise ConfigError(
                "is longer than the model's context",
                where=f"{where}: data.max_length",
                found=self.data.max_length,
                expected=f"at most model.max_position_embeddings, {config.max_position_embeddings}",
            )
        return config

    @classmethod
    def from_file(cls, path: str | Path) -> Recipe:
        """Read a YAML recipe and check all of it. Raises ConfigError, in one line, naming the file and the field."""
        file = Path(path)
        try:
            raw = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506
        except FileNotFoundError:
            raise ConfigError("no such recipe", where=file, fix="see recipes/ for examples") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            raise ConfigError("cannot be read as YAML", where=file, found=" ".join(str(error).split())[:200]) from None
        if not isinstance(raw, dict):
            raise ConfigError("is no mapping of fields", where=file, found=type(raw).__name__, fix="see recipes/")
        try:
            recipe = cls.model_validate(raw)
        except ValidationError as error:
            raise _explain(error, file) from None
        recipe.model_config_of(str(file))
        return recipe


_SECTIONS: dict[str, type[_Section]] = {"": Recipe, "data": DataSection, "optimizer": OptimizerSection}


def _explain(error: ValidationError, file: Path) -> ConfigError:
    """The first of pydantic's findings as our kind of sentence."""
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"]]
    field = ".".join(parts)
    where = f"{file}: {field}" if field else str(file)
    if first["type"] == "extra_forbidden":
        known = list(_SECTIONS[".".join(parts[:-1])].model_fields)
        near = get_close_matches(parts[-1], known, 1)
        return ConfigError(
            "is no field of a recipe", where=where, fix=f"did you mean {near[0]}?" if near else "remove it"
        )
    if first["type"] == "missing":
        return ConfigError("is missing", where=where, fix="add it; recipes/ has examples")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return ConfigError(message, where=where)  # ours: it says what was found
    return ConfigError("has a wrong value", where=where, found=repr(first["input"])[:80], expected=message)


class _Loader(yaml.SafeLoader):
    """Safe, and YAML as people expect it: 1e-6 is a number (YAML 1.2), and a field given twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)
