# SPDX-License-Identifier: Apache-2.0
"""An embedded task asked of a pretrained model: in data.template, the model's own tokenizer and its chat.

Where: prompts, evaluation, the cold start. Questions, chains, answers and their check are the task's; only how they are
wrapped changes, as for problems of files (files/prompts.py). Set data.response_prefix to "<think>\\n" to begin every
response as chains do.
Deliberately not here: the tasks (pairs/, countdown/), datasets of reasoning-gym, which ask in chat themselves (gym/).
"""

from __future__ import annotations

from t1jax.config import Config
from t1jax.tasks.files import problems
from t1jax.tasks.files.prompts import after, render
from t1jax.tasks.honesty import Analysis
from t1jax.tasks.pairs import chains
from t1jax.tasks.task import P, Task, Wrapped
from t1jax.text.huggingface import HFTokenizer
from t1jax.text.tokenizer import TokenIds, Tokenizer


class ChatTask(Wrapped[P]):
    """`task` as a user asks it; a response is a chain, after <think> unless the prompt ends with that."""

    def __init__(self, task: Task[P], cfg: Config, tokenizer: HFTokenizer) -> None:
        super().__init__(task)
        self._cfg, self._tokenizer = cfg, tokenizer

    @property
    def cut_answer_prefix(self) -> str:
        """scaling.answer_prefix, as for files."""
        return self._cfg.scaling.answer_prefix

    def question(self, problem: P) -> str:
        """What a user would ask."""
        return self._task.prompt(problem).removesuffix(chains.BEGIN).rstrip()

    def prompt(self, problem: P) -> str:
        """The question in data.template and chat, and data.response_prefix.

        Raises:
          ConfigError: data.chat is True and the tokenizer has no chat template.
        """
        return render(self.question(problem), self._cfg.data, self._tokenizer)

    def demonstration(self, index: int, seed: int) -> tuple[str, str]:
        """(prompt, chain) of the training problem with this index; it and the seed decide the chain."""
        _, chain = self._task.demonstration(index, seed)
        prompt = self.prompt(self.problem(index, "train"))
        return prompt, after(prompt, f"{chains.BEGIN}{chain}", self._cfg.data)

    def analyse(self, problem: P, response: str) -> Analysis | None:
        """What the response tried and claimed, after its <think> if it writes one."""
        return self._task.analyse(problem, response.removeprefix(chains.BEGIN))

    def forbid_giving_up(self, tokenizer: Tokenizer) -> None:
        """None: the last token before </think> does not show what its line claims."""

    def thought_end(self, tokens: TokenIds, tokenizer: Tokenizer) -> int | None:
        """Tokens before the </think>, which may be several; None if there is none."""
        return problems.thought_end(tokens, tokenizer)
