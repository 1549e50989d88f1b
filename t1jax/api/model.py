# SPDX-License-Identifier: Apache-2.0
"""`t1jax.load`, `t1jax.sample` and `t1jax.evaluate`: a checkpoint from Python.

Deliberately not here: answers as they are sampled, on a terminal (sample.py), the figures themselves (evaluation/),
flags (evaluate.py).
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from t1jax.api import given
from t1jax.api.given import Given, Reward, Row
from t1jax.config import BenchmarkConfig, Config, ConfigError
from t1jax.host import config_files, place

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from t1jax.evaluation.opened import Opened
    from t1jax.text.tokenizer import Tokenizer
    from t1jax.types import Params


LENGTHS = 64  # prompts are padded to a multiple of so many positions, and those of a length share a program


@dataclasses.dataclass(frozen=True)
class Model:
    """A checkpoint. Its weights are read when they are first used, and kept."""

    opened: Opened

    @property
    def config(self) -> Config:
        """The config, with the sizes of this model."""
        return self.opened.cfg

    @property
    def tokenizer(self) -> Tokenizer:
        return self.opened.tokenizer

    @cached_property
    def mesh(self) -> Mesh:
        """The devices that the weights are on."""
        from t1jax.devices import sharding

        return sharding.make_mesh(self.config.mesh)

    @cached_property
    def params(self) -> Params:
        """The weights, in compute dtype, laid out for sampling."""
        return self.opened.params(self.mesh)

    @cached_property
    def _generators(self) -> dict[int, Any]:
        """Rows of a call -> what samples them: a second call does not compile again."""
        return {}

    @overload
    def sample(  # type: ignore[overload-overlap]
        self, prompts: str, *, temperature: float = 0.6, max_new_tokens: int = 1024, raw: bool = False
    ) -> str: ...

    @overload
    def sample(
        self, prompts: Sequence[str], *, temperature: float = 0.6, max_new_tokens: int = 1024, raw: bool = False
    ) -> list[str]: ...

    def sample(
        self, prompts: str | Sequence[str], *, temperature: float = 0.6, max_new_tokens: int = 1024, raw: bool = False
    ) -> str | list[str]:
        """The answer to each prompt, as `t1jax.sample` the command prints it; one text for one prompt.

        Args:
          prompts: problems, which the config's template and the chat template are put around.
          temperature: 0 is greedy.
          max_new_tokens: most tokens of an answer.
          raw: continue the texts as they are.

        Raises:
          ConfigError: a prompt is empty, cannot be encoded, or is longer than the model was trained for.
        """
        from t1jax.rollouts.generate import Generator
        from t1jax.text.huggingface import HFTokenizer

        several = [prompts] if isinstance(prompts, str) else list(prompts)
        ids = [encoded(prompt_of(one, self.config, self.tokenizer, raw), self.opened) for one in several]
        if not ids:
            return []
        longest = max(map(len, ids))
        if isinstance(self.tokenizer, HFTokenizer):
            self.tokenizer.refuse_too_long(longest + max_new_tokens, "the prompt's tokens + max_new_tokens")
        cfg = self.config
        rows = -(-len(ids) // self.mesh.size) * self.mesh.size
        cfg = dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, batch_size=min(cfg.eval.batch_size, rows)))
        if rows not in self._generators:
            self._generators[rows] = Generator(cfg, self.mesh, self.tokenizer)
        drawn = self._generators[rows](
            self.params, ids, "sample", length=-(-longest // LENGTHS) * LENGTHS, new_tokens=max_new_tokens,
            temperature=temperature, truncate=True,
        )  # fmt: skip
        texts = [self.tokenizer.decode(answer) for (answer,) in drawn]
        return texts[0] if isinstance(prompts, str) else texts

    def evaluate(
        self,
        data: str | os.PathLike[str] | Sequence[Row],
        *,
        reward: Reward | Sequence[Reward] = (),
        weights: Sequence[float] = (),
        samples: int = 1,
        temperature: float = 1.0,
        out: str | os.PathLike[str] | None = None,
    ) -> dict[str, Any]:
        """The figures of one file of problems, as results.json of `t1jax.evaluate` the command has them.

        Args:
          data: a file of problems, or rows with columns as those of one.
          reward, weights: as for t1jax.train; by default the config's.
          samples: responses to each problem.
          temperature: 0 is greedy.
          out: a folder that keeps the responses, which the same call resumes from; None: nothing is kept.

        Raises:
          ConfigError: the problems or a function cannot be used, or `out` holds an evaluation with other settings.
        """
        from t1jax.evaluation import benchmark
        from t1jax.host.progress import Progress
        from t1jax.rewards.verifier import Verifier
        from t1jax.tasks.files.task import FileGrader
        from t1jax.tasks.rewarded import rewarded

        opened = self.opened
        if callable(reward) or reward:
            cfg = given.config_of(self.config, given.reward_knobs(reward, weights))
            opened = dataclasses.replace(opened, cfg=cfg)
        elif weights:
            raise ConfigError(f"weights is {tuple(weights)}; expected reward to be given with it")
        if samples > 1 and temperature == 0:
            raise ConfigError(f"temperature is 0 with {samples} samples, which would all be the same; expected one")
        tokens = opened.for_files()
        with ExitStack() as stack:
            progress = stack.enter_context(Progress())
            verifier = stack.enter_context(Verifier(opened.cfg.verifier))
            made = tempfile.TemporaryDirectory() if out is None else nullcontext(str(out))
            folder = place.of(stack.enter_context(made), "out")
            task = FileGrader(opened.cfg, tokens, verifier)
            if isinstance(data, str | os.PathLike):
                path = place.data(os.fspath(data), "data", "test")
            else:
                rows = given.listed(data, "data", "rows")
                path = given.write_rows(folder / "problems.jsonl", rows, folder / "responses.settings.json")
            problems, notes = task.read(path)
            for note in notes:
                progress.note(note)
            judging = stack.enter_context(rewarded(task, opened.cfg, lambda: problems[0]))
            evaluator, origin = opened.evaluator_of(self.params, self.mesh, judging, progress)
            asked = BenchmarkConfig(path, samples)
            return benchmark.evaluate(evaluator, self.params, origin, "data", asked, problems, folder, temperature, ())


def load(
    folder: str | os.PathLike[str], *, config: Given | None = None, knobs: Mapping[str, Any] | None = None
) -> Model:
    """The model in `folder`: a Hugging Face folder, output of t1jax.convert, or a workdir.

    Args:
      config: has data.template, mesh, eval.batch_size and all else but the sizes of the model. None: that of the run,
        if `folder` is a workdir, else "base".
      knobs: dotted names -> values.

    Raises:
      ConfigError: there is no checkpoint, or a knob cannot work.
    """
    given.refuse_reward_process("t1jax.load")
    from t1jax.evaluation.opened import open_checkpoint

    if config is None:
        config = config_files.of_run(folder) or "base"
    return Model(open_checkpoint(given.config_of(config, knobs), os.fspath(folder)))


def sample(checkpoint: str | os.PathLike[str] | Model, prompts: str | Sequence[str], **settings: Any) -> Any:
    """The answer to each prompt, see Model.sample; `checkpoint`: a folder as for `load`, or what that gave."""
    model = checkpoint if isinstance(checkpoint, Model) else load(checkpoint)
    return model.sample(prompts, **settings)


def evaluate(
    checkpoint: str | os.PathLike[str] | Model, data: str | os.PathLike[str] | Sequence[Row], **settings: Any
) -> dict[str, Any]:
    """The figures of a file of problems, see Model.evaluate; `checkpoint`: a folder, or what `load` gave."""
    model = checkpoint if isinstance(checkpoint, Model) else load(checkpoint)
    return model.evaluate(data, **settings)


def prompt_of(problem: str, cfg: Config, tokens: Tokenizer, raw: bool = False) -> str:
    """What a model continues: the problem in the config's template or as the embedded task asks; `raw`: as it is."""
    from t1jax.tasks import embedded
    from t1jax.tasks.files import prompts
    from t1jax.text.huggingface import HFTokenizer

    if not problem:
        raise ConfigError("the problem is empty; expected text")
    if not isinstance(tokens, HFTokenizer):  # it was trained on the embedded task's own text
        return problem if raw else embedded.ask(problem)
    return tokens.plain(problem) if raw else prompts.render(problem, cfg.data, tokens)


def encoded(prompt: str, opened: Opened) -> list[int]:
    """The token ids of a prompt. ConfigError: it has a character that the tokenizer lacks."""
    from t1jax.tasks import embedded
    from t1jax.text.huggingface import HFTokenizer
    from t1jax.weights import load as weights

    try:
        return opened.tokenizer.encode(prompt)
    except ValueError as error:
        if isinstance(opened.tokenizer, HFTokenizer):
            raise ConfigError(f"the problem: {error}") from error
        trained = weights.run_config(opened.source)
        such = f", such as {embedded.example(trained)!r}" if trained and embedded.example(trained) else ""
        raise ConfigError(
            f"the problem: {error}; expected a question of the task that this model was trained on{such}; see "
            "docs/tasks.md"
        ) from error
