# SPDX-License-Identifier: Apache-2.0
"""Weights between Hugging Face's folders and Orbax: `python -m t1jax.convert hf-to-orbax|orbax-to-hf`.

Where: before and after training.
Deliberately not here: the conversion itself (weights/conversion.py).
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from absl import flags

from t1jax.config import ConfigError
from t1jax.host import command_line, place

USAGE = """\
usage: python -m t1jax.convert hf-to-orbax --src=HF_DIR --dst=DIR [--merge]
       python -m t1jax.convert orbax-to-hf --src=DIR --dst=HF_DIR [--dtype=bfloat16] [--which=policy]
                                           [--max-shard-size=5GB] [--merge] [--push=OWNER/NAME]

hf-to-orbax   from a Hugging Face folder of a Qwen2, Qwen2.5, Qwen3, Qwen3-MoE, Llama or GLM-4 model, or with --merge
              PEFT's folder of an adapter beside one, to an Orbax folder, of which each process reads only its shards;
              weights keep their dtype
orbax-to-hf   from such a folder, or a run's workdir, stage or step, to a folder for transformers and vLLM; of a run
              with LoRA, to PEFT's folder of its adapters

  --src             folder to read; hf-to-orbax: or OWNER/NAME[@REVISION] of the Hugging Face hub
  --dst             folder to write; must be new or empty
  --dtype           float32, bfloat16 or float16; default: as stored; for a run, as in its config.json, else float32
  --which           which weights of a run: policy, or anchor (the moving reference policy); default policy
  --push            OWNER/NAME: with orbax-to-hf, also upload to the Hugging Face hub, with a model card; a new model is
                    private
  --max-shard-size  maximum data in one *.safetensors file, such as 5GB, 500MB or 2GiB; default 5GB
  --merge           --src has adapters, as a run with LoRA or PEFT's folder: write whole weights with these in them
"""
HF_TO_ORBAX, ORBAX_TO_HF = "hf-to-orbax", "orbax-to-hf"
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def cli() -> None:
    """The `python -m t1jax.convert` command."""
    command_line.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    return command_line.call("t1jax.convert", USAGE, _convert, argv, interrupted="interrupted; nothing is half written")


def _convert(argv: list[str]) -> None:
    values, commands = command_line.read_flags(argv, _define)
    names = ("src", "dst", "dtype", "which", "max-shard-size", "merge", "push")
    given: dict[str, Any] = {name: values[name].value for name in names}
    if commands not in ([HF_TO_ORBAX], [ORBAX_TO_HF]):
        raise ConfigError(f"got {' '.join(commands) or 'no command'}; expected {HF_TO_ORBAX} or {ORBAX_TO_HF}")
    for name in ("src", "dst"):
        if not given[name]:
            raise ConfigError(f"--{name} is empty; expected a folder")
    if commands == [HF_TO_ORBAX] and (given["dtype"] or given["which"] != "policy"):
        raise ConfigError(f"--dtype and --which are for {ORBAX_TO_HF}; {HF_TO_ORBAX} leaves weights as they are")
    if given["push"] and (commands == [HF_TO_ORBAX] or "://" in given["dst"]):
        raise ConfigError(
            f"--push={given['push']}; expected it with {ORBAX_TO_HF} to a local --dst: the hub takes that form"
        )
    max_bytes = read_size(given["max-shard-size"])

    import jax

    jax.config.update("jax_platforms", "cpu")  # the host's work: leave accelerators alone
    from t1jax.host import hub, upload
    from t1jax.host.progress import Progress
    from t1jax.weights import card, conversion
    from t1jax.weights import load as weights

    text = ""
    if given["push"]:
        source = weights.find(given["src"], "--src")
        adapter = source.base is not None and not given["merge"]
        run = weights.run_config(source)
        if adapter and run is not None and not hub.is_model(run.model.checkpoint):
            raise ConfigError(
                f"--push={given['push']}: the adapters are beside {run.model.checkpoint}, which nobody else has; "
                "expected --merge, or a run whose model.checkpoint is a model of the hub"
            )
        text = card.write(source, given["push"], given["which"], adapter)
    with _killed_as_interrupted(), ExitStack() as stack:
        send = stack.enter_context(upload.begun(given["push"], Path(given["dst"]))) if given["push"] else None
        with Progress() as progress:
            if commands == [HF_TO_ORBAX]:
                conversion.hf_to_orbax(given["src"], given["dst"], progress, given["merge"])
            else:
                conversion.orbax_to_hf(
                    given["src"], given["dst"], progress, given["dtype"], given["which"], max_bytes, given["merge"]
                )
        print(f"weights: {place.of(given['dst'], '--dst').resolve()}")
        if send:
            (Path(given["dst"]) / "README.md").write_text(text, encoding="utf-8")
            print(f"uploaded: {send()}")


def _define(values: flags.FlagValues) -> None:
    for name, default in (
        ("src", ""),
        ("dst", ""),
        ("dtype", ""),
        ("which", "policy"),
        ("max-shard-size", "5GB"),
        ("push", ""),
    ):
        flags.DEFINE_string(name, default, "see USAGE", flag_values=values)
    flags.DEFINE_boolean("merge", False, "see USAGE", flag_values=values)


@contextmanager
def _killed_as_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does: what was half written is then removed, too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def read_size(text: str) -> int:
    """Bytes of "5GB", "500MB", "2GiB" or "1000".

    Raises:
      ConfigError: it is no size.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?([A-Za-z]*)", text)
    size = int(float(match[1]) * UNITS.get(match[2].upper(), 0)) if match else 0
    if size < 1:
        raise ConfigError(f"--max-shard-size is {text!r}; expected a size like 5GB, 500MB or 2GiB")
    return size


if __name__ == "__main__":
    cli()
