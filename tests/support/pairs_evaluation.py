# SPDX-License-Identifier: Apache-2.0
"""What the evaluator is asked in tests: the embedded task, its tokenizer, and short budgets."""

from __future__ import annotations

import small

from t1jax.tasks.pairs.task import PairsTask
from t1jax.text import tokenizer

CFG = small.make_config(
    data__prompt_length=24, rl__max_new_tokens=24, rl__window=24, eval__batch_size=8, scaling__budgets=(3, 8, 16, 24)
)
TASK = PairsTask(CFG.task)
TOKENS = tokenizer.SentencePieceTokenizer(
    tokenizer.train_sentencepiece(TASK.corpus(300, 0), CFG.model.vocab_size, TASK.symbols())
)
