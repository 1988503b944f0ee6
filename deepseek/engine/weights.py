"""The weights an engine serves: where they came from, reading others beside them, and letting them go.

`read` is the slow part and may run on any thread while the old weights go on serving. Everything else takes no time and
belongs between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from deepseek.core.errors import ConfigError
from deepseek.engine.worker import Worker
from deepseek.models.checkpoint import load_model
from deepseek.models.config import ModelConfig
from deepseek.models.locate import locate
from deepseek.models.share import with_tensors, without_weights
from deepseek.models.transformer import Model

Source = str | Path | Mapping[str, Tensor]
Files = tuple[tuple[str, int, int], ...]
"""Of a checkpoint's directory: each file's name, size and time of change."""

# How the numbers are stored may differ from checkpoint to checkpoint of one model.
_STORAGE = frozenset({"dtype", "fp8_blocks"})
# A checkpoint may name draft layers that its files lack: known once it is loaded.
_SEEN_IN_FILES = frozenset({"num_nextn_predict_layers"})


@dataclass(frozen=True)
class NewWeights:
    """A model ready to serve. path: where it can be read again; None: nowhere. files: what stood there when it was read."""

    model: Model
    path: Path | None
    files: Files = ()


class Weights:
    """What `worker` computes with. path: the checkpoint it was read from; None: it cannot be read again.

    load: reads a checkpoint as the model in use was read. None: by `load_model`, with the same quantisation.
    """

    def __init__(
        self, worker: Worker, path: str | Path | None = None, load: Callable[[Path], Model] | None = None
    ) -> None:
        self.worker = worker
        self.path = None if path is None else Path(path)
        self.present = True
        """False: they have been dropped."""
        self._files = _files_in(self.path)
        self._dropped: tuple[Path | None, Files] = None, ()
        self._load = load or (lambda found: load_model(found, quantization=worker.model.quantization))

    def read(self, source: Source) -> NewWeights:
        """A checkpoint of the same configuration, or tensors that replace those of the same names.

        Raises ConfigError naming the field that differs, or CheckpointError; the weights in use are untouched.
        """
        if isinstance(source, Mapping):
            if not self.present:
                raise ConfigError(
                    "there are no weights to replace tensors of", where="weights", fix="wake the engine, or give a path"
                )
            return NewWeights(with_tensors(self.worker.model, source), None)
        path = self.locate(source)
        files = _files_in(path)
        model = self._load(path)
        _require_same(self.worker.model.config, model.config, str(path), _STORAGE)
        return NewWeights(model, path, files)

    def were_dropped(self, new: NewWeights) -> bool:
        """Whether these are the weights that were last dropped, and no others."""
        return (new.path, new.files) == self._dropped

    def locate(self, path: str | Path) -> Path:
        """The checkpoint's directory, after a look at its configuration. Raises ConfigError."""
        found = locate(path)
        skipped = _STORAGE | _SEEN_IN_FILES
        _require_same(self.worker.model.config, ModelConfig.from_file(found), f"{found}/config.json", skipped)
        return found

    def use(self, new: NewWeights) -> None:
        """Serve these from the next step on."""
        self.worker.use(new.model)
        self.path, self.present, self._files = new.path, True, new.files

    def drop(self, path: Path) -> None:
        """Free them; `path` is where they can be read again."""
        self.worker.use(without_weights(self.worker.model))
        self._dropped = self.path, self._files
        self.path, self.present = path, False


def _files_in(path: Path | None) -> Files:
    try:
        found = [] if path is None else [(file.name, file.stat()) for file in sorted(path.iterdir()) if file.is_file()]
    except OSError:  # whoever reads the weights will say what is wrong with them
        found = []
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def _require_same(ours: Any, other: Any, where: str, skipped: frozenset[str], prefix: str = "") -> None:
    for field in fields(ours):
        if field.name in skipped:
            continue
        own, found = getattr(ours, field.name), getattr(other, field.name)
        if is_dataclass(own) and type(own) is type(found):
            _require_same(own, found, where, skipped, f"{prefix}{field.name}.")
        elif own != found:
            raise ConfigError(
                "is not the model being served",
                where=f"{where}: {prefix}{field.name}",
                found=found,
                expected=own,
                fix="give weights of the same model, or start an engine for this one",
            )
