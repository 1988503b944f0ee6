"""llama.cpp as a peer: its tools where the user built them, the same weights as GGUF, and its own benchmarks' numbers.

Every setting is its users' best: one thread a core, its default batch sizes and weight repacking, flash attention on or
off by whichever was faster in a trial. `llama-bench` and `llama-batched-bench` neither sample nor detokenise, which we
do; the difference is left in its favour.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepseek.kernels.backend import physical_cores
from deepseek.models.transformer import Quantization
from support.report import NotMeasured, progress
from support.served import HOST, free_port, post, running

Format = Literal["q8_0", "q4_0", "f32", "bf16"]
FORMATS: dict[Quantization, Format] = {"int8": "q8_0", "int4": "q4_0"}
"""Our quantisation to its format of equal bits."""

_LIMIT_S = 1800.0
_TRIES = 8  # of llama-batched-bench, whose output is not always whole


@dataclass(frozen=True, slots=True)
class Llama:
    """bin: the directory with llama-bench and its siblings. source: llama.cpp's source tree, for its converter."""

    bin: Path | None = None
    source: Path | None = None

    def tool(self, name: str) -> Path:
        """Raises NotMeasured, with what to do, where the tool is missing."""
        if self.bin is None:
            raise NotMeasured("llama.cpp is not given (--llama-bin or LLAMA_BIN)")
        path = self.bin / name
        if not path.exists():
            raise NotMeasured(f"{name} is not in --llama-bin")
        return path

    def gguf(self, checkpoint: Path, form: Format) -> Path:
        """The checkpoint's weights in `form`, beside it; made once, with llama.cpp's own converter and quantiser."""
        made = checkpoint.with_name(f"{checkpoint.name}.{form}.gguf")
        if made.exists():
            return made
        aside = made.with_suffix(".writing")
        if form in ("f32", "bf16"):
            if self.source is None:
                raise NotMeasured("llama.cpp's source is not given (--llama-source or LLAMA_SOURCE)")
            script = Path(__file__).with_name("convert_gguf.py")
            command = [sys.executable, script, self.source, checkpoint, aside, form]
        else:
            command = [self.tool("llama-quantize"), self.gguf(checkpoint, "bf16"), aside, form.upper()]
        progress(f"llama.cpp: writing {made.name}")
        _run([str(part) for part in command])
        aside.replace(made)
        return made

    def bench(self, gguf: Path, *, prompt: int, new: int, flash: bool, repeats: int = 1) -> list[dict[str, Any]]:
        """llama-bench's rows: one for the prompt, one for decoding (avg_ts: tokens a second), as far as asked for."""
        command = [self.tool("llama-bench"), "-m", gguf, "-p", prompt, "-n", new, "-r", repeats]
        command += ["-t", physical_cores(), "-fa", int(flash), "-o", "json"]
        rows: list[dict[str, Any]] = json.loads(_run([str(part) for part in command]))
        return rows

    def speed(self, gguf: Path, *, prompt: int = 0, new: int = 0, flash: bool) -> float:
        """Tokens a second of one of the two."""
        (row,) = self.bench(gguf, prompt=prompt, new=new, flash=flash)
        return float(row["avg_ts"])

    def streams(self, gguf: Path, *, count: int, prompt: int, new: int, flash: bool) -> Streams:
        """`count` prompts together, then all of them decoded together, by llama-batched-bench."""
        cells = count * (prompt + new) + 512
        command = [self.tool("llama-batched-bench"), "-m", gguf, "-c", cells, "-npp", prompt, "-ntg", new]
        # Its logging thread may lose what is printed just before the end, so that a second, small row comes after ours.
        command += ["-npl", f"{count},1", "-t", physical_cores(), "-tb", physical_cores()]
        command += ["-fa", "on" if flash else "off", "--output-format", "jsonl"]
        for _ in range(_TRIES):
            printed = _run([str(part) for part in command])
            rows = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
            for row in rows:
                if row["pl"] == count:
                    return Streams(count * new, float(row["t_pp"]), float(row["t_tg"]))
        raise RuntimeError(f"llama-batched-bench gave no numbers in {_TRIES} runs:\n{printed[-2000:]}")

    @contextmanager
    def server(self, gguf: Path, *, slots: int, cells: int, flash: bool, unified: bool = True) -> Iterator[LlamaServer]:
        """llama-server with `slots` slots on `cells` cache cells: one pool of all, or each slot its own share."""
        port = free_port()
        command = [self.tool("llama-server"), "-m", gguf, "--host", HOST, "--port", port, "-np", slots, "-c", cells]
        command += ["-t", physical_cores(), "-tb", physical_cores(), "-fa", "on" if flash else "off", "--no-webui"]
        command += ["--kv-unified" if unified else "--no-kv-unified"]
        with running([str(part) for part in command], port, "/health"):
            yield LlamaServer(port)


@dataclass(frozen=True, slots=True)
class Streams:
    """new_tokens of all streams; seconds of the prompts and of decoding."""

    new_tokens: int
    prompt_s: float
    decode_s: float

    @property
    def tokens_per_s(self) -> float:
        """New tokens over the whole time, prompts included."""
        return self.new_tokens / (self.prompt_s + self.decode_s)


@dataclass(frozen=True, slots=True)
class LlamaServer:
    port: int

    def complete(self, ids: list[int], new: int) -> int:
        """Tokens of one greedy completion. The prompt is sent as ids, which spares it the tokenising."""
        body = {"prompt": ids, "n_predict": new, "ignore_eos": True, "cache_prompt": True, "stream": False}
        return int(post(self.port, "/completion", body | {"samplers": ["top_k"], "top_k": 1})["tokens_predicted"])


@dataclass(frozen=True, slots=True)
class Flash:
    """Whether flash attention is the faster for a prompt, for decoding one stream, and for several streams."""

    prompt: bool
    decode: bool
    streams: bool


def choose_flash(llama: Llama, gguf: Path, *, prompt: int, new: int, streams: tuple[int, int, int]) -> Flash:
    """A trial of both. streams: how many, and their prompt and new tokens."""
    best: dict[str, tuple[float, bool]] = {}
    count, streams_prompt, streams_new = streams
    for flash in (False, True):
        speeds = {
            "prompt" if row["n_prompt"] else "decode": float(row["avg_ts"])
            for row in llama.bench(gguf, prompt=prompt, new=new, flash=flash, repeats=2)
        }
        together = llama.streams(gguf, count=count, prompt=streams_prompt, new=streams_new, flash=flash)
        for kind, speed in (speeds | {"streams": together.tokens_per_s}).items():
            best[kind] = max(best.get(kind, (0.0, False)), (speed, flash))
    return Flash(**{kind: flash for kind, (_, flash) in best.items()})


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}):\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout
