"""`deepseek chat`: a conversation in the terminal, streamed."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from deepseek.chat.codec import TextCodec
from deepseek.cli.screen import print_line
from deepseek.core.engine import Tokens
from deepseek.core.errors import AdmissionError
from deepseek.core.messages import Message, TextPart
from deepseek.core.sampling import SamplingParams
from deepseek.engine.build import EngineOptions
from deepseek.engine.llm import LLM
from deepseek.models.locate import display_name


def run(model: str, options: EngineOptions, system: str | None, params: SamplingParams) -> None:
    """Read lines, answer each. Answers go to stdout, all else to stderr, so that both can be piped.

    When the conversation outgrows the context its oldest turns are dropped, and that is said. Ctrl-C ends an answer;
    at the prompt it ends the conversation.
    """
    screen = Console(stderr=True)
    with screen.status(Text(f"loading {model}")):
        llm = LLM(model, options=options)
        codec = TextCodec(llm.tokenizer)
    print_line(screen, f"{display_name(model)}. An empty line ends, /reset forgets.", "dim")
    conversation = _Conversation(llm, codec, params, screen)
    if system:
        conversation.opening.append(Message("system", (TextPart(system),)))
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not line:
            return
        if line == "/reset":
            conversation.turns.clear()
        else:
            conversation.ask(line)


class _Conversation:
    def __init__(self, llm: LLM, codec: TextCodec, params: SamplingParams, screen: Console) -> None:
        self.llm, self.codec, self.params, self.screen = llm, codec, params, screen
        self.opening: list[Message] = []
        self.turns: list[Message] = []

    def ask(self, line: str) -> None:
        """Print the answer to one line and remember both; a line that cannot be answered is not remembered."""
        self.turns.append(Message("user", (TextPart(line),)))
        try:
            answer = self._answer()
        except AdmissionError as error:
            self.turns.pop()
            print_line(self.screen, str(error), "red")
            return
        self.turns.append(Message("assistant", (TextPart(answer),)))

    def _answer(self) -> str:
        said: list[str] = []

        def show(_index: int, tokens: Tokens) -> None:
            said.append(tokens.text)
            print(tokens.text, end="", flush=True)

        while True:
            ids = self.codec.encode_chat([*self.opening, *self.turns])
            try:
                self.llm.generate(ids, self.params, on_token=show)
            except AdmissionError as error:
                if error.reason != "too_long" or len(self.turns) < 3:
                    raise
                del self.turns[:2]
                print_line(self.screen, "(the oldest turn no longer fits and is forgotten)", "dim")
                continue
            except KeyboardInterrupt:
                pass  # what was said so far is the answer
            print()
            return "".join(said)
