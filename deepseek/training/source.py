"""The built-in model's curriculum as a source of token sequences."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from deepseek.core.errors import ConfigError, TokenizerError
from deepseek.training.curriculum.course import course_sample_at
from deepseek.training.curriculum.mix import sample_at
from deepseek.training.curriculum.sample import encode

_ATTEMPT_STRIDE = 1 << 40  # a sample that is too long is replaced by the one this far away


class CurriculumSource:
    """Samples of `deepseek.training.curriculum`, addressed by index; none is longer than `max_length` tokens.

    course: "basics" or "agent".
    """

    def __init__(self, tokenizer_file: Path, seed: int, max_length: int, course: str = "basics") -> None:
        try:
            self.tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:
            raise TokenizerError("cannot be read", where=tokenizer_file, found=error) from None
        self.seed, self.max_length = seed, max_length
        self._sample_at = course_sample_at if course == "agent" else sample_at

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    def sample(self, index: int, share: float) -> tuple[list[int], list[bool]]:
        for attempt in range(16):
            sample = self._sample_at(self.seed, index + attempt * _ATTEMPT_STRIDE, share)
            ids, by_assistant = encode(sample, self.tokenizer)
            if len(ids) <= self.max_length:
                return ids, by_assistant
        raise ConfigError(
            "every sample drawn is too long", where="data.max_length", found=self.max_length, fix="raise it"
        )
