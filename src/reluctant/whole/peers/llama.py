"""llama.cpp, by the low-level functions of llama-cpp-python; of our models it knows Gemma 3.

The file it reads is written here from the live weights, with token ids in place of words.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reluctant.whole.peers.peer import Peer, UnfitError, Work, end_of, threads


def build(work: Work, dtype: str) -> Peer:
    """Write the file, and load it. dtype: "BF16" or "Q8_0", of the matrices; norms are float32.

    Raises UnfitError for another model than Gemma 3, and where it searches with beams.
    """
    import gguf  # noqa: F401, PLC0415  an extra
    import llama_cpp  # noqa: PLC0415  an extra

    model = work.model
    if model.config.model_type != "gemma3_text":
        kind = model.config.model_type
        raise UnfitError(f"only Gemma 3 is converted for llama.cpp here; this is {kind}")
    if work.beams > 1:
        raise UnfitError("it has no beam search")
    file = work.folder / f"{dtype}.gguf"
    write_file(model, file, dtype)
    llama_cpp.llama_log_set(_QUIET, None)
    llama_cpp.llama_backend_init()
    options = llama_cpp.llama_model_default_params()
    options.use_mmap = False
    loaded = llama_cpp.llama_model_load_from_file(str(file).encode(), options)
    size = file.stat().st_size
    file.unlink()
    if not loaded:
        raise UnfitError("llama.cpp does not load the file that was written for it")
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = max(p.shape[1] for p in work.prompts) + work.new
    settings.n_threads = settings.n_threads_batch = threads()
    context = llama_cpp.llama_init_from_model(loaded, settings)

    def close() -> None:
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(loaded)

    return Peer(partial(_continue, context, work), size, close=close)


def _quiet() -> Any:
    try:
        import llama_cpp  # noqa: PLC0415
    except ImportError:
        return None
    return llama_cpp.llama_log_callback(lambda level, text, data: None)


_QUIET = _quiet()  # it has to outlive the library's calls


def _continue(context: Any, work: Work, prompt: Tensor) -> list[int]:
    import llama_cpp as library  # noqa: PLC0415

    size, ends = work.model.config.vocab_size, end_of(work.model)
    library.llama_memory_clear(library.llama_get_memory(context), True)
    found, ids = list[int](), prompt[0].tolist()
    for _ in range(work.new):
        given = (library.llama_token * len(ids))(*ids)  # the batch points into it
        if library.llama_decode(context, library.llama_batch_get_one(given, len(ids))):
            raise RuntimeError("llama_decode failed")
        pointer = library.llama_get_logits_ith(context, -1)
        logits = np.ctypeslib.as_array(pointer, shape=(size,))
        logits[ends] = -np.inf
        ids = [int(logits.argmax())]
        found += ids
    return found


def write_file(model: Any, file: Path, kind: str) -> None:
    """Write a Gemma 3 as GGUF. Its norms' weights are offsets from one; there they are factors."""
    import gguf  # noqa: PLC0415

    config = model.config
    writer = gguf.GGUFWriter(file, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    writer.add_sliding_window(config.sliding_window)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    done = set[int]()
    for name, weight in model.named_parameters():
        if id(weight) in done:  # the output projection is the embedding
            continue
        done.add(id(weight))
        values = weight.detach().float()
        if name.endswith("norm.weight"):
            values = values + 1
        theirs = names.get_name(name, try_suffixes=(".weight",))
        if theirs is None:
            raise UnfitError(f"{name} has no name in GGUF")
        _add(writer, theirs, values, kind if values.dim() > 1 else "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: Any, name: str, values: Tensor, kind: str) -> None:
    import gguf  # noqa: PLC0415

    to = gguf.GGMLQuantizationType[kind]
    if kind == "BF16":
        data = values.to(torch.bfloat16).view(torch.uint8).numpy()
        writer.add_tensor(name, data, raw_dtype=to)
    elif kind == "F32":
        writer.add_tensor(name, values.contiguous().numpy())
    else:
        writer.add_tensor(name, gguf.quants.quantize(values.numpy(), to), raw_dtype=to)
