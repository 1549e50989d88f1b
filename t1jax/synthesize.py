# SPDX-License-Identifier: Apache-2.0
"""Command line: chains of thought for the cold start, made from real attempts.

    python -m t1jax.synthesize --problems=train.jsonl --out=chains.jsonl --checkpoint=DIR

Makes the data of the cold start. This file handles flags and files; heavy imports wait until the flags are read, so
that --help is instant.
Source: T1 (arXiv 2501.11651) section on the cold start.
Deliberately not here: the steps (synthesis/pipeline.py), what is asked (synthesis/subjects.py, synthesis/rules.py), who
writes (synthesis/endpoints.py, synthesis/local.py), what a file of chains depends on (synthesis/settings.py).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from t1jax.config import Config, ConfigError
from t1jax.host import command_line, place
from t1jax.host.place import Place
from t1jax.host.stopping import EXIT_FAILED, Stopped

if TYPE_CHECKING:
    from t1jax.host.progress import Progress
    from t1jax.rewards.verifier import Verifier
    from t1jax.synthesis.ledger import Ledger
    from t1jax.synthesis.local import LocalWriter
    from t1jax.synthesis.record import Item
    from t1jax.synthesis.subjects import Subject
    from t1jax.synthesis.writers import Writer
    from t1jax.text.tokenizer import Tokenizer

USAGE = """\
usage: python -m t1jax.synthesize --out=FILE.jsonl [--problems=FILE] [--checkpoint=DIR] ...

Makes chains of thought for the cold start: N attempts at each problem are judged, criticised, merged into one chain
that tries, fails, backtracks and verifies, then rewritten and checked.

  --out=FILE.jsonl      the chains: rows for data.sft, each with the source of every part. Written beside it:
                        FILE.html (samples), FILE.summary.json (counts, tokens, cost), FILE.rejected.jsonl,
                        FILE.ledger.jsonl (cached responses: the same command resumes from it and never pays for
                        one twice) and FILE.settings.json
  --problems=FILE       problems with answers: JSON lines, a JSON array, CSV or Parquet
                        (default: the training problems of the embedded task)
  --checkpoint=DIR      weights of the writer "local": a Hugging Face folder, output of t1jax.convert, or a workdir
                        (default: model.checkpoint of the config)
  --limit=N             only the first N problems (default: the whole file, or 1000 of the embedded task)
  --config=FILE         a Python file with get_config() (default: that of the run, if --checkpoint is a workdir, else
                        configs/base.py); cfg.synthesis names the writers and their endpoints
  --config.KNOB=...     set any other knob, such as --config.synthesis.attempts=8
  --help                show this text

Exit codes: 0 success, 1 failure (names the file of its traceback), or all requests were given up, 2 error in flags or
files, 3 disk full, 130 interrupted.
"""
DEFAULT_CONFIG = "configs/base.py"
EMBEDDED_PROBLEMS = 1000
BESIDE = (".rejected.jsonl", ".html", ".summary.json", ".ledger.jsonl", ".settings.json")  # written beside --out


def cli() -> None:
    """What `python -m t1jax.synthesize` calls."""
    command_line.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line `argv` (program name first); returns the exit code."""
    return command_line.call("t1jax.synthesize", USAGE, _run, argv)


def synthesize(
    cfg: Config,
    subject: Subject,
    items: Sequence[Item],
    writers: Mapping[str, Writer],
    out: Place,
    progress: Progress,
    count_tokens: Callable[[str], int] | None = None,
    ledger: Ledger | None = None,
) -> dict[str, Any]:
    """Makes the chains and writes OUT and what lies beside it, each whole or not at all; returns the summary.

    With the writers' `ledger` the summary has "paid": all that was, also for answers of no use and by earlier runs.
    """
    from t1jax.host import files
    from t1jax.synthesis import gallery, prompts
    from t1jax.synthesis.pipeline import Synthesis
    from t1jax.synthesis.record import summary

    stories = Synthesis(cfg, subject, writers, progress, count_tokens).run(items)
    templates = f"{prompts.VERSION} {prompts.digest()}"
    found = summary(stories, templates, cfg.seed)
    if ledger is not None:
        found["paid"] = {f"{name} {model}": dataclasses.asdict(sums) for (name, model), sums in ledger.totals().items()}
    lines: dict[bool, list[str]] = {True: [], False: []}
    for story in stories:
        lines[story.response is not None].append(json.dumps(story.row(templates, cfg.seed)) + "\n")
    files.write_text(out.with_suffix(".rejected.jsonl"), "".join(lines[False]))
    files.write_text(out.with_suffix(".html"), gallery.render(stories, found))
    files.write_json(out.with_suffix(".summary.json"), found)
    files.write_text(out, "".join(lines[True]))  # the last: where it is, all the others are
    return found


