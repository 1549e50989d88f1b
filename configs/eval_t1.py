# SPDX-License-Identifier: Apache-2.0
"""T1's benchmarks, for t1jax.evaluate: each a file of problems that you bring, and how many samples a problem.

    python -m t1jax.evaluate --config=configs/eval_t1.py --checkpoint=DIR --out=DIR \\
      --config.benchmarks.math500.data=math500.jsonl ...

Only what differs from configs/base.py; every knob is explained in configs/base.py. The sizes of the model come from
the checkpoint. The files are read as they were published: JSON lines, a JSON array, CSV or Parquet; the choices of
GPQA's get letters in an order by data.choice_seed (docs/models.md). The model is asked as the Qwen configs train it;
give data.system_prompt and data.template if yours was trained with others.
With --budgets=..., scaling.answerer=base answers cut thoughts by the model that the run began with, as in the paper.
pass@1 that the paper states (arXiv 2501.11651, table 1), in percent: QwQ-32B-preview, then T1-SFT / T1 on
GLM-4-9B, Qwen2.5-14B and Qwen2.5-32B.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    cfg = base.get_config()
    cfg.unlock()
    cfg.data.system_prompt = base.BOXED  # [kin]
    cfg.data.template = "{problem}"  # [kin]

    cfg.scaling.answer_prefix = "\n</think>\n\n"  # the answer may explain itself before its box [ours: not public]
    cfg.scaling.answer_tokens = 1024  # [ours]

    for name, samples, file in (
        ("math500", 1, "math500.jsonl"),  # 90.6; 60.2 / 65.8, 77.2 / 87.4, 83.4 / 92.4 [paper]
        ("aime24", 32, "aime24.jsonl"),  # 50.0; 4.1 / 9.2, 10.3 / 30.5, 24.9 / 50.6; the mean over 32 samples [paper]
        ("omni_math_500", 1, "omni_math_500.jsonl"),  # 46.6; 20.0 / 24.4, 28.5 / 38.6, 34.6 / 49.6 [paper]
        ("gpqa", 1, "gpqa_diamond.csv"),  # 58.2; 37.2 / 38.1, 42.3 / 48.3, 49.5 / 56.1 [paper]; which part is not said
        ("gsm8k", 1, "gsm8k.jsonl"),  # not in the paper [ours]
    ):
        cfg.benchmarks[name] = ConfigDict({"data": f"data/{file}", "samples": samples})
    return cfg.lock()
