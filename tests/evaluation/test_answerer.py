# SPDX-License-Identifier: Apache-2.0
"""Who answers a cut thought: another model's greedy answers are those of transformers, a run's base is its checkpoint;
an answer without a box is asked for one; mistakes are found before anything is sampled."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import small
from letters import LETTERS
from random_qwen import KNOBS, PROBLEMS, make_folder, rows
from weight_folders import make_run

from configs import base
from t1jax import config, evaluate, validation
from t1jax.config import ConfigError
from t1jax.evaluation import answerer, journal, scaling
from t1jax.evaluation.answerer import open_answerer
from t1jax.evaluation.cut import ASK_FOR_BOX, BOX_TOKENS, cut_thoughts, without_box
from t1jax.evaluation.evaluator import Evaluator
from t1jax.evaluation.opened import open_checkpoint
from t1jax.evaluation.questions import Question, ask
from t1jax.evaluation.responses import Response
from t1jax.host import command_line
from t1jax.model import lora
from t1jax.rewards import answers
from t1jax.rewards.verifier import Verifier
from t1jax.tasks.files.task import FileGrader
from t1jax.text.huggingface import HFTokenizer
from t1jax.types import Adapted
from t1jax.weights import load as weights
from t1jax.weights import peft, tensor_table

BUDGET, PREFIX = 3, "\n</think>\n\n"
FREE = (f"--config.scaling.answer_prefix={PREFIX}", "--config.scaling.answer_temperature=0")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A model of other sizes with the tokens of `checkpoint`."""
    return make_folder(tmp_path_factory.mktemp("other"), seed=7, layers=2, width=48, tied=False)


def command(checkpoint, problems, out, *more):
    return ["evaluate", f"--checkpoint={checkpoint}", f"--data={problems}", f"--out={out}", "--samples=2",
            f"--budgets={BUDGET}", *KNOBS, *more]  # fmt: skip