def told(out: Place, found: Mapping[str, Any]) -> list[str]:
    """The summary as lines for a terminal."""
    lines = [f"{out}: {found['chains']} chains of {found['problems']} problems"]
    if found["chains"]:
        share = found["with_wrong_attempts"] / found["chains"]
        lines[0] += f", {share:.1%} of them with wrong attempts, {found['tokens_per_chain']:.1f} tokens on average"
    lines += [f"rejected: {count} {reason}" for reason, count in found["rejected"].items()]
    for kind in ("writers", "paid"):
        for name, row in found.get(kind, {}).items():
            words = f"{row['requests']} texts, {row['prompt_tokens']} tokens in, {row['completion_tokens']} out"
            words += f", cost {row['cost']:.4f}" if row["cost"] else ""
            words += f", {row['uncounted']} without counts" if row.get("uncounted") else ""
            lines.append(f"{name}: {words}" + (", including unusable answers, over all runs" if kind == "paid" else ""))
    return lines


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, "", values)
    flags.DEFINE_string("problems", None, "", values)
    flags.DEFINE_string("checkpoint", None, "", values)
    flags.DEFINE_integer("limit", None, "", 1, flag_values=values)


def _run(argv: list[str]) -> None:
    cfg, values, extra = command_line.read_config(argv, _define, DEFAULT_CONFIG)
    if extra:
        raise ConfigError(f"unexpected argument {extra[0]!r}; flags start with --, see --help")
    problems = place.data(values.problems, "--problems") if values.problems else ""
    out = _out(values.out, problems)

    import jax

    from t1jax import checks, validation
    from t1jax.host.progress import Progress
    from t1jax.rewards.verifier import Verifier
    from t1jax.synthesis import settings
    from t1jax.synthesis.ledger import Ledger
    from t1jax.synthesis.pipeline import FAILED

    embedded = not problems
    _refuse_other_kind(cfg, embedded)
    names = _writers_of(cfg)
    tokens: Tokenizer | None = None
    make: Callable[[Ledger, Progress], LocalWriter] | None = None
    if checks.LOCAL in names:
        from t1jax.synthesis.local import open_local

        cfg, tokens, make = open_local(cfg, values.checkpoint, argv, embedded)
    elif values.checkpoint:
        raise ConfigError(f"--checkpoint={values.checkpoint}; expected none: no writer of cfg.synthesis is 'local'")
    else:
        validation.validate(cfg, jax.device_count())
    with Progress() as progress, Verifier(cfg.verifier) as verifier:
        subject, items = _subject(cfg, problems, values.limit, tokens, verifier, progress)
        with Ledger(out.with_suffix(".ledger.jsonl")) as ledger:
            writers: dict[str, Writer] = {}
            if make is not None:
                writers[checks.LOCAL] = make(ledger, progress)
            writers |= _endpoints(cfg, names, ledger)
            settings.hold(out, settings.of(cfg, items, writers))
            count = None if tokens is None else _counter(tokens)
            found = synthesize(cfg, subject, items, writers, out, progress, count, ledger)
    print(*told(out, found), f"chains: {out.resolve()}", sep="\n")
    if (given_up := found["rejected"].get(FAILED, 0)) == found["problems"] > 0:
        raise Stopped(
            f"no chain was made: requests for each of the {given_up} problems were given up, as the lines above say; "
            "the same command tries again",
            EXIT_FAILED,
        )


