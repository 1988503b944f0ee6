"""vLLM on the CPU as a peer, in its own interpreter: it pins its own torch, so it is given as the Python that has it.

Run as a script by that interpreter, this file is the worker: one JSON object a line in (prompts of ids, new tokens), one
out (ids, seconds). Imported, it is the contestant that talks to it. The engine's core stays in the worker's process, all
cores compute, its prefix cache and chunked prefill stay as they come.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

READY, ANSWER = "vllm-ready", "vllm-answer"


class Vllm:
    """dtype: "float32" or "bfloat16". kv_gib: its key-value cache."""

    def __init__(
        self, python: Path, checkpoint: Path, dtype: str, max_length: int, cores: int, kv_gib: int = 2
    ) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": str(kv_gib),
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{cores - 1}",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the worker
        self._process = subprocess.Popen(
            [str(python), __file__, str(checkpoint), dtype, str(max_length)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self._read(READY)

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> float:
        """Greedy, past any end of sequence. Seconds for all of it, on the worker's own clock."""
        assert self._process.stdin is not None
        job = {"prompts": [list(ids) for ids in prompts], "new_tokens": new_tokens}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._read(ANSWER))
        if answer["counts"] != [new_tokens] * len(prompts):
            raise RuntimeError(f"vLLM gave {answer['counts']} tokens where {new_tokens} were asked for")
        return float(answer["seconds"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _read(self, mark: str) -> str:
        """The rest of the next line with this mark; other lines are the library's own. Raises RuntimeError at the end."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(mark):
                return line[len(mark) :]
        self._process.wait()
        self._errors.seek(0)
        raise RuntimeError(f"vLLM ended ({self._process.returncode}):\n{self._errors.read()[-3000:]}")


def _work(checkpoint: str, dtype: str, max_length: str) -> None:
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]  # only in the peer's interpreter

    llm = LLM(checkpoint, dtype=dtype, max_model_len=int(max_length), max_num_seqs=16, disable_log_stats=True)
    print(READY, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        params = SamplingParams(temperature=0, max_tokens=job["new_tokens"], ignore_eos=True, detokenize=True)
        prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
        start = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - start
        counts = [len(output.outputs[0].token_ids) for output in outputs]
        print(ANSWER, json.dumps({"seconds": seconds, "counts": counts}), flush=True)


if __name__ == "__main__":
    _work(*sys.argv[1:4])
