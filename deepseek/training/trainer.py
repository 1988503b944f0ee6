"""The training loop: batches in, a model and its loss curve out; interruptible at any step without loss.

One step: samples addressed by their global index are packed end to end; loss = sum over counted tokens / their number;
backward, on as many threads as there are cores, each with its part of the samples (many small operations scale poorly
when each is split, well when each thread has its own); gradients are added in the order of the parts, whoever was first;
clip; AdamW; then every router's correction bias moves one fixed step against its load (V3 technical report, section
2.1.2). Resuming needs the last checkpoint and nothing else, and repeats the same losses bit for bit on as many threads.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from deepseek.core.errors import ConfigError, DeepSeekError
from deepseek.models.checkpoint import load_model
from deepseek.models.config import ModelConfig
from deepseek.models.experts import Router
from deepseek.models.locate import locate
from deepseek.models.transformer import Model
from deepseek.training.data import SampleSource, pack_batch
from deepseek.training.losses import Batch, language_loss, target_counts
from deepseek.training.recipe import OptimizerSection, Recipe
from deepseek.training.schedule import warmup_cosine
from deepseek.training.state import Progress, Report, hold, list_states, load_state, save_state

Gradients = list[Tensor | None]

_STORED_AS = ("torch_dtype", "quantization_config")  # how a model is kept, not what it is
_MTP_WEIGHT_DROPS_AT = 2 / 3  # of the run (V3 technical report, section 4.2)


class Trainer:
    """A run in `recipe.output/recipe.name`. Continues from its newest checkpoint; `fresh` refuses to if there is one.

    A report is a dict: step, tokens (of the run so far), loss and draft_loss (nats per counted token; the latter only
    with a multi-token-prediction layer), lr, grad_norm (before clipping), expert_imbalance (largest over mean load, of
    the worst router; 1 is even), tokens_per_s. `history` has every `log_every_steps`-th.

    Raises ConfigError, CheckpointError (see `load_state`).
    """

    def __init__(self, recipe: Recipe, source: SampleSource, *, fresh: bool = False) -> None:
        self.recipe, self.source = recipe, source
        self.run = Path(recipe.output) / recipe.name
        self.config = recipe.model_config_of()
        if source.vocab_size > self.config.vocab_size:
            raise ConfigError(
                "the tokenizer has more ids than the embedding has rows",
                where="recipe: model.vocab_size",
                found=self.config.vocab_size,
                expected=f"at least {source.vocab_size}",
            )
        states = list_states(self.run)
        if states and fresh:
            raise ConfigError(
                "the run exists already", where=self.run, fix="resume it, or give the recipe another name"
            )
        self.model = begin(recipe, self.config, resumes=bool(states))
        self.model.set_compute_dtype(resolve_compute_dtype(recipe.compute_dtype))
        self.optimizer = build_adamw(self.model, recipe.optimizer)
        self.progress, self.history = Progress(), list[Report]()
        if states:
            self.progress, self.history = load_state(states[-1], self.model, self.optimizer)
        self.threads = torch.get_num_threads()
        self._stop = False

    def train(self, on_report: Callable[[Report], None], steps: int | None = None) -> None:
        """Train to the recipe's end, or `steps` more. Ctrl-C or SIGTERM finishes the step, saves and returns.

        on_report is called after every step, in this thread. Raises DeepSeekError when the loss is no number any more
        (the step is not taken), CheckpointError when a checkpoint cannot be written, ConfigError when another process
        trains the same run.
        """
        last = self.recipe.total_steps if steps is None else min(self.recipe.total_steps, self.progress.step + steps)
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with hold(self.run):
                self._train(on_report, last)
        finally:
            torch.set_num_threads(before)

    def _train(self, on_report: Callable[[Report], None], last: int) -> None:
        with (
            _catch_signals(self),
            ThreadPoolExecutor(1, "data") as loader,
            ThreadPoolExecutor(self.threads, "step") as pool,
        ):
            ahead = loader.submit(self._next_batch, self.progress.next_sample, self.progress.step)
            while self.progress.step < last and not self._stop:
                parts, next_sample = ahead.result()
                ahead = loader.submit(self._next_batch, next_sample, self.progress.step + 1)
                report = self._step(parts, pool)
                self.progress.next_sample = next_sample
                if self.progress.step % self.recipe.log_every_steps == 0 or self.progress.step == last:
                    self.history.append(report)
                on_report(report)
                if self.progress.step % self.recipe.checkpoint_every_steps == 0:
                    self.save()
            self.save()

    def save(self) -> Path:
        """Write a checkpoint of this step. Raises CheckpointError."""
        keep = self.recipe.keep_checkpoints
        return save_state(self.run, self.model, self.optimizer, self.progress, self.history, keep)

    @property
    def interrupted(self) -> bool:
        """Whether `stop` was called, by a signal or by hand."""
        return self._stop

    def stop(self) -> None:
        """Ask the loop to end after the step in hand."""
        self._stop = True

    def _next_batch(self, first_sample: int, step: int) -> tuple[list[Batch], int]:
        share = step / self.recipe.total_steps
        return pack_batch(
            self.source,
            first_sample,
            share,
            self.recipe.tokens_per_step,
            assistant_only=share >= self.recipe.data.assistant_only_from,
            parts=self.threads,
        )

    def _step(self, parts: list[Batch], pool: ThreadPoolExecutor) -> Report:
        began = time.perf_counter()
        recipe, step = self.recipe, self.progress.step
        section = recipe.optimizer
        rate = warmup_cosine(step, recipe.total_steps, section.lr, section.warmup_steps, section.final_lr_share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        early = step / recipe.total_steps < _MTP_WEIGHT_DROPS_AT
        mtp_weight = recipe.mtp_weight if early else recipe.mtp_weight_final
        losses = self._gradients(parts, mtp_weight, pool)
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), section.clip_norm, foreach=True))
        if not math.isfinite(norm) or not all(map(math.isfinite, losses.values())):
            raise DeepSeekError(
                "training diverged",
                where=f"step {step + 1}",
                found=", ".join(f"{name} {value:g}" for name, value in {**losses, "grad_norm": norm}.items()),
                fix="lower optimizer.lr or raise optimizer.warmup_steps, and resume from the last checkpoint",
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        imbalance = balance_routers(self.model, section.balance_rate)
        tokens = sum(part.tokens.shape[0] for part in parts)
        self.progress.step += 1
        self.progress.tokens += tokens
        return {
            "step": self.progress.step,
            "tokens": self.progress.tokens,
            **losses,
            "lr": rate,
            "grad_norm": norm,
            "expert_imbalance": imbalance,
            "tokens_per_s": tokens / (time.perf_counter() - began),
        }

    def _gradients(self, parts: list[Batch], mtp_weight: float, pool: ThreadPoolExecutor) -> dict[str, float]:
        """Leave the whole step's gradients in the parameters' `.grad`; returns its losses by name."""
        counts = target_counts(parts)
        parameters = list(self.model.parameters())
        total: Gradients = [None] * len(parameters)
        losses: dict[str, float] = {}
        # Not `backward()`: its threads would add into `.grad` in the order they finish, which rounds differently each time.
        for part_losses, gradients in pool.map(lambda part: self._part_gradients(part, mtp_weight, counts), parts):
            for name, value in part_losses.items():
                losses[name] = losses.get(name, 0.0) + value
            for index, gradient in enumerate(gradients):
                so_far = total[index]
                total[index] = so_far + gradient if so_far is not None and gradient is not None else gradient
        for parameter, gradient in zip(parameters, total, strict=True):
            parameter.grad = gradient
        return losses

    def _part_gradients(
        self, part: Batch, mtp_weight: float, counts: tuple[int, int]
    ) -> tuple[dict[str, float], Gradients]:
        loss, main, draft = language_loss(self.model, part, mtp_weight, counts)
        raw = torch.autograd.grad(loss, list(self.model.parameters()), allow_unused=True)
        losses = {"loss": float(main.detach())}
        if draft is not None:
            losses["draft_loss"] = float(draft.detach())
        return losses, [None if gradient is None else gradient.contiguous() for gradient in raw]


def begin(recipe: Recipe, config: ModelConfig, *, resumes: bool) -> Model:
    """The model a run begins with: `recipe.init_from`'s weights in float32, or random ones.

    resumes: its weights come from a checkpoint of the run anyway. Raises ConfigError, CheckpointError.
    """
    model = Model(config).initialize(recipe.seed, recipe.init_std)
    if recipe.init_from is None or resumes:
        return model
    earlier = load_model(locate(recipe.init_from), packed=False)
    now, before = config.to_hf(), earlier.config.to_hf()
    odd = next((name for name in now if name not in _STORED_AS and now[name] != before.get(name)), None)
    if odd is not None:
        raise ConfigError(
            "is not of the recipe's shape",
            where="recipe: init_from",
            found=f"{recipe.init_from} with {odd} {before.get(odd)}",
            expected=f"{odd} {now[odd]}",
            fix="give the recipe that model's fields",
        )
    model.load_state_dict(earlier.state_dict())
    return model


def resolve_compute_dtype(name: str) -> torch.dtype | None:
    """What training multiplies in, None for the weights' own float32; `name` is auto, float32 or bfloat16.

    Raises ConfigError for bfloat16 on a processor that only emulates it, which is hundreds of times slower.
    """
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if name == "auto":
        return torch.bfloat16 if native else None
    if name == "bfloat16" and not native:
        raise ConfigError("this processor has no native bfloat16", where="compute_dtype", fix='use "auto" or "float32"')
    return torch.bfloat16 if name == "bfloat16" else None


def build_adamw(model: nn.Module, section: OptimizerSection) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": section.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=section.lr, betas=section.betas, eps=section.eps, fused=True)


@torch.no_grad()
def balance_routers(model: nn.Module, rate: float) -> float:
    """Move each router's correction bias by `rate` against its last load. Returns the worst max/mean load over layers."""
    worst = 1.0
    for module in model.modules():
        if isinstance(module, Router) and module.counts:
            load = torch.stack(module.counts).sum(0).float()
            worst = max(worst, float(load.max() / load.mean()))
            if rate and module.config.topk_method == "noaux_tc":
                module.e_score_correction_bias += rate * torch.sign(load.mean() - load)
            module.counts.clear()
    return worst


class _catch_signals:
    """While training, the first Ctrl-C or SIGTERM asks the loop to stop after its step; a second one stops at once."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.previous: dict[int, object] = {}

    def __enter__(self) -> None:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._on_signal) or signal.SIG_DFL
        except ValueError:  # not the main thread: whoever owns it calls stop()
            self.previous.clear()

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.trainer.interrupted:
            raise KeyboardInterrupt
        self.trainer.stop()
