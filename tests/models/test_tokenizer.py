"""What the tokenizer promises about text in, ids out and the files it is read from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_fixtures import CHATML_TOKENS, DEEPSEEK_TOKENS, FAMILIES, LLAMA3_TOKENS, write_tokenizer
from transformers import PreTrainedTokenizerFast

from deepseek.core.errors import AdmissionError, TokenizerError
from deepseek.models.tokenizer import Tokenizer

ALL_LITERALS = [*DEEPSEEK_TOKENS, *CHATML_TOKENS, *LLAMA3_TOKENS, "<s>", "</s>", "<unk>"]
TEXT = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(ALL_LITERALS)), max_size=6).map("".join)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {family: Tokenizer.from_dir(write_tokenizer(root / family, family)) for family in FAMILIES}


@pytest.fixture(scope="module")
def deepseek(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers["deepseek-v3"]


def change_json(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(data | changes), encoding="utf-8")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["What is 12345 + 678?", " two  spaces", "你好，世界 🐋", "a\n\n\tb", "", "ünïcødé ﬁ"])
def test_raw_text_gets_the_ids_transformers_gives(tokenizers: dict[str, Tokenizer], family: str, text: str) -> None:
    tokenizer = tokenizers[family]
    oracle = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer.source / "tokenizer.json"))
    assert tokenizer.encode(text, add_bos=False) == oracle.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_control_id_comes_out_of_raw_text(tokenizers: dict[str, Tokenizer], family: str) -> None:
    tokenizer = tokenizers[family]
    control = {token.id for token in tokenizer.control_tokens.values() if token.content != "<unk>"}
    assert len(control) >= 2

    @given(TEXT)
    @settings(max_examples=60)
    def check(text: str) -> None:
        assert control.isdisjoint(tokenizer.encode(text, add_bos=False))

    check()


@pytest.mark.parametrize("literal", DEEPSEEK_TOKENS)
def test_a_control_token_typed_as_text_comes_back_as_the_same_text(deepseek: Tokenizer, literal: str) -> None:
    ids = deepseek.encode(f"a{literal}b", add_bos=False)
    assert deepseek.control_tokens[literal].id not in ids
    assert deepseek.decode(ids, skip_special=True) == f"a{literal}b"


def test_trusted_text_may_have_its_control_tokens_parsed(deepseek: Tokenizer) -> None:
    ids = deepseek.encode("<｜User｜>hi", add_bos=False, parse_control=True)
    assert ids[0] == deepseek.token_id("<｜User｜>")


def test_single_characters_added_as_vocabulary_stay_ordinary_and_keep_their_id(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path)
    data = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    flags = {"special": False, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    data["added_tokens"].append({"id": 436, "content": "🐋", **flags})
    change_json(directory / "tokenizer.json", **data)
    assert Tokenizer.from_dir(directory).encode("🐋", add_bos=False) == [436]


def test_a_control_token_that_merges_can_build_is_still_out_of_reach(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path, "qwen2")
    data = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["vocab"]["<s>"] = 500
    data["model"]["vocab"]["<s"] = 501
    data["model"]["merges"] = [["<", "s"], ["<s", ">"], *data["model"]["merges"]]
    flags = {"special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    data["added_tokens"].append({"id": 500, "content": "<s>", **flags})
    change_json(directory / "tokenizer.json", **data)
    assert 500 not in Tokenizer.from_dir(directory).encode("<s>")


@pytest.mark.parametrize(("family", "begins"), [("deepseek-v3", True), ("qwen2", False), ("llama2", True)])
def test_bos_is_added_where_the_model_uses_one(tokenizers: dict[str, Tokenizer], family: str, begins: bool) -> None:
    tokenizer = tokenizers[family]
    assert (tokenizer.encode("hi")[0] == tokenizer.bos_id) is begins
    assert tokenizer.encode("hi", add_bos=False) == tokenizer.encode("hi")[begins:]


def test_named_tokens_may_be_written_as_objects(tmp_path: Path) -> None:
    plain = Tokenizer.from_dir(write_tokenizer(tmp_path / "a"))
    directory = write_tokenizer(
        tmp_path / "b", bos_token={"__type": "AddedToken", "content": plain.named_tokens["bos_token"]}
    )
    assert Tokenizer.from_dir(directory).bos_id == plain.bos_id


def test_every_id_that_ends_an_answer_is_collected(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path)
    change_json(directory / "generation_config.json", eos_token_id=[421, 424])
    change_json(directory / "config.json", eos_token_id=425)
    assert sorted(Tokenizer.from_dir(directory).eos_ids) == [421, 424, 425]


def test_a_template_file_takes_precedence_over_the_field(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path, chat_template="from the field")
    (directory / "chat_template.jinja").write_text("from the file", encoding="utf-8")
    assert Tokenizer.from_dir(directory).chat_template == "from the file"


def test_of_several_named_templates_the_default_is_used(tmp_path: Path) -> None:
    several = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    assert Tokenizer.from_dir(write_tokenizer(tmp_path, chat_template=several)).chat_template == "d"


def test_padding_and_truncation_in_the_file_are_ignored(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path)
    change_json(
        directory / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    )
    assert len(Tokenizer.from_dir(directory).encode("one two three four")) > 2


def test_token_bytes_of_a_text_join_to_the_text(tokenizers: dict[str, Tokenizer]) -> None:
    for family in ("deepseek-v3", "qwen2"):
        tokenizer = tokenizers[family]
        ids = tokenizer.encode("你好 🐋 hello", add_bos=False)
        assert b"".join(map(tokenizer.token_bytes, ids)) == "你好 🐋 hello".encode()
    llama = tokenizers["llama2"]
    ids = llama.encode("你 hello", add_bos=False)
    assert b"".join(map(llama.token_bytes, ids)) == " 你 hello".encode()


def test_token_bytes_of_a_control_token_are_its_literal(deepseek: Tokenizer) -> None:
    assert deepseek.token_bytes(deepseek.control_tokens["<｜User｜>"].id) == "<｜User｜>".encode()


def test_token_bytes_refuses_an_unknown_id(deepseek: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="found 99999"):
        deepseek.token_bytes(99999)


def test_decoding_leaves_out_special_tokens_only_if_asked(deepseek: Tokenizer) -> None:
    ids = [deepseek.bos_id or 0, *deepseek.encode("hi", add_bos=False)]
    assert deepseek.decode(ids) == "hi"
    assert deepseek.decode(ids, skip_special=False) == "<｜begin▁of▁sentence｜>hi"


def test_spare_embedding_rows_are_fine_and_missing_ones_are_not(deepseek: Tokenizer) -> None:
    deepseek.check_fits(deepseek.vocab_size)
    deepseek.check_fits(deepseek.vocab_size + 100)
    with pytest.raises(TokenizerError, match=r"2 ids from 434 .*expected ids below 434.*Fix:"):
        deepseek.check_fits(434)


def test_text_with_half_a_surrogate_pair_is_refused(deepseek: Tokenizer) -> None:
    with pytest.raises(AdmissionError, match=r"character 1.*U\+D83D"):
        deepseek.encode("a\ud83d")


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"nowhere: no such directory"):
        Tokenizer.from_dir(tmp_path / "nowhere")


def test_a_sentencepiece_model_alone_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(TokenizerError, match=r"found tokenizer.model.*save_pretrained"):
        Tokenizer.from_dir(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "1.0"}', '{"model": {"type": "Nope"}}', "\udcff"])
def test_a_damaged_tokenizer_file_is_named(tmp_path: Path, content: str) -> None:
    directory = write_tokenizer(tmp_path)
    (directory / "tokenizer.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json.*Fix:"):
        Tokenizer.from_dir(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bos_token": 7}, "'bos_token'.*found 7"),
        ({"eos_token": "<nope>"}, "eos_token is not in the vocabulary; found '<nope>'"),
        ({"add_bos_token": "yes"}, "'add_bos_token'.*expected true or false"),
        ({"chat_template": 3}, "'chat_template'.*found 3"),
        ({"chat_template": [{"name": "rag", "template": "x"}]}, 'one named "default"'),
    ],
)
def test_an_unusable_field_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_dir(write_tokenizer(tmp_path, **changes))


@pytest.mark.parametrize("value", ["</s>", -1, [1, "x"], True])
def test_eos_ids_that_are_not_ids_are_refused(tmp_path: Path, value: object) -> None:
    directory = write_tokenizer(tmp_path)
    change_json(directory / "generation_config.json", eos_token_id=value)
    with pytest.raises(TokenizerError, match=r"generation_config\.json.*eos_token_id"):
        Tokenizer.from_dir(directory)


def test_a_decoder_that_cannot_be_streamed_is_refused(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path)
    change_json(directory / "tokenizer.json", decoder={"type": "BPEDecoder", "suffix": "</w>"})
    with pytest.raises(TokenizerError, match=r"cannot stream.*found BPEDecoder"):
        Tokenizer.from_dir(directory)
