# SPDX-License-Identifier: Apache-2.0
"""Loads hostile data of every kind under an audit hook, and prints what Python was asked to do meanwhile.

    python -m tests.support.audited DIR

Everything is loaded twice: first harmless, unwatched, so that what is imported and compiled once is there; then
hostile, watched. Each file tries to run code that would write DIR/owned. The JSON on stdout has `events`, those of
WATCHED that nobody is known to need; `known`, how often which user of WATCHED was met; `outcomes`, how each load ended;
`control`, the events of a few calls that must be seen.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import optax
import pyarrow
import pyarrow.parquet
from jax.sharding import NamedSharding, PartitionSpec

from configs import tiny
from t1jax import config
from t1jax.config import ConfigError
from t1jax.devices import sharding
from t1jax.host.stopping import Stopped
from t1jax.model import qwen
from t1jax.rewards import pool, worker
from t1jax.rewards.verifier import Verifier
from t1jax.tasks.files.problems import read_problems
from t1jax.text import rendering
from t1jax.text.huggingface import HFTokenizer
from t1jax.text.tokenizer import SentencePieceTokenizer, train_sentencepiece
from t1jax.training.checkpoint import Checkpoints
from t1jax.types import TrainState
from t1jax.weights import load as weights

sys.path.append(str(Path(__file__).parent))
import hf_folders
import weight_folders

WATCHED = {
    "exec", "compile", "marshal.loads", "pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork",
    "os.forkpty", "subprocess.Popen", "socket.connect", "socket.bind", "ctypes.dlopen",
}  # fmt: skip
IMPORT = "a module of a package, imported when first needed"
VERIFIER = "the verifier's own worker process"
RENDERER = "the process that renders chat templates"
GENERATED = "classes and functions that packages write for themselves, from the names of their fields"
NUMBER = "sympy, which evaluates the digits of a number that math-verify's grammar has read"
WRITERS = ("dataclasses.py", "collections/__init__.py", "sympy/polys/monomials.py")
_NUMBER = re.compile(rb"Integer \([0-9]+ \)|Float \('[0-9.eE+-]+' \)")
CFG = config.load(tiny.get_config())


class Audit:
    """Notes events while it is armed."""

    def __init__(self) -> None:
        self.armed = False
        self.events: list[str] = []
        self.known: Counter[str] = Counter()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed or event not in WATCHED:
            return
        self.armed = False  # what is done here is not noted
        frame, files = sys._getframe(1), []
        while frame is not None:
            files.append(frame.f_code.co_filename)
            frame = frame.f_back
        if who := _known(event, arguments, files):
            self.known[who] += 1
        else:
            self.events.append(f"{event} {ascii(arguments)[:200]} from {' < '.join(files[:6])}")
        self.armed = True


def _known(event: str, arguments: tuple[Any, ...], files: list[str]) -> str:
    """Whom the product needs for this event; "" if nobody."""
    if event in ("exec", "compile", "marshal.loads") and any("importlib._bootstrap" in file for file in files[:8]):
        return IMPORT
    if event in ("exec", "compile") and files[0].endswith(WRITERS):
        return GENERATED
    if event in ("exec", "compile") and files[0].endswith("sympy/parsing/sympy_parser.py"):
        return NUMBER if _only_a_number(arguments[0]) else ""
    if event == "subprocess.Popen" and str(pool.PROGRAM) in arguments[1]:
        return VERIFIER
    if event == "subprocess.Popen" and rendering.PROGRAM in arguments[1]:
        return RENDERER
    return ""


def _only_a_number(source: Any) -> bool:
    """Of a source or of what is made of it: it is a number, or sympy's import of its own names."""
    if isinstance(source, bytes):
        return source == b"from sympy import *" or _NUMBER.fullmatch(source) is not None
    return set(source.co_names) <= {"Integer", "Float"} or set(source.co_names) == {"sympy"}


def call(command: str) -> bytes:
    """A pickle that calls os.system, written by hand."""
    return f"cos\nsystem\n(S'{command}'\ntR.".encode()


def problems(folder: Path, code: str, pickled: bytes) -> None:
    """JSON lines, and Parquet with a column of the kind that older readers unpickle."""
    row = {"problem": f"What is {code}?", "answer": "5", "subject": code, "__reduce__": code, "py/object": "os.system"}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({code: 1} | row | {"problem": "{{ 7*7 }}"}))
    kind = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled}
    fields = [pyarrow.field("problem", pyarrow.string(), metadata=kind), pyarrow.field("answer", pyarrow.string())]
    schema = pyarrow.schema(fields, metadata={b"pandas": b'{"columns": []}'})
    table = pyarrow.table([[f"What is {code}?"], ["5"]], schema=schema)
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    for name in ("rows.jsonl", "rows.parquet"):
        read_problems(str(folder / name), CFG.data, "train")


