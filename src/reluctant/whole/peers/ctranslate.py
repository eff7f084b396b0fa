"""CTranslate2. It knows tokens by their names, so every id is given one."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from reluctant.whole.peers.peer import Peer, Work, end_of, threads
from reluctant.whole.twin import twin


def build(work: Work, kind: str) -> Peer:
    """Convert, and load. kind: "float32", or "int8": weights, and inputs of each product."""
    import ctranslate2  # noqa: PLC0415  an extra

    source, made = work.folder / "config", work.folder / f"ctranslate2-{kind}"
    work.model.config.save_pretrained(source)
    converter = _converter(work, kind)(str(source))
    converter.convert(str(made), quantization=kind, force=True)
    size = sum(file.stat().st_size for file in made.glob("*.bin"))
    options = {"compute_type": kind, "intra_threads": threads(), "inter_threads": 1}
    if work.model.config.is_encoder_decoder:
        write = partial(_translate, ctranslate2.Translator(str(made), **options), work)
    else:
        write = partial(_continue, ctranslate2.Generator(str(made), **options), work)
    _remove(made)  # it is in memory now
    return Peer(write, size)


def _converter(work: Work, kind: str) -> Any:
    """Their converter, which takes the model that is there instead of loading one."""
    from ctranslate2.converters import TransformersConverter  # noqa: PLC0415

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, *args: Any, **kwargs: Any) -> Any:
            # It takes layers apart, and rounds weights to int8 where they are.
            return twin(work.model) if kind == "float32" else copy.deepcopy(work.model)

        def load_tokenizer(self, *args: Any, **kwargs: Any) -> Any:
            return _Names(work.model)

    return Converter


class _Names:
    """What the converter asks a tokenizer for: a name for each id."""

    chat_template = None
    special_tokens_map: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        ends = end_of(model)
        self.size = config.vocab_size
        self.unk_token_id = 3
        self.bos_token, self.unk_token = _name(config.bos_token_id or 0), _name(3)
        self.eos_token = _name(ends[0] if ends else 2)
        self.pad_token = _name(config.pad_token_id or 0)

    def get_vocab(self) -> dict[str, int]:
        return {_name(number): number for number in range(self.size)}

    def convert_ids_to_tokens(self, number: int) -> str:
        return _name(number)


def _name(number: int) -> str:
    return f"t{number}"


def _number(name: str) -> int:
    return int(name[1:])


def _continue(generator: Any, work: Work, prompt: Tensor) -> list[int]:
    (found,) = generator.generate_batch(
        [[_name(number) for number in prompt[0].tolist()]],
        beam_size=work.beams,
        sampling_topk=1,
        max_length=work.new,
        min_length=work.new,
        include_prompt_in_result=False,
    )
    return [int(number) for number in found.sequences_ids[0]]


def _translate(translator: Any, work: Work, prompt: Tensor) -> list[int]:
    (found,) = translator.translate_batch(
        [[_name(number) for number in prompt[0].tolist()]],
        beam_size=work.beams,
        sampling_topk=1,
        max_decoding_length=work.new,
        min_decoding_length=work.new,
    )
    return [_number(name) for name in found.hypotheses[0]]


def _remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
