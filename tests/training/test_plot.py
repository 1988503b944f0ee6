"""The loss curve is a picture one can open."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from deepseek.core.errors import CheckpointError
from deepseek.training.plot import plot_losses

HISTORY = [{"tokens": 1e6 * step, "loss": 5.0 / step, "draft_loss": 6.0 / step} for step in range(1, 9)]


def test_the_curve_is_a_png_with_something_drawn(tmp_path: Path) -> None:
    with Image.open(plot_losses(HISTORY, tmp_path / "loss.png", "tiny")) as image:
        assert image.format == "PNG" and image.size == (960, 540)
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10


@pytest.mark.parametrize("history", [[], [{"tokens": 1.0, "loss": 2.0}]])
def test_a_run_without_reports_or_draft_losses_is_drawn_too(tmp_path: Path, history: list[dict[str, float]]) -> None:
    assert plot_losses(history, tmp_path / "loss.png", "tiny").stat().st_size > 1000


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be written"):
        plot_losses(HISTORY, tmp_path / "none" / "loss.png", "tiny")
