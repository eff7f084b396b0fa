"""A run: from text to a model in a folder, step by step, with checkpoints to go on from."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.transformer.io import save as save_model
from reluctant.transformer.model import Transformer
from reluctant.translation import checkpoint, journal, place
from reluctant.translation.batches import Batch
from reluctant.translation.checkpoint import Progress
from reluctant.translation.data import Data, encoded, learned_vocabulary
from reluctant.translation.judge import Judge
from reluctant.translation.learner import Learner, config, parameters
from reluctant.translation.ranks import Ranks
from reluctant.translation.score import score
from reluctant.translation.settings import Settings
from reluctant.translation.vocabulary import Vocabulary

Line = dict[str, Any]


@dataclass(frozen=True)
class Watch:
    """What is told of a run while it goes. step: each step's line; validation: each validation's;
    stop: asked after each step whether to end with a checkpoint.
    """

    step: Callable[[Line], object] = lambda line: None
    validation: Callable[[Line], object] = lambda line: None
    stop: Callable[[], bool] = lambda: False


class Run:
    """One training run in a folder, begun or taken up again.

    folder: gets config.json, model.safetensors and tokenizer.json, which are the model (the mean of
    the last checkpoints' weights, at the validation with the lowest loss), metrics.jsonl, and the
    checkpoints.

    Raises ReluctantError if the folder holds a run with other settings or other text.
    """

    def __init__(
        self, folder: Path, data: Data, settings: Settings, ranks: Ranks | None = None
    ) -> None:
        self.folder, self.settings, self.ranks = folder, settings, ranks or Ranks()
        self.data = data
        if self.ranks.first:
            place.own(folder)
        self.ranks.barrier()
        self._metrics, before = folder / journal.NAME, place.begun(folder)
        if before is not None:
            self._expect_same(before)
        self.ranks.barrier()  # all have looked before the first one writes
        if self.ranks.first:
            place.tidy(folder)
            if before is None:
                self._begin()
        self.ranks.barrier()
        self.vocabulary = Vocabulary.load(folder)
        _, self.batches = encoded(data.train, self.vocabulary, settings)
        scored, held_out = encoded(data.valid, self.vocabulary, settings)
        self.valid = [held_out.collate(indices) for indices in held_out.in_order()]
        self.scored = scored[: settings.score_sentences]
        self.learner = Learner(settings, len(self.vocabulary), self.ranks)
        self.progress = Progress()
        if before is not None:
            self.progress = checkpoint.load(folder, self.learner)
            if self.ranks.first:
                journal.cut(self._metrics, self.progress.step)
        self._expect_alike()
        self._judge: Judge | None = None
        self._epoch: tuple[int, list[list[int]]] = (-1, [])
        self._began = monotonic() - self.progress.seconds

    def _begin(self) -> None:
        """Write what a new run begins with: its header and its vocabulary."""
        data, settings = self.data, self.settings
        vocabulary = learned_vocabulary(data, settings)
        sizes = config(settings, len(vocabulary))  # refused before anything is written
        kept, _ = encoded(data.train, vocabulary, settings)
        if not kept:
            raise ReluctantError(
                f"expected sentences of fewer than batch_tokens={settings.batch_tokens} tokens, "
                "got none: allow a batch more"
            )
        counts = {**data.counts, "of too many tokens": len(data.train) - len(kept)}
        facts = {"data": data.fingerprint, "counts": counts, "ranks": self.ranks.size}
        facts |= {"threads": torch.get_num_threads(), "vocabulary": len(vocabulary)}
        facts |= {"parameters": parameters(sizes)}
        place.clear(self.folder)
        journal.begin(self._metrics, asdict(settings), facts)
        vocabulary.save(self.folder)

    def _expect_alike(self) -> None:
        """Of all ranks: each adds up what the others compute."""
        what = f"settings {self.settings}, text {self.data.fingerprint}, "
        self.ranks.expect_alike(
            what + f"folder {self.folder.resolve()}, {self.progress.step} steps"
        )

    def _expect_same(self, before: journal.Journal) -> None:
        others = self.settings.differences(before.settings)
        if others or before.header["data"] != self.data.fingerprint:
            what = f"another {', '.join(others)}" if others else "other text"
            raise ReluctantError(
                f"{self.folder} holds a run with {what}: take it up with the settings and the "
                "text it was begun with, or name another --out"
            )

    @property
    def learned(self) -> bool:
        """Whether no step is left: of its number, its time, or no better model came for long."""
        settings, progress = self.settings, self.progress
        patience = settings.patience and progress.waited >= settings.patience
        late = settings.minutes is not None and progress.seconds >= 60 * settings.minutes
        return bool(progress.step >= settings.steps or patience or self.ranks.agreed(late))

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.learned and self.progress.validated == self.progress.step

    def train(self, watch: Watch | None = None) -> bool:
        """Do the steps that are left; gives whether the run is done, or was stopped before.

        Raises ReluctantError if the loss is not finite, or the disk is full; the last checkpoint
        then is as it was.
        """
        watch = watch or Watch()
        while not self.learned:
            line = self._step()
            if self.ranks.first:
                journal.append(self._metrics, line)
            watch.step(line)
            if self.progress.step % self.settings.every == 0:
                self._validate(watch)
                self._save()
            if self.ranks.agreed(watch.stop()):
                if self.progress.step % self.settings.every:
                    self._save()
                return False
        if self.progress.validated != self.progress.step:
            self._validate(watch)
            self._save()
        return True

    def _step(self) -> Line:
        progress = self.progress
        began = monotonic()
        batches = [self._next() for _ in range(self.settings.accumulate)]
        found = self.learner.step(progress.step + 1, batches)
        progress.step += 1
        now = monotonic()
        progress.seconds = now - self._began
        line: Line = {"step": progress.step, "loss": found.loss}
        if self.settings.penalty:
            line["penalty"] = found.penalty
        line |= {"norm": found.norm, "tokens": found.tokens, "seconds": now - began}
        line["elapsed"] = progress.seconds
        if found.density:
            line["density"] = {
                name.removesuffix(".feed_forward"): share for name, share in found.density.items()
            }
        return line

    def _next(self) -> Batch:
        progress = self.progress
        if self._epoch[0] != progress.epoch:
            self._epoch = progress.epoch, self.batches.epoch(progress.epoch)
        indices = self._epoch[1][progress.position]
        progress.position += 1
        if progress.position == len(self._epoch[1]):
            progress.epoch, progress.position = progress.epoch + 1, 0
        return self.batches.collate(indices)

    def _validate(self, watch: Watch) -> None:
        """Of the mean of the last weights; the model is written if it is the best so far."""
        progress, step = self.progress, self.progress.step
        weights = self.ranks.weights(self.learner.model)  # of all ranks together
        loss, line = 0.0, Line(step=step)
        if self.ranks.first:
            checkpoint.save_weights(self.folder, weights, step)
            mean = checkpoint.mean_weights(self.folder, self._averaged())
            loss, found = self._judged(mean)
            line |= found
            if self._is_better(loss):
                self._write(mean)
        loss = self.ranks.told(loss)
        better = self._is_better(loss)
        progress.waited, progress.validated = 0 if better else progress.waited + 1, step
        if better:
            progress.best, progress.best_step = loss, step
        progress.seconds = monotonic() - self._began
        line["elapsed"] = progress.seconds
        if self.ranks.first:
            journal.append(self._metrics, line)
            watch.validation(line)

    def _is_better(self, loss: float) -> bool:
        best = math.inf if self.progress.best is None else self.progress.best
        return loss < best  # a NaN never is

    def _averaged(self) -> list[int]:
        """The steps whose weights the model is the mean of: the last ones that all have the same
        distance, and this one, where the run ends between two.
        """
        step, every = self.progress.step, self.settings.every
        kept = [
            s for s in checkpoint.kept(self.folder) if (s <= step and s % every == 0) or s == step
        ]
        return kept[-self.settings.average :]

    def _judged(self, weights: dict[str, Tensor]) -> tuple[float, Line]:
        """The loss that decides, and all figures. Without text to validate on the last is best."""
        if not self.valid:
            return -float(self.progress.step), {}
        if self._judge is None:
            self._judge = Judge(self.learner.config, self.vocabulary, self.settings)
        self._judge.lend(weights)
        loss = self._judge.loss(self.valid)
        line: Line = {"validation": loss}
        if self.scored:
            texts = self._judge.translated([pair.source for pair in self.scored])
            found = score(texts, [pair.target for pair in self.scored])
            line |= {"bleu": found.bleu, "chrf": found.chrf, "signature": found.bleu_signature}
        return loss, line

    def _write(self, weights: dict[str, Tensor]) -> None:
        """These weights as the model."""
        with torch.random.fork_rng(devices=[]):
            model = Transformer(self.learner.config)
        model.load_state_dict(weights, strict=False)  # tied ones have one name here
        save_model(model, self.folder)

    def _save(self) -> None:
        checkpoint.save(self.folder, self.learner, self.progress)
        if self.ranks.first:
            needed = self._averaged()
            checkpoint.forget(
                self.folder, [s for s in checkpoint.kept(self.folder) if s not in needed]
            )
        self.ranks.barrier()
