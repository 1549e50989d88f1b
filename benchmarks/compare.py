# SPDX-License-Identifier: Apache-2.0
"""Ours and installed peers on the same work, in turn (A B A B), and the ratios with their spread.

    python -m benchmarks.compare --bench-dir=DIR --hf-python=PY --tunix-python=PY
                                 [--what=both] [--rounds=2] [--mean-len=0 --steps=4 ...]

DIR holds the peers' scripts sampler_hf.py, rlstep_trl.py, sampler_tunix.py, rlstep_tunix.py, which take our flags and
print our keys. A peer whose interpreter is not given is left out, and said to be. All further flags go to everybody;
--peer-micro-prompts and --ours say how each side splits its update.
Prints a line a run on stderr and one line of JSON on stdout. A ratio above 1 says that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEYS = {"sampler": "tokens_per_s", "step": "seconds_per_step"}


def commands(args: argparse.Namespace, what: str, rest: Sequence[str]) -> dict[str, tuple[list[str], Path]]:
    """name -> command and folder of everybody that takes part, ours first."""
    out = {"t1jax": ([sys.executable, "-m", f"benchmarks.{what}", *rest, *args.ours.split()], ROOT)}
    micro = [f"--micro-prompts={args.peer_micro_prompts}"] if what == "step" else []
    scripts = {
        "transformers": (args.hf_python, "sampler_hf.py"),
        "tunix": (args.tunix_python, "sampler_tunix.py"),
    }
    if what == "step":
        scripts = {"trl": (args.hf_python, "rlstep_trl.py"), "tunix": (args.tunix_python, "rlstep_tunix.py")}
    for name, (python, script) in scripts.items():
        if python and args.bench_dir:
            out[name] = ([python, str(args.bench_dir / script), *rest, *micro], args.bench_dir)
        else:
            print(f"{what}: {name} is left out: its interpreter or --bench-dir is not given", file=sys.stderr)
    return out


def run(command: list[str], folder: Path) -> dict[str, Any]:
    """The line of JSON that a benchmark prints last."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr[-2000:]}")
    line: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return line


def ratios(ours: Sequence[float], theirs: Sequence[float], key: str) -> dict[str, float]:
    """How many times as fast ours is, round by round: median, least and most."""
    pairs = list(zip(ours, theirs, strict=True))
    each = [a / b if key == "tokens_per_s" else b / a for a, b in pairs]
    return {"median": round(statistics.median(each), 2), "min": round(min(each), 2), "max": round(max(each), 2)}


def main(argv: Sequence[str]) -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--bench-dir", type=Path, help="folder of the peers' scripts")
    flags.add_argument("--hf-python", default="", help="interpreter with torch, transformers and trl")
    flags.add_argument("--tunix-python", default="", help="interpreter with google-tunix")
    flags.add_argument("--what", choices=("sampler", "step", "both"), default="both")
    flags.add_argument("--rounds", type=int, default=2)
    flags.add_argument("--peer-micro-prompts", type=int, default=2, help="prompts a part of the peers' updates")
    flags.add_argument("--ours", default="", help="flags of ours alone: how the same work is split, not what is done")
    args, rest = flags.parse_known_args(argv)
    if args.rounds < 1:
        flags.error(f"--rounds is {args.rounds}; expected at least 1")
    out: dict[str, Any] = {"rounds": args.rounds, "flags": rest, "ours": args.ours.split()}
    for what in KEYS if args.what == "both" else (args.what,):
        key = KEYS[what]
        found: dict[str, list[float]] = {}
        busy: dict[str, list[float]] = {}
        who = commands(args, what, rest)
        for turn in range(args.rounds):
            for name, (command, folder) in who.items():
                line = run(command, folder)
                found.setdefault(name, []).append(line[key])
                busy.setdefault(name, []).append(line["other_cores_busy"])
                print(
                    f"{what} {turn} {name}: {key} {line[key]}, mean length {line['mean_len_seen']}, "
                    f"split {line['split_s']}, others keep {line['other_cores_busy']} cores busy",
                    file=sys.stderr,
                    flush=True,
                )
        ours = found["t1jax"]
        out[what] = {
            key: found,
            "other_cores_busy": busy,
            "times_as_fast": {name: ratios(ours, values, key) for name, values in found.items() if name != "t1jax"},
        }
    print(json.dumps(out), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