def tokenizer(folder: Path, code: str, pickled: bytes, template: str = hf_folders.QWEN) -> None:
    """A folder that names classes of its own, and a template that reaches for them."""
    remote = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "evil.Evil", "processor": code}
    hf_folders.write(
        folder / "tokens", hf_folders.byte_level(), {"eos_token_id": [282]}, **remote, chat_template=template
    )
    (folder / "tokens" / "evil.py").write_text(code)
    (folder / "tokens" / "tokenizer.pkl").write_bytes(pickled)
    HFTokenizer(folder / "tokens").chat([{"role": "user", "content": code}])


def hub(folder: Path, code: str, pickled: bytes) -> None:
    """Weights beside a pickle of torch and code of the model's own."""
    weight_folders.write(folder / "hub")
    path = folder / "hub" / "model.safetensors"
    header, data = weight_folders.parts(path)
    weight_folders.raw(path, header | {"__metadata__": {"format": code}}, data)
    described = json.loads((folder / "hub" / "config.json").read_text())
    described |= {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}, "trust_remote_code": True}
    (folder / "hub" / "config.json").write_text(json.dumps(described))
    (folder / "hub" / "evil.py").write_text(code)
    (folder / "hub" / "pytorch_model.bin").write_bytes(pickled)
    source = weights.find(folder / "hub")
    cfg = weights.model_config(source, CFG.model)
    weights.load(source, qwen.Transformer(cfg, sharding.train_layout(sharding.make_mesh(CFG.mesh))))


def checkpoint(folder: Path, code: str, pickled: bytes) -> None:
    """What a run saves and restores, with pickles beside it and in place of a file."""
    mesh = sharding.make_mesh(CFG.mesh)
    params = {"w": np.arange(8, dtype=np.float32)}
    state = TrainState(np.int32(7), params, optax.adam(1e-3).init(params), None, np.array([1, 2], np.uint32))
    whole = NamedSharding(mesh, PartitionSpec())
    state = jax.device_put(state, whole)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state)
    tokens = SentencePieceTokenizer(train_sentencepiece(["ab 12"], 20, []))
    with Checkpoints(folder / "run", CFG, tokens) as checkpoints:
        checkpoints.save(7, state)
    for name in ("state.pkl", "_PICKLE"):
        (folder / "run" / "7" / "state" / name).write_bytes(pickled)
    with Checkpoints(folder / "run", CFG, tokens) as checkpoints:
        assert checkpoints.restore(abstract) is not None
    (folder / "run" / "7" / "config" / "metadata").write_bytes(pickled)
    with Checkpoints(folder / "run", CFG, tokens) as checkpoints:
        try:
            checkpoints.restore(abstract)
        except Stopped:
            return
    raise AssertionError("a pickle in place of a config was read")


def answers(folder: Path, code: str, pickled: bytes) -> None:
    """To the verifier, and once more in this process to what its workers do, so that it is watched as well."""
    texts = [code, f"\\text{{{code}}}", f"\\sqrt{{{code}}}", f"\\{{{code}, 1\\}}", f"({code})", f"x={code}",
             f"\\mathrm{{{code}}}+1", f"\\operatorname{{{code}}}(2)", "lambda: 1", "().__class__.__mro__"]  # fmt: skip
    with Verifier(CFG.verifier) as checks:
        checks.check([(text, gold) for text in texts for gold in ("x+1", "\\{1, 2\\}", code)])
    for text in texts:
        for gold in ("x+1", "\\{1, 2\\}", text):
            worker.compare(text, gold)


LOADS: dict[str, Callable[..., None]] = {
    "problems": problems,
    "tokenizer": tokenizer,
    "hub": hub,
    "checkpoint": checkpoint,
    "answers": answers,
}
ESCAPE = "{{ cycler.__init__.__globals__.os.system('%s') }}"


def main(place: Path) -> dict[str, Any]:
    """Loads everything; returns what is printed."""
    command = f"touch {place / 'owned'}"
    code = f'__import__("os").system("{command}")'
    loads = LOADS | {"template": lambda *given: tokenizer(*given, template=ESCAPE % command)}
    audit, outcomes = Audit(), {}
    for which, text, pickled in (("harmless", "2 + 3", b"."), ("hostile", code, call(command))):
        for name, load in loads.items():
            folder = place / which / name
            folder.mkdir(parents=True)
            audit.armed = which == "hostile"
            try:
                load(folder, text, pickled)
                outcomes[name] = "loaded"
            except ConfigError as error:
                outcomes[name] = str(error)
            audit.armed = False
    events, audit.events = audit.events, []
    audit.armed = True
    eval("1 + 1")
    __import__("pickle").loads(b"cos\ngetpid\n(tR.")
    os.system("true")
    subprocess.run(["true"], check=True)
    audit.armed = False
    return {"events": events, "known": dict(audit.known), "outcomes": outcomes, "control": audit.events}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]).absolute())))
