"""Perplexity and divergence against their definitions, and texts cut so that each token is scored once."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.core.errors import ConfigError
from deepseek.evaluation import perplexity as module
from deepseek.evaluation.perplexity import builtin_documents, measure, read_documents, windows_of
from deepseek.models.checkpoint import load_model
from deepseek.models.context import Packed
from deepseek.models.locate import builtin_dir
from deepseek.models.tokenizer import Tokenizer
from deepseek.models.transformer import Model
from deepseek.training.curriculum.mix import is_held_out

GSM8K = Path(os.environ.get("DEEPSEEK_GSM8K", "gsm8k")) / "train.jsonl"


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(builtin_dir())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_dir(builtin_dir())


@settings(deadline=None, max_examples=200)
@given(
    lengths=st.lists(st.integers(0, 60), max_size=6),
    context=st.integers(2, 25),
    limit=st.none() | st.integers(1, 100),
)
def test_every_token_but_the_first_is_scored_once_with_half_a_window_before_it(
    lengths: list[int], context: int, limit: int | None
) -> None:
    documents = [[1000 * number + place for place in range(length)] for number, length in enumerate(lengths)]
    windows = windows_of(documents, context, limit)
    scored = [token for window in windows for token in window.ids[window.first :]]
    expected = [token for document in documents for token in document[1:]]
    assert scored == expected[:limit]
    for window in windows:
        assert 1 <= window.first < len(window.ids) <= context
        whole = documents[window.ids[0] // 1000]
        start = window.ids[0] % 1000
        assert window.ids == whole[start : start + len(window.ids)]
        assert window.first >= context // 2 or start == 0


def test_perplexity_and_divergence_are_their_definitions(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEP_TOKENS", 50)
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", 7 * 4096)
    quantised = load_model(builtin_dir(), quantization="int4")
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(300, 4000, (length,), generator=generator).tolist() for length in (20, 33, 9)]
    report = measure(quantised, windows_of(documents, 64), model).to_json()

    nll: list[float] = []
    reference_nll: list[float] = []
    divergence: list[float] = []
    same = 0
    with torch.inference_mode():
        for ids in documents:
            tokens = torch.tensor(ids)
            q, p = (
                one.logits(one(tokens, Packed.of([len(ids)])))[:-1].double().log_softmax(-1)
                for one in (quantised, model)
            )
            nll += (-q.gather(1, tokens[1:, None])[:, 0]).tolist()
            reference_nll += (-p.gather(1, tokens[1:, None])[:, 0]).tolist()
            divergence += torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1).tolist()
            same += int((q.argmax(-1) == p.argmax(-1)).sum())
    count = len(nll)
    assert report["tokens"] == count == 59
    assert report["perplexity"] == pytest.approx(math.exp(sum(nll) / count), rel=1e-5)
    assert report["reference_perplexity"] == pytest.approx(math.exp(sum(reference_nll) / count), rel=1e-5)
    assert report["perplexity_ratio"] == pytest.approx(report["perplexity"] / report["reference_perplexity"], rel=1e-9)
    assert report["kl_mean"] == pytest.approx(sum(divergence) / count, rel=1e-3)
    assert report["kl_max"] == pytest.approx(max(divergence), rel=1e-3)
    assert report["same_top_share"] == pytest.approx(same / count)
    differences = torch.tensor(nll, dtype=torch.float64) - torch.tensor(reference_nll, dtype=torch.float64)
    error = report["perplexity_ratio"] * float(differences.std(correction=0)) / math.sqrt(count)
    assert report["perplexity_ratio_error"] == pytest.approx(error, rel=1e-3)


def test_a_model_does_not_differ_from_itself(model: Model) -> None:
    report = measure(model, windows_of([list(range(300, 340))], 64), model).to_json()
    assert (report["perplexity_ratio"], report["kl_mean"], report["same_top_share"]) == (1.0, 0.0, 1.0)


def test_nothing_to_score_is_said(model: Model) -> None:
    with pytest.raises(ConfigError, match="holds nothing to score"):
        measure(model, windows_of([[5], []], 64))
    with pytest.raises(ConfigError, match="context: is too short to predict anything; found 1"):
        windows_of([[5, 6]], 1)


def test_a_text_file_is_one_document_behind_its_beginning_token(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("Hello\n\nworld", encoding="utf-8")
    assert list(read_documents(file, tokenizer)) == [[tokenizer.bos_id, *tokenizer.encode("Hello\n\nworld", False)]]


def test_a_line_of_jsonl_is_its_text_or_all_its_texts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    lines = [{"text": "one", "id": "x"}, {"question": "two?", "answer": "2", "number": 5}]
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
    expected = [[tokenizer.bos_id, *tokenizer.encode(text, False)] for text in ("one", "two?\n2")]
    assert list(read_documents(file, tokenizer)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\nnot JSON\n', "line 2: is not JSON"),
        (b'{"text": 5}\n', r"line 1: holds no text; found .*expected \{\"text\": "),
        (b"[1, 2]\n", "line 1: holds no text"),
        (b"5\n", "line 1: holds no text"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(
    tokenizer: Tokenizer, tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        list(read_documents(file, tokenizer))
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read_documents(tmp_path / "missing.txt", tokenizer))


def test_the_built_in_text_is_held_out_whole_and_the_same_every_time(tokenizer: Tokenizer) -> None:
    documents = list(builtin_documents(builtin_dir() / "tokenizer.json", draws=2))
    assert documents == list(builtin_documents(builtin_dir() / "tokenizer.json", draws=2))
    assert len(documents) == 24 and all(ids[0] == tokenizer.bos_id for ids in documents)
    user, answer = tokenizer.token_id("<｜User｜>"), tokenizer.token_id("<｜Assistant｜>")
    for ids in documents:
        last = len(ids) - 1 - ids[::-1].index(user)
        assert is_held_out(tokenizer.decode(ids[last + 1 : ids.index(answer, last)]))


# What docs/quantization.md promises, on a small part of its texts; the margins leave room for how small it is.
@pytest.mark.parametrize(("mode", "limit"), [("int8", 0.005), ("int4", 0.03)])
def test_quantising_the_built_in_model_costs_no_more_perplexity_than_promised(
    model: Model, mode: str, limit: float
) -> None:
    windows = windows_of(builtin_documents(builtin_dir() / "tokenizer.json", draws=2), 512, 2000)
    report = measure(load_model(builtin_dir(), quantization=mode), windows, model).to_json()  # type: ignore[arg-type]
    assert report["perplexity_ratio"] - 1 < limit + 2 * report["perplexity_ratio_error"]
    assert report["kl_mean"] < {"int8": 0.002, "int4": 0.01}[mode]
    assert report["same_top_share"] > {"int8": 0.97, "int4": 0.94}[mode]


@pytest.mark.skipif(not GSM8K.exists(), reason="set DEEPSEEK_GSM8K to the directory with gsm8k's train.jsonl")
@pytest.mark.parametrize(("mode", "limit"), [("int8", 0.005), ("int4", 0.03)])
def test_quantising_costs_no_more_on_a_text_the_model_never_saw(
    model: Model, tokenizer: Tokenizer, mode: str, limit: float
) -> None:
    windows = windows_of(read_documents(GSM8K, tokenizer), 512, 3000)
    report = measure(load_model(builtin_dir(), quantization=mode), windows, model).to_json()  # type: ignore[arg-type]
    assert report["perplexity_ratio"] - 1 < limit + 2 * report["perplexity_ratio_error"]
