# SPDX-License-Identifier: Apache-2.0
"""Which parameters are matrices, tables and vectors; the copy of them for decoding; a checksum of all.

Axes: L layers (stacked on axis 0), D width, N query heads, K kv heads, H head dim, F mlp width, E experts.
Deliberately not here: the parameters themselves (qwen.py), what an update does to each kind (update/optim.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from t1jax.devices import multihost
from t1jax.model import qwen
from t1jax.types import Params

# The matrices of a layer: which axes of the stacked weight are its input and its output. Layers are separate matrices.
MATRICES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "q": ((1,), (2, 3)),  # [L, D, N, H]
    "k": ((1,), (2, 3)),  # [L, D, K, H]
    "v": ((1,), (2, 3)),  # [L, D, K, H]
    "o": ((1, 2), (3,)),  # [L, N, H, D]
    "gate": ((1,), (2,)),  # [L, D, F]
    "up": ((1,), (2,)),  # [L, D, F]
    "down": ((1,), (2,)),  # [L, F, D]
    "router": ((1,), (2,)),  # [L, D, E]
    "expert_gate": ((2,), (3,)),  # [L, E, D, F]: experts are separate matrices too
    "expert_up": ((2,), (3,)),  # [L, E, D, F]
    "expert_down": ((2,), (3,)),  # [L, E, F, D]
}
TABLES = ("embedding", "head")  # matrices too, but one row a token: decayed, never updated by Muon
FACTORS = ("lora_a", "lora_b")  # of LoRA (lora.py): decayed
VECTORS = (  # neither: not decayed
    *("q_bias", "k_bias", "v_bias", "q_norm", "k_norm"),
    *("attention_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm", "final_norm"),
)
EXPERTS = ("expert_gate", "expert_up", "expert_down")  # stacked by layers, and by experts on axis 1


def stacked(path: tuple[str, ...]) -> int:
    """On how many leading axes a parameter holds separate ones: layers, and experts."""
    return (path[0] == "layers") + (path[-1] in EXPERTS)


def kinds(params: Params) -> Any:
    """Each parameter's kind by its name: "matrix", "table", "factor" or "vector".

    Raises:
      ValueError: a parameter that no list here names.
    """

    def kind(path: Any, _: Any) -> str:
        name = path[-1].key
        for label, names in (("matrix", MATRICES), ("table", TABLES), ("factor", FACTORS), ("vector", VECTORS)):
            if name in names:
                return label
        raise ValueError(
            f"got a parameter {jax.tree_util.keystr(path)} of unknown kind; "
            "name it in MATRICES, TABLES, FACTORS or VECTORS of t1jax/model/parameters.py"
        )

    return jax.tree_util.tree_map_with_path(kind, params)


def cast_for_decode(model: qwen.Transformer, params: Params) -> Params:
    """The parameters as decoding reads them, under the decode layout: done once a step, outside the token loop.

    Matrices and tables in compute dtype; norms and biases stay as they are, as the learner reads them too.
    """
    dtype = model.cfg.compute_dtype

    def cast(x: jax.Array, kind: str, sharding: NamedSharding) -> jax.Array:
        return jax.lax.with_sharding_constraint(x if kind == "vector" else x.astype(dtype), sharding)

    return jax.tree.map(cast, params, kinds(params), qwen.shardings(model))


def checksum(params: Params) -> str:
    """12 hex digits that differ when any weight does, wherever the weights are from and however they are sharded.

    Of a parameter's bits only the sum counts: values that trade places within it are not seen.
    """

    def total(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32 if x.dtype.itemsize == 4 else jnp.uint16)
        return jnp.sum(bits.astype(jnp.uint32))  # modulo 2^32: the same in any order

    sums = multihost.to_host(jax.jit(lambda tree: jax.tree.map(total, tree))(params))
    leaves = jax.tree_util.tree_leaves_with_path(sums)
    return digest_of_sums({tuple(key.key for key in path): int(value) for path, value in leaves})


def digest_of_sums(sums: Mapping[tuple[str, ...], int]) -> str:
    """The checksum, of the sum of each parameter's bits modulo 2^32, by its path."""
    named = [("".join(f"['{key}']" for key in path), value) for path, value in sorted(sums.items())]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:12]
