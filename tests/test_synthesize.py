# SPDX-License-Identifier: Apache-2.0
"""The pipeline with a scripted writer: who is asked what, what is rejected and why, and which files come out."""

from __future__ import annotations

import dataclasses
import json
import threading

import pytest
import scribes
from letters import LETTERS
from scribes import TEXTS, Plain, Scribe, but, items, make_config, quiet, role_of, run, script

from t1jax import synthesize as program
from t1jax.config import ConfigError
from t1jax.synthesis import checks, pipeline, prompts, record, subjects
from t1jax.synthesis.writers import Completion, Failure
from t1jax.tasks.files.demonstrations import read_demonstrations
from t1jax.tasks.files.overlap import Known


def test_every_problem_gets_a_chain_that_was_attempted_criticised_merged_and_rewritten():
    stories, writers = run()
    assert [story.reason for story in stories] == [None] * 3
    for text, story in zip(TEXTS, stories, strict=True):
        assert [a.outcome.name for a in story.attempts] == ["WRONG", "WRONG", "RIGHT"]
        assert [a.note.text for a in story.attempts] == [text["critic_wrong"]] * 2 + [text["critic_right"]]
        thinking, _, answer = text["merge"].replace("\n\n", "\n", 1).rpartition("\n\n")
        assert story.response == f"<think>\n{thinking}\n</think>\n\n{answer}"
    keys = [request.key for request in writers["sage"].asked]
    assert len(keys) == len(set(keys)) == 3 * (3 + 3 + 1 + 1)
    assert {key.partition("/")[0] for key in keys} == {"attempt", "note", "merge", "rewrite"}


def test_each_is_asked_for_what_its_template_says():
    _, writers = run()
    cfg = make_config().synthesis
    for request in writers["sage"].asked:
        (message,) = request.messages
        text = next(text for text in TEXTS if text["problem"] in message["content"])
        role = role_of(message["content"])
        rewriting = role in ("merge", "rewrite")
        assert request.max_tokens == (cfg.chain_tokens if rewriting else cfg.attempt_tokens)
        assert request.temperature == (1.0 if role == "attempt" else 0.3)
        if role == "merge":
            shown = message["content"]
            places = [shown.index(part) for part in (text["wrong"], text["critic_wrong"], text["right"])]
            assert places == sorted(places) and shown.index(text["critic_right"]) > places[-1]
            assert shown.count("<attempt ") == 3 and f"<right_answer>\n{text['gold']}\n" in shown
        if role in ("attempt", "critic_right", "rewrite"):
            assert "<right_answer>" not in message["content"]
    assert len({request.seed for request in writers["sage"].asked}) == len(writers["sage"].asked)


def test_attempts_are_shared_out_over_the_attempters_which_work_at_once():
    """Each of two writers waits for the other before it goes on."""
    meet = threading.Barrier(2, timeout=20)

    class Waiting(Scribe):
        def write(self, requests):
            meet.wait()
            yield from super().write(requests)

    cfg = make_config(attempters=("one", "two"), attempts=4)
    one, two, sage = Waiting("one"), Waiting("two"), Scribe()
    stories, _ = run(cfg=cfg, one=one, two=two, sage=sage)
    assert {request.key for request in one.asked} == {f"attempt/{row}/{n}" for row in (1, 2, 3) for n in (0, 2)}
    assert [attempt.piece.writer for attempt in stories[0].attempts] == ["one", "two", "one", "two"]
    assert not any(request.key.startswith("attempt") for request in sage.asked)


def test_what_a_writer_raises_among_several_is_raised():
    class Broken(Scribe):
        def write(self, requests):
            raise ConfigError("no such model")
            yield

    with pytest.raises(ConfigError, match="no such model"):
        run(cfg=make_config(attempters=("one", "sage")), one=Broken("one"), sage=Scribe())