class Greedy:
    """A model as transformers runs it."""

    def __init__(self, folder):
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)  # its threads would wait for each other on busy cores
        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._stops = HFTokenizer(folder).stop_ids

    def __call__(self, prompt, count):
        """The likeliest `count` tokens after `prompt`, up to a stop token."""
        ids = list(prompt)
        with self._torch.no_grad():
            while len(ids) < len(prompt) + count and ids[-1] not in self._stops:
                ids.append(int(self._model(self._torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(prompt) :]


# another model


@pytest.fixture(scope="module")
def done(checkpoint, problems, other, tmp_path_factory):
    """The folder of an evaluation whose cut thoughts the other model answered greedily, in words of its own."""
    out = tmp_path_factory.mktemp("out")
    assert evaluate.main(command(checkpoint, problems, out, *FREE, f"--config.scaling.answerer={other}")) == 0
    return out


def by_key(path):
    return {(row["problem"], row["response"]): row for row in rows(path)}


def test_another_model_answers_as_transformers_does(checkpoint, other, done):
    """Greedily, from prompt, thought and prefix; where it wrote no box, on from there after it was asked for one."""
    tokens, likeliest = HFTokenizer(checkpoint), Greedy(other)
    whole = by_key(done / "sums/responses.jsonl")
    first = by_key(done / f"sums/budget-{BUDGET}-{other.name}.jsonl")
    again = by_key(done / f"sums/budget-{BUDGET}-{other.name}-box.jsonl")
    asked, unboxed = tokens.encode(ASK_FOR_BOX), set()
    for key, row in first.items():
        prompt = tokens.encode(tokens.chat([{"role": "user", "content": PROBLEMS[key[0]]["problem"]}]))
        begun = whole[key]["ids"][:BUDGET] + tokens.encode(PREFIX)
        said = likeliest(prompt + begun, 4)
        assert row["ids"] == begun + said
        if "\\boxed{" not in tokens.decode(said):
            unboxed.add(key)
            begun = [token for token in row["ids"] if token not in tokens.stop_ids] + asked
            assert again[key]["ids"] == begun + likeliest(prompt + begun, BOX_TOKENS)
    assert again.keys() == unboxed and 0 < len(unboxed) < len(first)
    result = json.loads((done / "results.json").read_text())
    (point,) = result["benchmarks"]["sums"]["budgets"]
    judged = (whole | first | again).values()
    assert point["pass@1"]["value"] == pytest.approx(np.mean([r["outcome"] == "right" for r in judged]))
    assert point["no_answer"]["value"] == pytest.approx(np.mean([r["answer"] is None for r in judged]))
    assert point["cut"] == len(first) / len(whole) and result["answerer"] == str(other)


def test_answers_of_others_lie_beside_and_share_the_thoughts(checkpoint, problems, other, done, tmp_path):
    """Another answerer samples no thought again, and an open box is not asked for again. Other weights under the same
    name are refused, the same ones in another place are not."""
    out = tmp_path / "out"
    shutil.copytree(done, out)
    before = {path: path.read_bytes() for path in (out / "sums").iterdir()}
    assert evaluate.main(command(checkpoint, problems, out)) == 0
    assert {path: path.read_bytes() for path in before} == before
    made = {path.name for path in (out / "sums").iterdir()} - {path.name for path in before}
    assert made == {f"budget-{BUDGET}.jsonl", f"budget-{BUDGET}.settings.json"}
    settings = out / f"sums/budget-{BUDGET}-{other.name}.settings.json"
    told = json.loads(settings.read_text())
    assert told["answerer"] == str(other) and told["weights"] != told["answerer_weights"]
    again = command(checkpoint, problems, out, *FREE, f"--config.scaling.answerer={other}")
    settings.write_text(json.dumps(told | {"answerer": "where it was before"}))
    assert evaluate.main(again) == 0
    settings.write_text(json.dumps(told | {"answerer_weights": "0"}))
    assert evaluate.main(again) == command_line.EXIT_MISTAKE


# the base of a run


@pytest.fixture
def run(checkpoint, problems, tmp_path):
    """(evaluator, the base's weights, the policy's, questions, responses) of a run that began with `checkpoint`."""
    tree = config.load(base.get_config()).to_dict()
    tree["model"] |= {"checkpoint": str(checkpoint), "compute_dtype": "float32"}
    tree["rl"] |= {"max_new_tokens": 12, "window": 12}
    tree["data"] |= {"prompt_length": 64, "template": "{problem}"}
    tree["eval"]["batch_size"], tree["verifier"]["workers"] = 8, 1
    tree["scaling"] |= {"budgets": (2, 4), "answer_tokens": 4, "answerer": "base"}
    opened = open_checkpoint(config.load(tree), None)
    with Verifier(opened.cfg.verifier) as verifier:
        task = FileGrader(opened.cfg, opened.tokenizer, verifier)
        read, _ = task.read(str(problems))
        evaluator = Evaluator(opened.cfg, small.make_mesh((8, 1, 1)), task, opened.tokenizer)
        first = opened.params(evaluator.mesh)
        policy = jax.tree.map(lambda x: x * 1.5, first)
        questions = ask(task, opened.tokenizer, read)
        yield evaluator, first, policy, questions, evaluator.respond(policy, "held_out", questions)


def with_scaling(evaluator, **knobs):
    evaluator.cfg = dataclasses.replace(evaluator.cfg, scaling=dataclasses.replace(evaluator.cfg.scaling, **knobs))
    return evaluator


def test_the_base_of_a_run_is_the_checkpoint_that_it_began_with(run, tmp_path, monkeypatch):
    evaluator, first, policy, questions, responses = run
    kept = journal.of_run(tmp_path, "rl", 7)
    points = scaling.inference_scaling(evaluator, policy, questions, responses, "rl", kept)
    cut = cut_thoughts(evaluator.task, evaluator.tokenizer, questions, responses, 1, (2, 4))
    written = {}
    for who, mine in (("-base", first), ("", policy)):
        for budget, asked in cut.items():
            asked = [dataclasses.replace(question, id=place) for place, question in enumerate(asked)]
            found = evaluator.respond(mine, f"scaling/rl/{budget}", asked, length=192, new_tokens=4)
            written[f"rl-000007-budget-{budget}{who}.jsonl"] = b"".join(response.line() for response in found)
    folder = tmp_path / "journal"
    assert {p.name: p.read_bytes() for p in folder.glob("*.jsonl")} == {
        name: text for name, text in written.items() if "-base" in name
    }
    assert written["rl-000007-budget-2-base.jsonl"] != written["rl-000007-budget-2.jsonl"]
    with_scaling(evaluator, answerer="self")
    scaling.inference_scaling(evaluator, policy, questions, responses, "rl", kept)
    assert {p.name: p.read_bytes() for p in folder.glob("*.jsonl")} == written
    with_scaling(evaluator, answerer="base")
    monkeypatch.setattr("t1jax.rollouts.generate.Generator.__call__", None)  # nothing is sampled again
    assert scaling.inference_scaling(evaluator, policy, questions, responses, "rl", kept) == points
    assert [point["cut"] for point in points] == [len(cut[2]) / 5, len(cut[4]) / 5]
    with_scaling(evaluator, answer_temperature=0.5)
    with pytest.raises(ConfigError, match=r"budget-2-base\.jsonl was sampled with other settings: temperature is 0.5"):
        scaling.inference_scaling(evaluator, policy, questions, responses, "rl", kept)


def test_the_base_of_a_run_with_lora_is_the_one_in_memory(run, monkeypatch):
    evaluator, first, *_ = run
    policy = Adapted(first, {"layers": {}})
    read = open_answerer(evaluator, first)
    monkeypatch.setattr("t1jax.weights.load.load", None)
    shared = open_answerer(evaluator, policy)
    assert shared.params is policy.base and (shared.told, shared.suffix) == (read.told, read.suffix)
    with pytest.raises(TypeError):
        open_answerer(evaluator, first)


def test_weights_are_read_only_if_there_is_something_to_answer(run, monkeypatch):
    evaluator, _, policy, questions, responses = run
    monkeypatch.setattr("t1jax.weights.load.load", None)
    with_scaling(evaluator, budgets=(12,))
    ended = [response for response in responses if not response.overlong]
    assert ended and len(ended) < len(responses)
    (point,) = scaling.inference_scaling(evaluator, policy, questions, ended, "rl")
    assert (point["cut"], point["n"]) == (0.0, len(ended))
    with pytest.raises(TypeError):
        scaling.inference_scaling(evaluator, policy, questions, responses, "rl")


# names


def test_two_adapters_of_one_base_have_two_names(run, checkpoint, tmp_path):
    evaluator, _, policy, *_ = run
    cfg, random = evaluator.cfg, np.random.default_rng(0)
    whole, opened, suffixes, checksums = tensor_table.shapes(cfg.model), [], [], set()
    for name in ("one", "two"):
        factors = {
            matrix: [random.normal(0, 0.1, x[1:]) for x in lora.factors(whole["layers", matrix], matrix, 2).values()]
            for matrix in lora.TARGETS["attention"]
        }
        (tmp_path / name).mkdir()
        of = lambda matrix, factors=factors: lambda layer: factors[matrix]  # noqa: E731
        peft.write(tmp_path / name, cfg.model, of, "attention", 2, 4.0, str(checkpoint))
        opened.append(open_checkpoint(cfg, str(tmp_path / name)))
        by = open_answerer(with_scaling(evaluator, answerer=str(tmp_path / name)), policy)
        assert by.told["answerer"] == opened[-1].where == str(tmp_path / name)
        suffixes.append(by.suffix)
        checksums.add(by.told["answerer_weights"])
    assert suffixes == ["-one", "-two"] and [each.name for each in opened] == ["one", "two"] and len(checksums) == 2


@pytest.mark.parametrize(("given", "suffix"), [("Qwen/Tiny@v1", "-Qwen_Tiny@v1"), ("hf://Qwen/Tiny", "-Qwen_Tiny")])
def test_an_answerer_of_the_hub_has_its_name_there(run, checkpoint, tmp_path, monkeypatch, given, suffix):
    """In the hub's cache its folder is named by the commit."""
    evaluator, _, policy, *_ = run
    shutil.copytree(checkpoint, snapshot := tmp_path / "models--Qwen--Tiny/snapshots/0123abc")
    monkeypatch.setattr("t1jax.host.hub.model", lambda *_: snapshot)
    assert open_answerer(with_scaling(evaluator, answerer=given), policy).suffix == suffix


def test_a_run_that_answers_has_the_name_of_its_folder(tmp_path):
    make_run(tmp_path / "mine")
    assert weights.find(tmp_path / "mine").name == "mine"
    assert weights.find(tmp_path / "mine/checkpoints/rl").name == "rl"


# no box


def asked_again(thought, said, prefix):
    """The tokens that continue the prompt, if the answer `said` to a thought is asked for a box; else None."""
    begun = tuple(LETTERS.encode(thought + prefix))
    question = Question(4, None, (*LETTERS.encode("Q"), *begun), "5", response=2, begun=begun)  # type: ignore[arg-type]
    ids = np.array([*begun, *LETTERS.encode(said)], np.int32)
    response = Response(problem=0, text="", outcome=answers.WRONG, tokens=len(ids), overlong=True, ids=ids, response=2)
    found = without_box([question], [response], prefix, LETTERS)
    if not found:
        return None
    (again,) = found
    assert again.prompt == (*LETTERS.encode("Q"), *again.begun) and (again.id, again.response) == (4, 2)
    return list(again.begun)


TURNS = "\n</think><|im_end|>\n<|im_start|>user\nSum up.<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("prefix", [PREFIX, TURNS])
@pytest.mark.parametrize(
    "thought, said, again",
    [
        ("so", "It is 5.", True),
        ("so", "It is 5.<|im_end|>", True),
        ("so \\boxed{4}", "It is 5.", True),  # the thought's own box is not the answer's
        ("so", "It is \\boxed{5", True),
        ("so", "", True),
        ("so", "It is \\boxed{5}.<|im_end|>", False),
        ("so", "<answer>5</answer>", False),
    ],
)
def test_an_answer_without_a_box_is_asked_for_one(thought, said, again, prefix):
    """Also one that a prompt of its own asks for, whose turns hold stop tokens."""
    expected = thought + prefix + said.removesuffix("<|im_end|>") + "\n\nThe final answer is \\boxed{"
    assert asked_again(thought, said, prefix) == (LETTERS.encode(expected) if again else None)
    assert asked_again(thought, said, prefix + "\\boxed{") is None


# mistakes


MISTAKES = {
    "no such folder": ("--config.scaling.answerer=nowhere", "nowhere: no such folder; expected a folder with weights"),
    "no run": ("--config.scaling.answerer=base", "does not tell what it was trained from; expected a run that began"),
    "another tokenizer": ("--config.scaling.answerer={foreign}", "has another tokenizer than the policy; expected the"),
    "nobody": ("--config.scaling.answerer=", "scaling.answerer is ; expected self, base, or a folder of weights"),
    "colder than greedy": (
        "--config.scaling.answer_temperature=-0.5",
        "scaling.answer_temperature is -0.5; expected 0 (greedy) or more, or -1",
    ),
    "too long with the box": ("--config.scaling.answer_tokens=95", "scaling.answer_tokens + 91 for a box is 257"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_sampled(checkpoint, problems, tmp_path, capsys, what):
    foreign = tmp_path / "foreign"
    if what == "another tokenizer":
        shutil.copytree(checkpoint, foreign)
        written = (foreign / "tokenizer.json").read_text()
        (foreign / "tokenizer.json").write_text(written.replace("</think>", "</thunk>"))
    flag, message = MISTAKES[what]
    more = (FREE[0], flag.format(foreign=foreign)) if "box" in what else (flag.format(foreign=foreign),)
    assert evaluate.main(command(checkpoint, problems, tmp_path / "out", *more)) == command_line.EXIT_MISTAKE
    error = capsys.readouterr().err
    assert error.startswith("t1jax.evaluate: ") and error.count("\n") == 1 and message in error, error
    assert not (tmp_path / "out/sums").exists()


def test_without_a_checkpoint_there_is_no_base():
    cfg = small.make_config(scaling__answerer="base", scaling__budgets=(4,))
    with pytest.raises(ConfigError, match="scaling.answerer is base; expected self or a folder: without model.checkp"):
        validation.validate(cfg, 1)
    validation.validate(small.make_config(scaling__answerer="base", scaling__budgets=()), 1)


def test_an_answerer_that_the_mesh_cannot_split_is_named(checkpoint, tmp_path):
    tokens = HFTokenizer(checkpoint)
    cfg = small.make_config(
        scaling__answerer=str(checkpoint), scaling__budgets=(4,), mesh__fsdp=64, mesh__data=1, data__prompt_length=8,
        rl__max_new_tokens=8, rl__prompts_per_step=64, model__hidden_size=64, eval__batch_size=64, sft__num_steps=0,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 64)
        validation.validate(cfg, 64)
        with pytest.raises(ConfigError, match=r"scaling.answerer is \S+: model.hidden_size is 32; expected a multiple"):
            answerer.check(cfg, tokens)


@pytest.mark.parametrize(("more", "refused"), [("", True), (" It is 5.", True), (" \\boxed{", False)])
def test_an_answerer_that_was_trained_for_shorter_texts_is_refused(checkpoint, tmp_path, more, refused):
    """With the default prefix, which opens the box, its answer is shorter by what asks for one."""
    tokens, short = HFTokenizer(checkpoint), tmp_path / "short"
    shutil.copytree(checkpoint, short)
    prefix = PREFIX + (more or base.get_config().scaling.answer_prefix.removeprefix(PREFIX))
    longest = 8 + 4 + len(tokens.encode(prefix)) + 3
    told = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(told | {"max_position_embeddings": longest - (more == "")}))
    cfg = small.make_config(
        scaling__answerer=str(short), scaling__budgets=(4,), scaling__answer_tokens=3, scaling__answer_prefix=prefix,
        data__prompt_length=8, rl__max_new_tokens=8, model__hidden_size=32, eval__batch_size=8, sft__num_steps=0,
    )  # fmt: skip
    if not refused:
        return answerer.check(cfg, tokens)
    count = f"answer_tokens is {longest}" if not more else "for a box is"
    with pytest.raises(ConfigError, match=rf"answer_prefix \+ .*{count}.*; expected at most .*short/config.json"):
        answerer.check(cfg, tokens)
