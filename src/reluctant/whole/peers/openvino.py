"""OpenVINO GenAI. Its files are made by `optimum-cli`, which may live in an environment of its own:
optimum-intel asks for another version of transformers than ours.
"""

import shutil
import subprocess
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from reluctant.whole.peers.peer import Peer, UnfitError, Work, threads

EXPORT = "optimum-cli"
_KINDS = {"float32": "fp32", "int8": "int8"}


def build(work: Work, kind: str) -> Peer:
    """Export in a process of its own, and load. kind: "float32" or "int8", of the weights.

    Raises UnfitError for what it does not decode from token ids, and without `optimum-cli`.
    """
    import openvino_genai  # noqa: PLC0415  an extra

    if work.model.config.is_encoder_decoder:
        raise UnfitError("its pipeline for text decodes models without an encoder only")
    if work.tokenizer is None:
        raise UnfitError("its pipeline takes no model without a tokenizer")
    program = shutil.which(EXPORT)
    if program is None:
        raise UnfitError(f"no {EXPORT} on the path: pipx install 'optimum-intel[openvino]'")
    source, made = work.folder / "saved", work.folder / f"openvino-{kind}"
    if not source.exists():
        work.model.save_pretrained(source)
        work.tokenizer.save_pretrained(source)
    command = [program, "export", "openvino", "--model", str(source), str(made)]
    command += ["--task", "text-generation-with-past", "--weight-format", _KINDS[kind]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        raise UnfitError(f"{EXPORT} fails: {last}")
    options = {"INFERENCE_NUM_THREADS": threads(), "INFERENCE_PRECISION_HINT": "f32"}
    pipeline = openvino_genai.LLMPipeline(str(made), "CPU", **options)
    size = sum(file.stat().st_size for file in made.glob("openvino_model.bin"))
    shutil.rmtree(made)
    return Peer(partial(_continue, pipeline, work), size)


def _continue(pipeline: Any, work: Work, prompt: Tensor) -> list[int]:
    import openvino  # noqa: PLC0415
    import openvino_genai  # noqa: PLC0415

    settings = openvino_genai.GenerationConfig()
    settings.max_new_tokens = settings.min_new_tokens = work.new
    settings.do_sample = False
    settings.num_beams = work.beams
    ids = openvino.Tensor(prompt.numpy().astype(np.int64))
    mask = openvino.Tensor(np.ones(tuple(prompt.shape), dtype=np.int64))
    found = pipeline.generate(openvino_genai.TokenizedInputs(ids, mask), settings)
    return [int(each) for each in found.tokens[0]]
