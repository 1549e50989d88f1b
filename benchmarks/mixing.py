# SPDX-License-Identifier: Apache-2.0
"""Whether weights of files (data.weights) help where the problems that count are few: a study of one knob.

    python -m benchmarks.mixing --cold=workdirs/study/cold/NAME --out=DIR [--seeds=5] [--config.KNOB=...]

--cold has a cold start for each seed, seed0, seed1, ..., as `t1jax.study --seeds=5` makes them (configs/study.py).
Each is exported for Hugging Face, with its tokenizer as tokenizer.json, which problems of files need. RL goes on from
it with two files of problems of the embedded task: 1,800 with the fewest numbers and 200 with the most. Only the latter
count: 512 others like them are held out. One arm draws each problem as often as any other, 9 : 1; the other as many of
each file, data.weights = (0.5, 0.5). Both make the same number of updates. A table is printed, one line of JSON at the
end, and the same command goes on where it was stopped.

Deliberately not here: choosing groups within a step (rl.overdraw, a study of t1jax.study), an order by difficulty
(task.curriculum).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

SIZES = {"few": 1800, "many": 200}  # numbers to choose from -> problems
HELD_OUT = 512
ARMS = {"each problem": (), "each file": (0.5, 0.5)}  # what counts the same -> data.weights
NAMED = {"pad_token": "<pad>", "eos_token": "</s>"}
SKILLS = ("before RL", "mean_reward", "response_length")


def found(prompt: str, response: str, row: Mapping[str, Any]) -> float:
    """1 if the box holds two numbers of the row with the asked sum; else 0."""
    from t1jax.rewards import answers

    return float(answers.compare(answers.last_box(response) or "", tuple(row["numbers"]), row["target"]))


def write_problems(cfg: Any, folder: Path) -> dict[str, Path]:
    """few.jsonl, many.jsonl and held_out.jsonl of the task that `cfg` describes."""
    from t1jax.tasks.pairs.chains import BEGIN
    from t1jax.tasks.pairs.task import PairsTask

    of = {"few": cfg.task.min_numbers, "many": cfg.task.max_numbers}
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.jsonl" for name in (*SIZES, "held_out")}
    for name, file in files.items():
        numbers, split = of.get(name, cfg.task.max_numbers), "held_out" if name == "held_out" else "train"
        task = PairsTask(replace(cfg.task, min_numbers=numbers, max_numbers=numbers))
        rows: list[dict[str, Any]] = []
        seen, index = set(), 0
        while len(rows) < SIZES.get(name, HELD_OUT):
            problem, index = task.problem(index, split), index + 1
            text = task.prompt(problem).removesuffix(BEGIN)
            if text not in seen:
                seen.add(text)
                rows.append({
                    "problem": text, "answer": task.gold(problem), "numbers": problem.numbers, "target": problem.target,
                })  # fmt: skip
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


def reader(vocabulary: Mapping[str, int]) -> Any:
    """A Hugging Face tokenizer that reads as SentencePiece's with these pieces, on texts of the embedded task.

    That one was trained with every number and phrase as a symbol, and nothing longer is left in its texts: so the
    longest pieces first are all of it.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    from t1jax.text.tokenizer import SPACE

    ids = {piece.replace(SPACE, " "): token for piece, token in vocabulary.items()}
    longest_first = "|".join(map(re.escape, sorted(ids, key=len, reverse=True)))
    made = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(longest_first + r"|[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(list(NAMED.values()))
    return made


def export(cold: Path, folder: Path) -> Path:
    """Writes a cold start of the embedded task as a Hugging Face folder with a tokenizer.json; returns `folder`."""
    from t1jax.host.progress import Progress
    from t1jax.text import tokenizer
    from t1jax.weights import conversion

    if not folder.exists():
        with Progress() as progress:
            conversion.orbax_to_hf(cold, folder, progress)
    (folder / "tokenizer_config.json").write_text(json.dumps(NAMED), encoding="utf-8")
    reader(tokenizer.load(folder).vocabulary).save(str(folder / "tokenizer.json"))
    return folder


def run(cfg: Any, cold: Path, out: Path, seed: int, arm: str, files: Mapping[str, Path]) -> dict[str, float]:
    """What a run of this arm ends as."""
    import t1jax
    from t1jax.tasks.pairs.chains import BEGIN

    knobs = {
        "seed": seed,
        "model.checkpoint": str(export(cold / f"seed{seed}" / "checkpoints/sft", out / f"cold{seed}")),
        "sft.num_steps": 0,
        "data.train": f"{files['few']},{files['many']}",
        "data.weights": ARMS[arm],
        "data.eval": str(files["held_out"]),
        "data.template": "{problem}",
        "data.chat": False,
        "data.response_prefix": BEGIN,
        "scaling.budgets": (),
    }
    workdir = out / f"{arm.replace(' ', '_')}{seed}"
    results = t1jax.train(cfg, workdir=workdir, knobs=knobs, reward=found).results
    return {"before RL": results["sft"]["mean_reward"]} | {name: results["rl"][name] for name in SKILLS[1:]}


def main(argv: list[str]) -> None:
    from t1jax.host import command_line
    from t1jax.studies.significance import mean_interval, p_value

    parser = argparse.ArgumentParser("benchmarks.mixing")
    parser.add_argument("--cold", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    args, rest = parser.parse_known_args(argv[1:])
    cfg, _, extra = command_line.read_config([argv[0], *rest], lambda values: None, "configs/study.py")
    if extra:
        raise SystemExit(f"unexpected argument {extra[0]!r}")
    files = write_problems(cfg, args.out / "problems")
    ends = {arm: [run(cfg, args.cold, args.out, seed, arm, files) for seed in range(args.seeds)] for arm in ARMS}
    print("| what counts the same | " + " | ".join(SKILLS) + " |\n|" + "---|" * (len(SKILLS) + 1))
    for arm, runs in ends.items():
        cells = ("{:.3f} [{:.3f}, {:.3f}]".format(*mean_interval([run[name] for run in runs])) for name in SKILLS)
        print(f"| {arm} | " + " | ".join(cells) + " |")
    gains = [b["mean_reward"] - a["mean_reward"] for a, b in zip(*ends.values(), strict=True)]
    mean, low, high = mean_interval(gains)
    print(json.dumps({"ends": ends, "gain": {"mean": mean, "low": low, "high": high, "p": p_value(gains)}}))


if __name__ == "__main__":
    main(sys.argv)
