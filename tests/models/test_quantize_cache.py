"""Quantised weights on disk: the same model again, never another one's, and no harm from a damaged or full disk."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hf_oracle import V3, Checkpoint, Spec, make, packed_logits
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from deepseek.core.errors import ConfigError
from deepseek.models import quantize
from deepseek.models import quantize_cache as cache_module
from deepseek.models.checkpoint import load_model
from deepseek.models.quantize_cache import CacheReader, CacheWriter, pack_nibbles, unpack_nibbles
from deepseek.models.safetensors_files import SINGLE_FILE
from deepseek.models.transformer import Quantization
from deepseek.precision.integer import IntegerPieces

Logits = torch.Tensor


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoint:
    return make(Spec("deepseek_v3", V3 | {"num_hidden_layers": 2}, 1), tmp_path / "model")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every tensor that is quantised row by row."""
    done: list[str] = []
    quantise = quantize.quantize_pieces

    def counted(*args: object) -> object:
        done.append("tensor")
        return quantise(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(quantize, "quantize_pieces", counted)
    return done


def logits(saved: Checkpoint, directory: Path | None, mode: Quantization = "int8") -> Logits:
    model = load_model(saved.path, quantization=mode, quantization_cache=directory)
    return packed_logits(model, saved.ids(20))


def caches(directory: Path) -> list[Path]:
    return sorted(entry for entry in directory.iterdir() if entry.is_dir())


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_the_second_load_quantises_nothing_and_gives_the_same_bits(
    saved: Checkpoint, tmp_path: Path, work: list[str], mode: Quantization
) -> None:
    directory = tmp_path / "cache"
    fresh = logits(saved, None, mode)
    first = logits(saved, directory, mode)
    work.clear()
    again = logits(saved, directory, mode)
    assert work == []
    assert torch.equal(fresh, first) and torch.equal(fresh, again)
    assert len(caches(directory)) == 1


def test_each_quantization_and_each_version_of_the_rules_has_its_own(
    saved: Checkpoint, tmp_path: Path, work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode in ("int8", "int4"):
        assert torch.equal(logits(saved, tmp_path / "cache", mode), logits(saved, None, mode))
    monkeypatch.setattr("deepseek.models.checkpoint.RULES_VERSION", 99)
    work.clear()
    logits(saved, tmp_path / "cache")
    assert work and len(caches(tmp_path / "cache")) == 3


def test_a_single_changed_weight_is_noticed_though_size_and_time_are_as_before(
    saved: Checkpoint, tmp_path: Path
) -> None:
    file = saved.path / SINGLE_FILE
    tensors = load_file(file)
    save_file(tensors, file)
    logits(saved, tmp_path / "cache")
    before = file.stat()
    tensors["model.layers.1.mlp.experts.3.up_proj.weight"][2, 3] += 100
    save_file(tensors, file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert torch.equal(logits(saved, tmp_path / "cache"), logits(saved, None))
    assert len(caches(tmp_path / "cache")) == 2


def test_a_file_is_hashed_once_while_it_stays_as_it_is(
    saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_SETTLED_NS", -1)
    logits(saved, tmp_path / "cache")

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(cache_module.hashlib, "file_digest", never)
    logits(saved, tmp_path / "cache")
    (saved.path / SINGLE_FILE).touch()
    with pytest.raises(AssertionError, match="read again"):
        logits(saved, tmp_path / "cache")


def test_a_file_changed_just_now_is_not_remembered(saved: Checkpoint, tmp_path: Path) -> None:
    (saved.path / SINGLE_FILE).touch()
    logits(saved, tmp_path / "cache")
    assert not (tmp_path / "cache" / "sources.json").exists()


def test_a_copy_of_the_checkpoint_elsewhere_uses_the_same_cache(
    saved: Checkpoint, tmp_path: Path, work: list[str]
) -> None:
    logits(saved, tmp_path / "cache")
    copy = Path(shutil.copytree(saved.path, tmp_path / "copy"))
    work.clear()
    load_model(copy, quantization="int8", quantization_cache=tmp_path / "cache")
    assert work == []


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "sums", "other"])
def test_a_damaged_cache_is_said_and_made_anew(
    saved: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], work: list[str], harm: str
) -> None:
    expected = logits(saved, tmp_path / "cache", "int4")
    (cache,) = caches(tmp_path / "cache")
    file = cache / SINGLE_FILE
    data = bytearray(file.read_bytes())
    data[len(data) - 9] ^= 16
    if harm == "flip":
        file.write_bytes(data)
    elif harm == "truncate":
        file.write_bytes(data[:-9])
    elif harm == "remove":
        file.unlink()
    elif harm == "sums":
        (cache / "cache.json").write_text("not JSON")
    else:
        save_file({"other": torch.zeros(3)}, file)
    assert torch.equal(logits(saved, tmp_path / "cache", "int4"), expected)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(cache) in said and "damaged" in said and "making them anew" in said
    work.clear()
    assert torch.equal(logits(saved, tmp_path / "cache", "int4"), expected)
    assert work == [] and capsys.readouterr().err == ""


def test_a_disk_that_fills_up_costs_the_cache_and_not_the_model(
    saved: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module.os, "rename", full)
    assert torch.equal(logits(saved, tmp_path / "cache"), logits(saved, None))
    assert "could not be kept" in capsys.readouterr().err
    assert caches(tmp_path / "cache") == []


def test_a_disk_that_is_full_when_the_last_bytes_are_flushed_costs_the_cache_alone(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path, "key", {})
    assert writer._file is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writer._file.fileno())
    os.close(full)
    writer._file.write(b"x")
    writer.finish()
    writer.close()
    assert writer.error is not None and writer.error.errno == 28 and caches(tmp_path) == []


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_cache_that_is_deleted_while_it_is_read_is_made_anew(
    mode: Quantization, saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(saved, tmp_path / "cache", mode)
    pieces, read = CacheReader.pieces, 0

    def vanishing(reader: CacheReader, name: str) -> IntegerPieces:
        nonlocal read
        read += 1
        if read == 3:
            shutil.rmtree(reader.directory)
            reader._reader._drop()
        return pieces(reader, name)

    monkeypatch.setattr(CacheReader, "pieces", vanishing)
    assert torch.equal(logits(saved, tmp_path / "cache", mode), expected)
    assert read > 2 and len(caches(tmp_path / "cache")) == 1


def test_a_whole_cache_that_another_process_made_first_is_left_alone(
    saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits(saved, tmp_path / "cache")
    (cache,) = caches(tmp_path / "cache")
    inode = (cache / SINGLE_FILE).stat().st_ino
    other = cache.rename(tmp_path / "other")
    finish = CacheWriter.finish

    def second(writer: CacheWriter) -> None:
        other.rename(cache)
        finish(writer)

    monkeypatch.setattr(CacheWriter, "finish", second)
    logits(saved, tmp_path / "cache")
    assert caches(tmp_path / "cache") == [cache] and (cache / SINGLE_FILE).stat().st_ino == inode


def test_a_load_that_fails_leaves_nothing_behind(saved: Checkpoint, tmp_path: Path) -> None:
    tensors = load_file(saved.path / SINGLE_FILE)
    tensors["model.layers.1.self_attn.o_proj.weight"][0, 0] = float("inf")
    save_file(tensors, saved.path / SINGLE_FILE)
    with pytest.raises(Exception, match="not finite"):
        logits(saved, tmp_path / "cache")
    assert caches(tmp_path / "cache") == []


def test_a_place_that_cannot_be_a_directory_is_refused(saved: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"quantization_cache .*: cannot be used"):
        logits(saved, tmp_path / "file")


def test_the_manifest_sums_every_tensor(saved: Checkpoint, tmp_path: Path) -> None:
    logits(saved, tmp_path / "cache")
    (cache,) = caches(tmp_path / "cache")
    sums = json.loads((cache / "cache.json").read_text())
    assert {name for pair in ((name, name + "_scale") for name in sums) for name in pair} == set(
        load_file(cache / SINGLE_FILE)
    )


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 20), k=st.integers(1, 70), seed=st.integers(0, 1000))
def test_two_4_bit_codes_share_a_byte_and_come_back(n: int, k: int, seed: int) -> None:
    codes = torch.randint(-8, 8, (n, k), dtype=torch.int8, generator=torch.Generator().manual_seed(seed))
    packed = pack_nibbles(codes)
    assert packed.shape == (n, -(-k // 2)) and packed.dtype == torch.uint8
    assert torch.equal(unpack_nibbles(packed, k), codes)
