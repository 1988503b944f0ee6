"""The loss curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepseek.core.errors import CheckpointError
from deepseek.training.state import Report

_CURVES = (("loss", "next token"), ("draft_loss", "token after next"))


def plot_losses(history: Sequence[Report], target: Path, title: str) -> Path:
    """Draw next-token and draft loss over tokens into a PNG. Raises CheckpointError if it cannot be written."""
    # Imported here: they take a second to load, and only the end of a run needs them.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for key, label in _CURVES:
        reports = [report for report in history if key in report]
        if reports:
            tokens = [report["tokens"] / 1e6 for report in reports]
            axes.plot(tokens, [report[key] for report in reports], linewidth=1, label=label)
            axes.legend()
    axes.set(title=title, xlabel="tokens (millions)", ylabel="loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    try:
        figure.savefig(target, dpi=120, format="png")
    except OSError as error:
        raise CheckpointError("cannot be written", where=target, found=error.strerror or error) from error
    return target
