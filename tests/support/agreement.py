# SPDX-License-Identifier: Apache-2.0
"""Whether transformers, greedily, writes what t1jax.evaluate wrote; where not, how near the two likeliest tokens were.

    python -m tests.support.agreement FOLDER RESPONSES.jsonl PROBLEMS.jsonl [--prefix=TEXT] [--limit=64]

FOLDER is a Hugging Face folder, such as t1jax.convert writes; RESPONSES.jsonl is what t1jax.evaluate --temperature=0
with the same weights wrote of PROBLEMS.jsonl. transformers makes each prompt with the folder's own chat template and
--prefix, data.response_prefix of the evaluation, and continues it in float32. Where the texts part, its logits of the
two likeliest tokens there are told: a gap near 0 is rounding, a wide one is a fault. One line of JSON at the end.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."  # of configs/base.py: what T1 asks


def parting(ids: list[int], text: str, decode: Any) -> int | None:
    """The first of `ids` by which they no longer spell the beginning of `text`; None if they spell all of it."""
    if decode(ids) == text:
        return None
    same = 0
    while same < len(ids) and text.startswith(decode(ids[: same + 1]).rstrip("\ufffd")):
        same += 1
    return min(same, len(ids) - 1)


def compare(folder: str, rows: list[dict[str, Any]], problems: list[dict[str, Any]], prefix: str) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    stops = model.generation_config.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops)
    parted, tokens = [], 0
    for row in rows:
        asked = problems[row["row"] - 1]
        said = f"{asked.get('problem') or asked['question']}\n{BOXED}"
        chat = [{"role": "user", "content": said}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + prefix
        prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            out = model.generate(
                **prompt,
                do_sample=False,
                max_new_tokens=row["tokens"],
                output_logits=True,
                return_dict_in_generate=True,
            )
        ids = out.sequences[0, prompt["input_ids"].shape[1] :].tolist()
        logits = torch.stack(out.logits)[:, 0]
        if ids and ids[-1] in stops:
            ids = ids[:-1]
        tokens += len(ids)
        at = parting(ids, row["text"], lambda part: tokenizer.decode(part, skip_special_tokens=True))
        if at is not None:
            first, second = logits[at].topk(2).values.tolist()
            parted.append({"problem": row["problem"], "token": at, "of": len(ids), "gap": first - second})
    return {"responses": len(rows), "tokens": tokens, "equal": len(rows) - len(parted), "parted": parted}


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("folder")
    flags.add_argument("responses")
    flags.add_argument("problems")
    flags.add_argument("--prefix", default="<think>\n")
    flags.add_argument("--limit", type=int, default=64)
    args = flags.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    files = args.responses, args.problems
    rows, problems = ([*map(json.loads, Path(name).read_text(encoding="utf-8").splitlines())] for name in files)
    print(json.dumps(compare(args.folder, rows[: args.limit], problems, args.prefix)))


if __name__ == "__main__":
    main()