REJECTED = {
    "nobody is right": (but("attempt", "It is \\boxed{31}."), "attempt", pipeline.NO_RIGHT),
    "no attempt came": (but("attempt", Failure("busy")), "attempt", pipeline.FAILED),
    "no note came": (but("critic_wrong", Failure("busy")), "note", pipeline.FAILED),
    "no chain came": (but("merge", Failure("busy")), "merge", pipeline.FAILED),
    "no rewrite came": (but("rewrite", Failure("busy")), "rewrite", pipeline.FAILED),
    "the chain is cut": (but("merge", "There are 3 trays ..."), "merge", checks.CUT),
    "the chain is wrong": (but("merge", TEXTS[0]["merge"].replace("{41}", "{42}")), "merge", checks.NOT_RIGHT),
    "the chain leaks": (but("merge", "I want 41.\n\n" + TEXTS[0]["merge"]), "merge", checks.LEAK),
    "the rewrite leaks": (but("rewrite", "I want 41.\n\n" + TEXTS[0]["merge"]), "rewrite", checks.LEAK),
    "the rewrite forgets": (but("rewrite", "3 * 12 + 5 = 41\n\n\\boxed{41}"), "rewrite", checks.NO_TURN),
    "there is only a box": (but("rewrite", "\\boxed{41}"), "rewrite", checks.NO_REASONING),
}


@pytest.mark.parametrize("what", REJECTED)
def test_what_is_not_fit_is_rejected_with_its_reason_and_no_more_is_paid_for_it(what):
    say, stage, reason = REJECTED[what]
    stories, writers = run(say)
    assert (stories[0].stage, stories[0].reason, stories[0].response) == (stage, reason, None)
    assert [story.reason for story in stories[1:]] == [None, None]
    steps = ["attempt", "note", "merge", "rewrite"]
    asked = {request.key.split("/")[0] for request in writers["sage"].asked if request.key.split("/")[1] == "1"}
    assert asked == set(steps[: steps.index(stage) + 1])
    found = record.summary(stories, "t", 0)
    assert found["rejected"] == {reason: 1} and found["chains"] == 2


def test_what_a_model_thinks_before_it_speaks_is_its_own_affair():
    """Also a box that only its thinking holds; a local model would not read the tags in a request."""

    def say(key, message):
        mused = f"<think>\nMaybe \\boxed{{0}}? I muse.\n</think>\n\n{script(key, message)}"
        return "<think>It is \\boxed{41}.</think>No idea." if key == "attempt/1/0" else mused

    stories, writers = run(say)
    assert [story.reason for story in stories] == [None] * 3
    assert not any(
        "think>" in r.messages[0]["content"] or "muse" in r.messages[0]["content"] for r in writers["sage"].asked
    )
    assert [a.answer for a in stories[0].attempts] == [None, "31", "41"]
    assert "I muse" in stories[0].attempts[1].piece.text and "I muse" not in stories[0].response


def test_a_right_answer_that_only_an_attempts_thinking_names_may_not_come_early():
    chain = "Take 41 rolls. " + TEXTS[0]["merge"]

    def say(key, message):
        if key == "merge/1":
            return chain
        return ("<think>41?</think>" if key.startswith("attempt") else "") + script(key, message)

    assert run(say)[0][0].reason == checks.LEAK


def test_an_attempt_that_the_next_run_may_have_is_waited_for_and_one_that_is_refused_is_not():
    """Else notes and chain would be paid for a second time, and another chain would take the first one's place."""

    def but_one(failure):
        return lambda key, message: failure if key == "attempt/1/0" else script(key, message)

    stories, writers = run(but_one(Failure("busy", passing=True)))
    assert (stories[0].stage, stories[0].reason) == ("attempt", pipeline.FAILED)
    assert not any(r.key.startswith(("note/1/", "merge/1")) for r in writers["sage"].asked)
    stories, _ = run(but_one(Failure("refused")))
    assert stories[0].reason is None and len(stories[0].attempts) == 2


def test_attempts_without_an_answer_are_no_attempts():
    """They get no note and are not merged."""
    say = but("attempt", "I do not know.")

    def last_right(key, message):
        return script(key, message) if key.endswith("/2") else say(key, message)

    stories, writers = run(last_right)
    assert [a.note is None for a in stories[0].attempts] == [True, True, False] and stories[0].wrong == []
    merge = next(r for r in writers["sage"].asked if r.key == "merge/1")
    assert merge.messages[0]["content"].count("<attempt ") == 1


def test_without_a_rewriter_the_merged_chain_is_the_response():
    stories, writers = run(cfg=make_config(rewriter=""))
    assert not any(request.key.startswith("rewrite") for request in writers["sage"].asked)
    assert stories[0].response.startswith("<think>\n" + TEXTS[0]["merge"][:40]) and stories[0].rewrite is None


