"""Streaming text: never half a character, never a correction, and in the end what decoding everything gives."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_fixtures import FAMILIES, write_tokenizer

from deepseek.models.detokenize import Detokenizer
from deepseek.models.tokenizer import Tokenizer

STREAMED = ("deepseek-v3", "qwen2", "llama2", "metaspace-first")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {family: Tokenizer.from_dir(write_tokenizer(root / family, family)) for family in FAMILIES}


def stream(tokenizer: Tokenizer, chunks: list[list[int]], skip_special: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special)
    return [*(detokenizer.push(chunk) for chunk in chunks), detokenizer.flush()]


def cut(ids: list[int], seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    chunks: list[list[int]] = [[]]
    for token_id in ids:
        chunks[-1].append(token_id)
        while draw.random() < 0.5:
            chunks.append([])
    return chunks


@pytest.mark.parametrize("family", STREAMED)
@pytest.mark.parametrize("skip_special", [True, False])
def test_pieces_join_to_the_decoded_whole_for_any_ids_and_any_cut(
    tokenizers: dict[str, Tokenizer], family: str, skip_special: bool
) -> None:
    tokenizer = tokenizers[family]
    # Unknown ids and, in metaspace tokenizers, many bytes.
    any_id = st.one_of(st.integers(0, tokenizer.vocab_size + 2), st.integers(0, 260))

    @given(st.lists(any_id, max_size=40), st.integers(0, 10**6))
    @settings(max_examples=200)
    def check(ids: list[int], seed: int) -> None:
        assert "".join(stream(tokenizer, cut(ids, seed), skip_special)) == tokenizer.decode(ids, skip_special)

    check()


@pytest.mark.parametrize("family", STREAMED)
def test_spaces_and_bytes_mixed_join_to_the_decoded_whole(tokenizers: dict[str, Tokenizer], family: str) -> None:
    tokenizer = tokenizers[family]
    spellings = [
        "▁",
        "Ġ",
        " ",
        "a",
        "e",
        "<0x20>",
        "<0xE4>",
        "<0xBD>",
        "<0xA0>",
        "<0xFF>",
        "ä",
        "½",
        "ł",
        "</s>",
        "<unk>",
    ]
    awkward = [i for i in map(tokenizer.token_id, spellings) if i is not None]

    @given(st.lists(st.sampled_from(awkward), max_size=12), st.integers(0, 10**6))
    @settings(max_examples=300)
    def check(ids: list[int], seed: int) -> None:
        assert "".join(stream(tokenizer, cut(ids, seed))) == tokenizer.decode(ids)

    check()


def test_a_decoder_that_strips_several_spaces_strips_them_once(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path, "llama2") / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["decoder"]["decoders"][-1]["start"] = 2
    path.write_text(json.dumps(data), encoding="utf-8")
    tokenizer = Tokenizer.from_dir(tmp_path)
    space, letter = tokenizer.token_id("▁"), tokenizer.token_id("a")
    assert space is not None and letter is not None
    ids = [space, space, space, space, letter]
    assert "".join(stream(tokenizer, [[i] for i in ids])) == tokenizer.decode(ids) == "  a"


@pytest.mark.parametrize("family", STREAMED)
def test_no_piece_has_half_a_character(tokenizers: dict[str, Tokenizer], family: str) -> None:
    tokenizer = tokenizers[family]
    text = "你好 🐋🐳 hello 世界 ünï"
    pieces = stream(tokenizer, [[i] for i in tokenizer.encode(text)])
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_byte_level_text_is_shown_as_soon_as_a_character_is_whole(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["deepseek-v3"]
    ids = tokenizer.encode("🐋!", add_bos=False)
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.push([i]) for i in ids] == [""] * (len(ids) - 2) + ["🐋", "!"]


def test_an_unfinished_character_shows_as_a_replacement_at_the_end(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["deepseek-v3"]
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(tokenizer.encode("🐋", add_bos=False)[:-1]) == ""
    assert detokenizer.flush() == "\ufffd"


def test_bytes_that_never_become_text_are_not_held_for_ever(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["deepseek-v3"]
    invalid = tokenizer.token_id("ÿ")
    assert invalid is not None
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.push([invalid]) for _ in range(3)] == ["\ufffd"] * 3


@pytest.mark.parametrize("family", STREAMED)
def test_work_for_a_token_does_not_grow_with_the_length(tokenizers: dict[str, Tokenizer], family: str) -> None:
    tokenizer = tokenizers[family]
    decoded = 0

    class Counting:
        decoder_kind = tokenizer.decoder_kind
        shown_token = staticmethod(tokenizer.shown_token)

        @staticmethod
        def decode(ids: list[int], skip_special: bool = True) -> str:
            nonlocal decoded
            decoded += len(ids)
            return tokenizer.decode(ids, skip_special)

    ids = [*tokenizer.encode("hello 你好 ", add_bos=False)] * 200
    detokenizer = Detokenizer(Counting())
    for token_id in ids:
        detokenizer.push([token_id])
    assert decoded <= 6 * len(ids)


def test_text_of_an_empty_sequence_is_empty(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    assert stream(tokenizers["llama2"], []) == [""]
