"""What experiments work with: the text, the trained models, and who watches."""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reluctant.errors import ReluctantError
from reluctant.files import write_atomic
from reluctant.lab.study.catalogue import variant
from reluctant.lab.study.learn import Stopped, learn
from reluctant.lab.study.plan import Plan
from reluctant.lab.study.text import Text
from reluctant.transformer.model import Transformer


@dataclass(frozen=True)
class Bench:
    """plan, text: of the study. weights: a folder for trained models, which is made if need be.

    tell: told what is being done. stop: asked, often, whether to give up.
    """

    plan: Plan
    text: Text
    weights: Path
    tell: Callable[[str], object] = field(default=lambda text: None)
    stop: Callable[[], bool] = field(default=lambda: False)

    def check(self) -> None:
        """Raise Stopped if somebody asked for it."""
        if self.stop():
            raise Stopped

    def train(self, name: str, seed: int) -> dict[str, Any]:
        """Train a model of the catalogue and keep its weights; gives what `learn` says of it."""
        found = variant(name, self.plan, len(self.text.vocabulary), seed)

        def on_step(step: int, loss: float) -> None:
            self.tell(f"{name}, seed {seed}: step {step} of {self.plan.steps}, loss {loss:.2f}")
            self.check()

        model, result = learn(found, self.text, self.plan.points, on_step)
        self.weights.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(model.state_dict(), content)
        write_atomic(self._file(name, seed), content.getvalue())
        return result

    def untrained(self, name: str, seed: int) -> Transformer:
        """A model of the catalogue as its training begins with it."""
        return variant(name, self.plan, len(self.text.vocabulary), seed).build(
            len(self.text.vocabulary)
        )

    def model(self, name: str, seed: int) -> Transformer:
        """A trained model of the catalogue, in eval mode; trained again if its file is gone."""
        file = self._file(name, seed)
        if not file.exists():
            self.train(name, seed)
        model = self.untrained(name, seed)
        try:
            model.load_state_dict(torch.load(file, weights_only=True))
        except Exception as error:  # of torch, zipfile or pickle
            raise ReluctantError(
                f"expected the weights of a model in {file}: {error}; remove it, and it is trained "
                "again"
            ) from error
        self.tell(f"{name}, seed {seed}")
        self.check()
        return model

    def _file(self, name: str, seed: int) -> Path:
        """Other plans and texts have other files."""
        what = json.dumps([self.plan.to_json(), self.text.fingerprint])
        key = hashlib.sha256(what.encode()).hexdigest()[:12]
        return self.weights / f"{name}-{seed}-{key}.pt"
