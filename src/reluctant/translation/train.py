"""A run: from text to a model in a folder, step by step, with checkpoints to go on from."""

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
from reluctant.translation import checkpoint, journal
from reluctant.translation.batches import Batch, Batches
from reluctant.translation.checkpoint import Progress
from reluctant.translation.data import Data, encoded, vocabulary_of
from reluctant.translation.judge import Judge
from reluctant.translation.learner import Learner
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
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ReluctantError(f"expected a folder to write to, got {folder}: {error}") from error
        if self.ranks.first:
            checkpoint.tidy(folder)
        self._metrics = folder / journal.NAME
        before = journal.read(self._metrics) if self._metrics.exists() else None
        if before is not None:
            self._expect_same(before, data.fingerprint)
        self.vocabulary = self._shared_vocabulary(data)
        longest = min(settings.batch_tokens, 512)
        learned, held_out = (
            Batches(*encoded(pairs, self.vocabulary, longest), settings.batch_tokens, settings.seed)
            for pairs in (data.train, data.valid)
        )
        self.batches = learned
        self.valid = [held_out.collate(indices) for indices in held_out.in_order()]
        self.scored = data.valid[: settings.score_sentences]
        self.learner = Learner(settings, len(self.vocabulary), self.ranks)
        self.progress = Progress()
        if before is not None and checkpoint.there(folder, self.learner):
            self.progress = checkpoint.load(folder, self.learner)
            if self.ranks.first:
                journal.cut(self._metrics, self.progress.step)
        elif self.ranks.first:
            facts = {"data": data.fingerprint, "counts": data.counts, "ranks": self.ranks.size}
            facts |= {"longer than 512 tokens": len(data.train) - len(learned)}
            facts |= {"vocabulary": len(self.vocabulary), "parameters": self.learner.size}
            journal.begin(self._metrics, asdict(settings), facts)
        self._judge: Judge | None = None
        self._epoch: tuple[int, list[list[int]]] = (-1, [])
        self._began = monotonic() - self.progress.seconds

    def _shared_vocabulary(self, data: Data) -> Vocabulary:
        """The first rank makes it, the others read it."""
        if self.ranks.first:
            vocabulary_of(self.folder, data, self.settings)
        self.ranks.barrier()
        return vocabulary_of(self.folder, data, self.settings)

    def _expect_same(self, before: journal.Journal, fingerprint: str) -> None:
        others = self.settings.differences(before.settings)
        if others or before.header["data"] != fingerprint:
            what = f"another {', '.join(others)}" if others else "other text"
            raise ReluctantError(
                f"{self.folder} holds a run with {what}: take it up with the settings and the "
                "text it was begun with, or name another --out"
            )

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do: its steps, its time, or no better model for long."""
        settings, progress = self.settings, self.progress
        patience = settings.patience and progress.waited >= settings.patience
        late = settings.minutes is not None and progress.seconds >= 60 * settings.minutes
        return bool(progress.step >= settings.steps or patience or self.ranks.agreed(late))

    def train(self, watch: Watch | None = None) -> bool:
        """Do the steps that are left; gives whether the run is done, or was stopped before.

        Raises ReluctantError if the loss is not finite, or the disk is full; the last checkpoint
        then is as it was.
        """
        watch = watch or Watch()
        saved = self.progress.step
        while not self.done:
            line = self._step()
            if self.ranks.first:
                journal.append(self._metrics, line)
            watch.step(line)
            if self.progress.step % self.settings.every == 0:
                self._validate(watch)
                self._save()
                saved = self.progress.step
            if self.ranks.agreed(watch.stop()):
                self._save()
                return False
        if saved != self.progress.step:
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
            steps = [each for each in checkpoint.kept(self.folder) if each <= step]
            mean = checkpoint.mean_weights(self.folder, steps[-self.settings.average :])
            loss, found = self._judged(mean)
            line |= found
            if loss < progress.best:
                self._write(mean)
        loss = self.ranks.told(loss)
        better = loss < progress.best
        progress.waited = 0 if better else progress.waited + 1
        if better:
            progress.best, progress.best_step = loss, step
        progress.seconds = monotonic() - self._began
        line["elapsed"] = progress.seconds
        if self.ranks.first:
            journal.append(self._metrics, line)
            watch.validation(line)

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
            steps = [s for s in checkpoint.kept(self.folder) if s <= self.progress.step]
            checkpoint.forget(self.folder, steps[: -self.settings.average])
        self.ranks.barrier()