def test_tokens_are_the_tokenizers_if_there_is_one():
    subject = subjects.FileSubject(Plain())
    stories = pipeline.Synthesis(make_config(), subject, {"sage": Scribe()}, quiet(), len).run(items())
    assert [story.tokens for story in stories] == [len(story.response) for story in stories]
    short = make_config(chain_tokens=len(stories[0].response) - 1)
    again = pipeline.Synthesis(short, subject, {"sage": Scribe()}, quiet(), len).run(items())
    assert again[0].reason == checks.TOO_LONG


def test_the_summary_counts_all_that_was_paid():
    stories, writers = run(but("merge", "There ..."))
    found = record.summary(stories, "v1 abc", 3)
    asked = writers["sage"].asked
    assert found["writers"] == {
        "sage": {
            "models": ["sage-1"], "requests": len(asked), "prompt_tokens": 10 * len(asked), "cost": 0.5 * len(asked),
            "completion_tokens": sum(piece.completion_tokens for story in stories for piece in story.pieces),
        }
    }  # fmt: skip
    assert found["attempts"] == {"right": 3, "wrong": 6, "unscorable": 0}
    assert (found["problems"], found["chains"], found["with_wrong_attempts"]) == (3, 2, 2)
    assert found["wrong_attempts_per_chain"] == 2.0


def test_the_files_hold_the_chains_for_the_cold_start_and_where_each_piece_came_from(tmp_path):
    out = tmp_path / "chains.jsonl"
    cfg, subject = make_config(), subjects.FileSubject(Plain())
    say = but("merge", "There are ...", row="1")
    found = program.synthesize(cfg, subject, items(), {"sage": Scribe(say=say)}, out, quiet())
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["row"] for row in rows] == [1, 3] and [row["gold"] for row in rows] == ["41", "\\frac{3}{4}"]
    origin = rows[0]["provenance"]
    assert origin["attempts"][0] == {
        "writer": "sage", "model": "sage-1", "key": "attempt/1/0", "text": TEXTS[0]["wrong"], "outcome": "wrong",
        "answer": "31",
    }  # fmt: skip
    assert [note["key"] for note in origin["notes"]] == ["note/1/0", "note/1/1", "note/1/2"]
    assert origin["merge"]["text"] == TEXTS[0]["merge"] and origin["rewrite"]["key"] == "rewrite/1"
    assert origin["templates"] == f"{prompts.VERSION} {prompts.digest()}" and origin["seed"] == cfg.seed
    (rejected,) = (json.loads(line) for line in out.with_suffix(".rejected.jsonl").read_text().splitlines())
    assert (rejected["row"], rejected["stage"], rejected["reason"]) == (2, "merge", checks.CUT)
    assert json.loads(out.with_suffix(".summary.json").read_text()) == json.loads(json.dumps(found))

    texts, notes = read_demonstrations(str(out), cfg, LETTERS, Known([]))
    assert notes == [] and [response for _, response in texts] == [row["response"] for row in rows]
    thinking = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, response_prefix="<think>\n"))
    texts, _ = read_demonstrations(str(out), thinking, LETTERS, Known([]))
    assert [prompt[-8:] + response for prompt, response in texts] == [row["response"] for row in rows]


# the command line


@pytest.fixture
def command(tmp_path, monkeypatch):
    """(arguments, the scribe that stands for every endpoint)."""
    scribe = Scribe()
    from t1jax.synthesis import endpoints

    def make(name, cfg, ledger):
        from t1jax.synthesis.ledger import Paid, digest

        class Kept(Scribe):
            def write(self, requests):
                for request in requests:
                    key = digest(cfg.url, cfg.model, request)
                    if (found := ledger.find(key)) is None:
                        said = scribe.say(request.key, request.messages[-1]["content"])
                        scribe.asked.append(request)
                        if isinstance(said, Failure):
                            yield request, said
                            continue
                        paid = Paid(key, request.key, name, cfg.model, cfg.model, said, "", "stop", 3, 4, True, 0.5, 0)
                        ledger.record(paid)
                        found = paid.result()
                    assert isinstance(found, Completion)
                    yield request, found

        return Kept(name)

    monkeypatch.setattr(endpoints, "EndpointWriter", make)
    config, sage = tmp_path / "sage.py", make_config().synthesis.endpoints["sage"]
    config.write_text(
        "from configs import base\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n"
        "    cfg = base.get_config().unlock()\n    cfg.verifier.workers = 1\n    cfg.synthesis.attempts = 3\n"
        "    for role in ('critic', 'merger', 'rewriter'):\n        cfg.synthesis[role] = 'sage'\n"
        "    cfg.synthesis.attempters = ('sage',)\n"
        f"    cfg.synthesis.endpoints.sage = ConfigDict({dataclasses.asdict(sage)!r})\n"
        "    return cfg.lock()\n"
    )
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in scribes.rows()))
    args = ["synthesize", f"--config={config}", f"--problems={problems}", f"--out={tmp_path / 'out/chains.jsonl'}"]
    return args, scribe


