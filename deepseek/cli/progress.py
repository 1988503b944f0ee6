"""Progress of long commands: a bar on a terminal, a line now and then in a pipe or a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0


class Ticker:
    """`update(done, text)` as often as one likes; what is shown and when depends on where it goes."""

    def __init__(self, screen: Console, total: int, done: int = 0) -> None:
        self.screen, self.total = screen, total
        self._last_line = float("-inf")
        self._bar: Progress | None = None
        if screen.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TimeRemainingColumn(), console=screen)
            self._task = self._bar.add_task("starting", total=total, completed=done)

    def __enter__(self) -> Ticker:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=text)
            return
        now = time.monotonic()
        if done >= self.total or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self.screen.print(Text(f"{done}/{self.total}  {text}"), soft_wrap=True)
