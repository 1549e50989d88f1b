# SPDX-License-Identifier: Apache-2.0
"""How much memory t1jax.convert needs: a synthetic model of several GB, both ways, each in a process of its own.

    python benchmarks/convert_memory.py [--folder=DIR] [--layers=5]

Prints for each way the seconds, the peak resident memory (VmHWM) and the bound, 2 x the largest tensor + 1 GiB; exits 1
if a peak is above it, or if what came back is not what went in.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
GIB = 1 << 30
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 131_072,
    "hidden_size": 2048,
    "intermediate_size": 32_768,  # an MLP matrix of 128 MiB, an embedding of 512 MiB
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def make(folder: Path, layers: int) -> tuple[int, int]:
    """Writes the model in shards; returns the bytes of its largest tensor and of all."""
    from configs import base
    from t1jax import config
    from t1jax.weights import families, tensor_table
    from t1jax.weights import safetensors_writing as writing

    folder.mkdir()
    hf = CONFIG | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(hf))
    rows = tensor_table.tensors(families.model_config(hf, config.load(base.get_config()).model, "config.json"))
    noise = np.random.default_rng(0).normal(0, 0.02, 1 << 24).astype(ml_dtypes.bfloat16)

    def pieces(row: tensor_table.Tensor, seed: int) -> Iterator[np.ndarray]:
        size = math.prod(row.shape)
        for start in range(0, size, noise.size):
            yield np.roll(noise, seed + start)[: size - start]

    new = [writing.NewTensor(row.name, noise.dtype, row.shape, partial(pieces, row, i)) for i, row in enumerate(rows)]
    writing.write_tensors(folder, new, 2 * 10**9)
    return max(tensor.nbytes for tensor in new), sum(tensor.nbytes for tensor in new)


def measure(command: list[str]) -> tuple[float, int]:
    """Seconds and peak resident bytes of a conversion."""
    body = (
        "import sys; from t1jax import convert; code = convert.main(sys.argv); "
        "print('VmHWM', open('/proc/self/status').read().split('VmHWM:')[1].split()[0]); sys.exit(code)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", body, *command], cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{command} failed: {done.stdout}{done.stderr}")
    return time.monotonic() - start, int(done.stdout.split("VmHWM")[1].split()[0]) * 1024


def equal(a: Path, b: Path) -> bool:
    """Whether two folders hold the same tensors, bit for bit."""
    from t1jax.weights import safetensors_files

    one, two = safetensors_files.open_tensors(a), safetensors_files.open_tensors(b)
    return one.keys() == two.keys() and all(
        np.array_equal(one[name].view().view(np.uint16), two[name].view().view(np.uint16)) for name in one
    )


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--folder", type=Path, help="where the models lie meanwhile; default: temporary")
    flags.add_argument("--layers", type=int, default=5)
    args = flags.parse_args()
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        largest, total = make(folder / "hf", args.layers)
        bound = 2 * largest + GIB
        print(f"model {total / GIB:.2f} GiB, largest tensor {largest / GIB:.2f} GiB, bound {bound / GIB:.2f} GiB")
        held = True
        for way, src, dst in (("hf-to-orbax", "hf", "orbax"), ("orbax-to-hf", "orbax", "back")):
            seconds, peak = measure([way, f"--src={folder / src}", f"--dst={folder / dst}"])
            print(f"{way}: {seconds:.0f} s, peak {peak / GIB:.2f} GiB", flush=True)
            held &= peak <= bound
        same = equal(folder / "hf", folder / "back")
        print("bit-identical" if same else "NOT identical")
        return 0 if held and same else 1
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