def test_the_command_line_makes_the_files_and_says_what_became_of_the_problems(command, tmp_path, capsys):
    args, scribe = command
    scribe.say = but("rewrite", "\\boxed{41}")
    assert program.main(args) == 0
    said = capsys.readouterr().out
    assert "chains.jsonl: 2 chains of 3 problems, 100.0% of them with wrong attempts" in said
    assert f"rejected: 1 {checks.NO_REASONING}" in said and "sage: 24 texts, 72 tokens in, 96 out, cost 12.0000" in said
    names = {path.name.removeprefix("chains.") for path in (tmp_path / "out").iterdir()}
    assert names == {"jsonl", "html", "summary.json", "rejected.jsonl", "ledger.jsonl", "settings.json"}


def test_where_every_request_was_given_up_the_command_fails(command, capsys):
    args, scribe = command
    scribe.say = lambda key, message: Failure("busy")
    assert program.main(args) == 1
    said = capsys.readouterr()
    assert (
        f"rejected: 3 {pipeline.FAILED}" in said.out and "requests for each of the 3 problems were given up" in said.err
    )
    scribe.say = script
    assert program.main(args) == 0


def test_the_same_command_pays_nothing_and_gives_the_same_files(command, tmp_path):
    args, scribe = command
    assert program.main(args) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    paid = len(scribe.asked)
    assert program.main(args) == 0
    assert len(scribe.asked) == paid == 24
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("after", [1, 4, 17, 23])
def test_a_run_that_was_killed_pays_for_the_rest_alone(command, tmp_path, after):
    """Killed in the middle of some step; then another kill tears the last line of the ledger."""
    args, scribe = command

    class Killed(BaseException):
        pass

    def say(key, message):
        if len(scribe.asked) == after:
            raise Killed
        return script(key, message)

    scribe.say = say
    with pytest.raises(Killed):
        program.main(args)
    out = tmp_path / "out/chains.jsonl"
    assert not out.exists()
    with open(out.with_suffix(".ledger.jsonl"), "ab") as file:
        file.write(b'{"key": "torn')
    scribe.say = script
    assert program.main(args) == 0
    assert len(scribe.asked) == 24
    resumed = {path.suffix: path.read_bytes() for path in out.parent.iterdir() if "ledger" not in path.name}
    other = [arg.replace("out/chains", "unbroken/chains") for arg in args]
    assert program.main(other) == 0
    whole = (tmp_path / "unbroken").iterdir()
    assert {path.suffix: path.read_bytes() for path in whole if "ledger" not in path.name} == resumed


def test_a_run_in_a_bucket_that_was_killed_pays_for_the_rest_alone(command, tmp_path, cloud):
    args, scribe = command
    assert program.main(args) == 0
    there = [arg for arg in args if not arg.startswith("--out")] + ["--out=gs://bkt/synthesis/chains.jsonl"]

    class Killed(BaseException):
        pass

    def say(key, message):
        if len(scribe.asked) == 24 + 17:
            raise Killed
        return script(key, message)

    scribe.say = say
    with pytest.raises(Killed):
        program.main(there)
    scribe.say = script
    assert program.main(there) == 0
    assert len(scribe.asked) == 24 + 24
    names = [name.removeprefix("synthesis/chains.") for name in cloud.names("synthesis")]
    assert [name for name in names if "ledger" not in name] == [
        "html", "jsonl", "rejected.jsonl", "settings.json", "summary.json"
    ]  # fmt: skip
    assert len([name for name in names if name.startswith("ledger.jsonl-")]) == 24 and "ledger.lock" not in names
    assert cloud.read("synthesis/chains.jsonl") == (tmp_path / "out/chains.jsonl").read_bytes()


def test_an_attempt_given_up_for_now_costs_nothing_twice(command, tmp_path):
    args, scribe = command
    scribe.say = lambda key, message: Failure("busy", True) if key == "attempt/1/0" else script(key, message)
    assert program.main(args) == 0
    scribe.say = script
    assert program.main(args) == 0
    assert len((tmp_path / "out/chains.jsonl").read_text().splitlines()) == 3 and len(scribe.asked) == 25


