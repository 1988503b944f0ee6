"""A server of made-up tokens with budgets, for the tests that kill one: python metered_server.py DATABASE CAP."""

import sys

from metering_support import budget, opened

from deepseek.api import serve
from deepseek.engine.fake import FakeEngine, babble

if __name__ == "__main__":
    path, cap = sys.argv[1:]
    engine = FakeEngine(reply=babble, ttft_s=0.0, inter_token_s=0.002, max_model_len=10**6)
    with opened(path) as books:
        state = books.state(engine, books.meter([budget(tokens=int(cap))]))
        state.max_model_len = 10**6
        serve(state, port=0, grace_s=0.0, on_ready=lambda url: print(url, flush=True))