def _writers_of(cfg: Config) -> set[str]:
    """The writers that cfg.synthesis names."""
    synthesis = cfg.synthesis
    return {*synthesis.attempters, synthesis.critic, synthesis.merger, synthesis.rewriter} - {""}


def _refuse_other_kind(cfg: Config, embedded: bool) -> None:
    """Programs write for the demo's task only, and models do not."""
    if embedded and cfg.task.name != "pairs":
        raise ConfigError(
            f"task.name is {cfg.task.name}; expected pairs, whose chains a program can merge, or --problems"
        )
    from t1jax.checks import LOCAL, RULES

    roles = {name: getattr(cfg.synthesis, name) for name in ("critic", "merger")}
    for name, writer in roles.items():
        if embedded and writer != RULES:
            raise ConfigError(
                f"synthesis.{name} is {writer}; expected {RULES}: the embedded task's chains have a language of their "
                "own (or --problems=FILE)"
            )
        if not embedded and writer == RULES:
            raise ConfigError(
                f"synthesis.{name} is {RULES}; expected a model: only the embedded task has such a program"
            )
    if embedded and (cfg.synthesis.rewriter or set(cfg.synthesis.attempters) != {LOCAL}):
        knob = "rewriter" if cfg.synthesis.rewriter else "attempters"
        expected = "nobody" if cfg.synthesis.rewriter else LOCAL
        raise ConfigError(
            f"synthesis.{knob} is {getattr(cfg.synthesis, knob)}; expected {expected}, for the embedded task (or "
            "--problems=FILE)"
        )


def _subject(
    cfg: Config,
    problems: str | None,
    limit: int | None,
    tokens: Tokenizer | None,
    verifier: Verifier,
    progress: Progress,
) -> tuple[Subject, list[Item]]:
    """The kind of problems, and the problems to make chains for; says which rows of a file are left out."""
    from t1jax.synthesis.record import Item
    from t1jax.synthesis.rules import EmbeddedSubject
    from t1jax.synthesis.subjects import FileSubject
    from t1jax.tasks.embedded import make_embedded
    from t1jax.tasks.files.problems import comparable, read_problems, usable, verifiable
    from t1jax.text.huggingface import HFTokenizer

    if not problems:
        task, _ = make_embedded(cfg, tokens, verifier)
        embedded = EmbeddedSubject(task)
        return embedded, embedded.items(limit or EMBEDDED_PROBLEMS)
    read, notes = read_problems(problems, cfg.data, "train")
    read = read[:limit]
    if isinstance(tokens, HFTokenizer):
        read, more = usable(read, cfg.data, tokens)
        notes += more
    read, as_text = comparable(read, verifier, cfg.data.text_golds)
    read, more = verifiable(read, verifier)
    for note in (*notes, *as_text, *more):
        progress.note(note)
    return FileSubject(verifier), [Item(p.index, p.row, p.text, p.gold, p) for p in read]


def _endpoints(cfg: Config, names: set[str], ledger: Ledger) -> dict[str, Writer]:
    """A writer for each endpoint that is named."""
    wanted = sorted(names & set(cfg.synthesis.endpoints))
    if not wanted:
        return {}
    from t1jax.synthesis.endpoints import EndpointWriter

    return {name: EndpointWriter(name, cfg.synthesis.endpoints[name], ledger) for name in wanted}


def _counter(tokens: Tokenizer) -> Callable[[str], int]:
    return lambda text: len(tokens.encode(text))


def _out(name: str | None, problems: str) -> Place:
    """The file --out; neither it nor what is written beside it is the file of the problems."""
    if name and problems:
        out = place.of(name, "--out")
        if any(place.same(problems, each) for each in (out, *map(out.with_suffix, BESIDE))):
            raise ConfigError(
                f"--out={name} would write to --problems={problems}; expected another file: the problems are never "
                "overwritten"
            )
    return command_line.out_file(name)


if __name__ == "__main__":
    cli()