def test_a_request_that_was_given_up_is_asked_again_the_next_time(command, tmp_path):
    args, scribe = command
    scribe.say = but("rewrite", Failure("busy"))
    assert program.main(args) == 0
    assert len((tmp_path / "out/chains.jsonl").read_text().splitlines()) == 2
    scribe.say = script
    assert program.main(args) == 0
    assert len((tmp_path / "out/chains.jsonl").read_text().splitlines()) == 3 and len(scribe.asked) == 25


OTHER = {
    "--config.seed=1": "seed is 1, not 0",
    "--config.synthesis.attempts=2": "attempts is 2, not 3",
    "--config.synthesis.rewriter=": "rewriter is , not sage",
    "--config.synthesis.endpoints.sage.model=b": "endpoints is",
    "--limit=2": "problems is 2, ",
}


def test_other_settings_in_the_same_file_are_refused_and_other_limits_are_not(command, tmp_path, capsys):
    args, scribe = command
    assert program.main(args) == 0
    before = (tmp_path / "out/chains.jsonl").read_bytes()
    for flag, says in OTHER.items():
        capsys.readouterr()
        assert program.main([*args, flag]) == 2
        error = capsys.readouterr().err
        assert "was made with other settings: " in error and says in error and error.count("\n") == 1, error
    assert (tmp_path / "out/chains.jsonl").read_bytes() == before and len(scribe.asked) == 24
    assert program.main([*args, "--config.synthesis.endpoints.sage.concurrency=1"]) == 0


MISTAKES = {
    "no out": (["--out="], "--out=; expected a file that ends in .jsonl"),
    "out is the problems": (["--out={problems}"], "; expected another file: the problems are never overwritten"),
    "the problems lie beside out": (
        ["--out={folder}/x.jsonl", "--problems={folder}/x.rejected.jsonl"], "x.jsonl would write to --problems="
    ),
    "no problems": (["--problems=nowhere.jsonl"], "nowhere.jsonl: not found"),
    "an unknown writer": (["--config.synthesis.critic=sge"], "synthesis.critic names 'sge'; expected one of local,"),
    "a program for a file": (["--config.synthesis.merger=rules"], "synthesis.merger is rules; expected a model"),
    "a model for the embedded task": (["--problems="], "synthesis.critic is sage; expected rules"),
    "local without weights": (["--config.synthesis.critic=local"], "--checkpoint is missing"),
    "weights for nobody": (["--checkpoint=x"], "--checkpoint=x; expected none"),
    "a word too many": (["more"], "unexpected argument 'more'"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_line_and_asks_nobody(command, tmp_path, capsys, what):
    args, scribe = command
    more, says = MISTAKES[what]
    places = {"problems": tmp_path / "problems.jsonl", "folder": tmp_path}
    assert program.main([*args, *(arg.format(**places) for arg in more)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("t1jax.synthesize: ") and error.count("\n") == 1 and says in error, error
    assert scribe.asked == [] and not list(tmp_path.glob("out/chains*.jsonl"))


def test_a_file_of_somebody_else_is_not_overwritten(command, tmp_path, capsys):
    args, _ = command
    (tmp_path / "out").mkdir()
    (tmp_path / "out/chains.jsonl").write_text("mine\n")
    assert program.main(args) == 2
    assert "is there, but not chains.settings.json beside it" in capsys.readouterr().err
    assert (tmp_path / "out/chains.jsonl").read_text() == "mine\n"


def test_help_is_at_hand(capsys):
    assert program.main(["synthesize", "--help"]) == 0
    assert "--problems=FILE" in capsys.readouterr().out


def test_where_one_writer_fails_the_other_is_stopped_and_has_ended():
    before = threading.active_count()

    class Patient(Scribe):
        def write(self, requests):
            assert self.stopped.wait(20)
            return iter(())

    class Broken(Scribe):
        def write(self, requests):
            raise ConfigError("the quota is spent")

    patient = Patient("patient")
    cfg = make_config(attempters=("patient", "broken"))
    with pytest.raises(ConfigError, match="the quota is spent"):
        run(cfg=cfg, patient=patient, broken=Broken("broken"), sage=Scribe())
    assert patient.stopped.is_set() and threading.active_count() == before
