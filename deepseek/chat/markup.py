"""The parser of a model's answer: thinking first, then text, with calls in it.

Thinking stands in `<think>` and `</think>`, which DeepSeek's tokenizers have as one token each (R1 and V3.1: their
`tokenizer_config.json`; V4: `encoding/README.md`). Often the prompt has the opening tag already: R1's and V3.1's, V4's
in thinking mode. Without thinking V3.1's and V4's prompts end in `</think>`. The line breaks that models write around
thinking are not part of it, nor of the answer's beginning; DeepSeek's own deepseek-recipe leaves them out too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from deepseek.chat.calls import CallReader, DeltaWriter, NewId, Progress, new_call_id
from deepseek.chat.dsml import DsmlMarkers, DsmlReader
from deepseek.chat.scanner import Marker, Markers, Scanner
from deepseek.chat.tool_tokens import ToolTokenMarkers, ToolTokenReader
from deepseek.core.deltas import Delta

THINK_BEGIN, THINK_END = "<think>", "</think>"


class Markup:
    """What one tokenizer's models write beside text. Immutable; makes a parser for each answer.

    control_tokens: the literals that the tokenizer has as one token; none: all markup is known by its characters.
    special: those of them that are never text, wherever they come (the ones that `skip_special_tokens` skips).
    thinks: whether the models think between tags. calls: how they write calls; None: not at all.
    """

    def __init__(
        self,
        control_tokens: Iterable[str] = (),
        special: Iterable[str] = (),
        *,
        thinks: bool = True,
        calls: type[ToolTokenMarkers] | type[DsmlMarkers] | None = None,
    ) -> None:
        tokens = tuple(control_tokens)
        ignored = [Marker.of(literal, tokens) for literal in special]
        self.thinks, self.calls = thinks, calls is not None
        self._reader: Callable[[], CallReader] | None = None
        begins: tuple[Marker, ...] = ()
        # Line breaks before DSML belong to it; before other calls the template writes none.
        self.eats_breaks = calls is DsmlMarkers
        if calls is DsmlMarkers:
            dsml = DsmlMarkers(tokens, ignored)
            begins, self._reader = dsml.begins, lambda: DsmlReader(dsml)
        elif calls is ToolTokenMarkers:
            tool_tokens = ToolTokenMarkers(tokens, ignored)
            begins, self._reader = tool_tokens.begins, lambda: ToolTokenReader(tool_tokens)
        self.think_begin, self.think_end = Marker.of(THINK_BEGIN, tokens), Marker.of(THINK_END, tokens)
        thinking = (self.think_begin, self.think_end) if thinks else ()
        self._in_text = {
            True: Markers([*thinking, *begins], ignored),
            False: Markers(thinking, ignored),
        }
        # A tag that opens thinking anew is dropped if it was sampled; as mere characters it is thought.
        ignored = [*ignored, self.think_begin] if self.think_begin.controls else ignored
        self._in_thinking = {
            True: Markers([self.think_end, *begins], ignored),
            False: Markers([self.think_end], ignored),
        }

    def parser(
        self, *, tools: bool, thinking: bool = False, answering: bool = False, new_id: NewId = new_call_id
    ) -> MarkupParser:
        """A parser for one answer.

        tools: whether calls are read; otherwise they are text. thinking: whether the prompt opened it already.
        answering: whether the prompt closed it already, so that line breaks at the beginning are not text.
        """
        reader = self._reader() if tools and self._reader is not None else None
        return MarkupParser(self, reader, thinking=thinking, strip=thinking or answering, new_id=new_id)

    def in_text(self, calls: bool) -> Markers:
        return self._in_text[calls]

    def in_thinking(self, calls: bool) -> Markers:
        return self._in_thinking[calls]


class MarkupParser:
    """Implements `StreamParser`; made by `Markup.parser`."""

    def __init__(
        self, markup: Markup, reader: CallReader | None, *, thinking: bool, strip: bool, new_id: NewId
    ) -> None:
        self._markup = markup
        self._reader = reader
        self._scanner = Scanner()
        self._out = DeltaWriter(new_id)
        self._thinking = thinking
        self._calling = False
        self._strip = strip  # at the beginning of a part whose line breaks are left out
        self._begun = False  # something was said
        self._breaks = 0  # line breaks held back: what follows may swallow them

    def feed(self, text: str, controls: Sequence[int] = ()) -> list[Delta]:
        self._scanner.feed(text, controls)
        self._run(closing=False)
        return self._out.take()

    def close(self) -> list[Delta]:
        self._run(closing=True)
        if self._calling and self._reader is not None:
            self._reader.close(self._out)
        elif not self._thinking:
            self._out.text("\n" * self._breaks)
        else:
            self._out.thinking("\n" * self._breaks)
        self._breaks = 0
        return self._out.take()

    def _run(self, *, closing: bool) -> None:
        while True:
            if self._calling and self._reader is not None:
                progress = self._reader.step(self._scanner, self._out, closing)
                if progress is Progress.DONE:
                    self._calling = False
                elif progress is Progress.WAIT:
                    return
                continue
            markers = self._markup.in_thinking if self._thinking else self._markup.in_text
            text, marker = self._scanner.take(markers(self._reader is not None), closing)
            self._say(text)
            if marker is None:
                return
            self._turn(marker)

    def _turn(self, marker: Marker) -> None:
        markup = self._markup
        if marker == markup.think_end:
            if self._thinking:
                self._breaks, self._thinking, self._strip = 0, False, True
            else:
                self._release()
                self._strip = False  # one too many; it is nobody's text
        elif marker == markup.think_begin:
            if self._begun and not marker.controls:
                self._say(marker.literal)
                return
            self._release()
            self._thinking = self._strip = True
        elif self._reader is not None:
            if self._thinking or markup.eats_breaks:
                self._breaks = 0
            self._release()
            self._thinking = self._strip = False
            self._calling = True
            self._reader.begin(marker)
        self._begun = True

    def _say(self, text: str) -> None:
        if self._strip:
            text = text.lstrip("\n")
        if not text:
            return
        self._strip = False
        if self._thinking or self._markup.eats_breaks:
            kept = text.rstrip("\n")
            held = len(text) - len(kept)
            if not kept:
                self._breaks += held
                return
            text, breaks = "\n" * self._breaks + kept, held
        else:
            breaks = 0
        self._breaks = breaks
        self._begun = self._begun or not text.isspace()
        if self._thinking:
            self._out.thinking(text)
        else:
            self._out.text(text)

    def _release(self) -> None:
        """What was held back is text after all."""
        breaks, self._breaks = "\n" * self._breaks, 0
        if self._thinking:
            self._out.thinking(breaks)
        else:
            self._out.text(breaks)
