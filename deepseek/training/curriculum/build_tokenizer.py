"""Build the tokenizer of the built-in model: ``python -m deepseek.training.curriculum.build_tokenizer``.

A byte-level BPE of 4,096 tokens, trained on rendered samples. It is cut for copying: a digit, a Chinese character and a
space are each a token of their own and a word never carries its space, so a text is spelt with the same tokens wherever
it stands, in a question or between JSON quotes. JSON's punctuation (``": "``) is one token. Any Unicode text round-trips.
The same code and seed give the same file, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from deepseek.training.curriculum import words
from deepseek.training.curriculum.mix import sample_at
from deepseek.training.curriculum.sample import BOS, EOS, PAD, SPECIAL_TOKENS

VOCAB_SIZE = 4096
SAMPLES = 40_000
MAX_LENGTH = 512
BUILTIN = Path(__file__).parents[2] / "models" / "builtin"

# Alternatives in order: JSON punctuation, one digit, one Han character, a word with its apostrophe, line breaks with a
# heading mark, one space, any other single character.
PIECES = (
    r"""\{"|": "|": |", "|, "|"\}"""
    r"""|\p{N}|\p{Han}"""
    r"""|(?:(?!\p{Han})[\p{L}\p{M}])+(?:'(?:s|t|re|ve|m|ll|d)(?!\p{L}))?"""
    r"""|\n+(?:\#+ )?| |[\s\S]"""
)


def build(samples: int = SAMPLES) -> Tokenizer:
    """Train on `samples` samples from all stages of the curriculum."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(text, normalized=False, special=True) for text in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=3,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(samples), trainer)
    return tokenizer


def _texts(samples: int) -> Iterator[str]:
    for index in range(samples):
        sample = sample_at(0, index, index / samples)
        for segment in sample.segments():
            if not segment.special:
                yield segment.text
    # Each common character becomes a token although few samples hold it.
    for _ in range(40):
        yield words.COMMON_HAN


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` in Hugging Face form."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_LENGTH,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    save(build(), BUILTIN)
