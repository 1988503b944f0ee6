"""Putting an engine together: lengths, cache sizes, memory, and where models are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from engine_support import tiny_config

from deepseek.core.errors import ConfigError
from deepseek.engine import build
from deepseek.engine.build import BLOCK_SIZE, EngineOptions, build_loop
from deepseek.models.context import KVCache
from deepseek.models.locate import builtin_dir, display_name, locate

CONFIG = replace(tiny_config("grouped_query"), max_position_embeddings=100)
BLOCK_BYTES = BLOCK_SIZE * KVCache.bytes_per_token(CONFIG)


def test_the_shipped_model_is_loaded_with_its_own_length_and_ends() -> None:
    loaded = build_loop("builtin", EngineOptions(max_sequences=2))
    assert loaded.max_model_len == loaded.config.max_position_embeddings
    config = loaded.loop.scheduler.config
    assert config.num_blocks * BLOCK_SIZE == 2 * loaded.max_model_len
    assert loaded.tokenizer.eos_id in config.eos_token_ids


@pytest.mark.parametrize("length", [-1, 0, 1, 101])
def test_a_length_the_model_does_not_have_is_refused(length: int) -> None:
    with pytest.raises(ConfigError, match=f"max_model_len: out of range; found {length}; expected 2 to 100"):
        build._model_length(CONFIG, EngineOptions(max_model_len=length))


def test_the_cache_holds_every_sequence_at_full_length_if_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "available_bytes", lambda: 2**40)
    assert build._num_blocks(CONFIG, EngineOptions(max_sequences=3), 100) == 3 * 7
    monkeypatch.setattr(build, "available_bytes", lambda: 40 * BLOCK_BYTES)
    assert build._num_blocks(CONFIG, EngineOptions(max_sequences=3), 100) == 10


def test_the_cache_is_as_large_as_asked_for_and_not_smaller_than_a_block() -> None:
    assert build._num_blocks(CONFIG, EngineOptions(kv_bytes=5 * BLOCK_BYTES + 1), 100) == 5
    with pytest.raises(ConfigError, match=f"kv_bytes: holds not one block; found 10; expected >= {BLOCK_BYTES}"):
        build._num_blocks(CONFIG, EngineOptions(kv_bytes=10), 100)


def test_the_cache_can_be_a_share_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "available_bytes", lambda: 40 * BLOCK_BYTES)
    assert build._num_blocks(CONFIG, EngineOptions(kv_fraction=0.5), 100) == 20
    with pytest.raises(ConfigError, match="kv_fraction: holds not one block"):
        build._num_blocks(CONFIG, EngineOptions(kv_fraction=0.01), 100)
    for wrong in (0.0, -1.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="kv_fraction: out of range"):
            EngineOptions(kv_fraction=wrong)


def test_the_shipped_model_and_directories_are_found(tmp_path: Path) -> None:
    assert locate("builtin") == builtin_dir()
    assert locate(tmp_path) == locate(str(tmp_path)) == tmp_path
    assert display_name("builtin") == "deepseek-tiny"
    assert display_name(tmp_path / "my-model") == display_name("org/my-model") == "my-model"


@pytest.mark.parametrize("reference", ["", "no such thing", "~nobody-here/x", "x" * 5000, "a/b/c", "\0"])
def test_what_is_no_model_is_refused_in_one_line(reference: str) -> None:
    with pytest.raises(ConfigError, match="no such model") as error:
        locate(reference)
    assert "\n" not in str(error.value)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"is a file; expected a directory"):
        locate(file)


def test_a_hub_id_without_a_connection_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"org/name: cannot be had from the hub.*give a local directory"):
        locate("org/name")
