"""Turns a checkpoint of ours into GGUF with llama.cpp's own converter, in a process of its own.

    python benchmarks/support/convert_gguf.py LLAMA_SOURCE CHECKPOINT OUT.gguf bf16|f32

The converter refuses tokenizers whose hash it does not know. Ours is made up, so it is told to split as GPT-2 does:
benchmarks speak in token ids, and no weight depends on it.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import NoReturn


def main(source: str, checkpoint: str, out: str, precision: str) -> None:
    sys.path[:0] = [source, str(Path(source) / "gguf-py")]
    from conversion import base  # type: ignore[import-not-found]  # llama.cpp's

    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    base.TextModel._create_vocab_sentencepiece = _no_sentencepiece
    sys.argv = ["convert_hf_to_gguf.py", checkpoint, "--outfile", out, "--outtype", precision]
    runpy.run_path(str(Path(source) / "convert_hf_to_gguf.py"), run_name="__main__")


def _no_sentencepiece(self: object) -> NoReturn:
    """What the converter takes for "try the next kind of tokenizer"; its own test needs a package ours does without."""
    raise FileNotFoundError("tokenizer.model")


if __name__ == "__main__":
    main(*sys.argv[1:5])
