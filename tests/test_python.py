# SPDX-License-Identifier: Apache-2.0
"""t1jax from Python: the functions, the examples that use them, and that importing the package costs nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

import t1jax
from configs import tiny
from t1jax.api import given
from t1jax.api.training import Run
from t1jax.config import ConfigError
from t1jax.evaluation import opened
from t1jax.host import command_line, workdir
from t1jax.rewards.score import HostScores
from t1jax.training import step
from t1jax.training.scoring import make_score
from t1jax.training.setup import rl_setup
from t1jax.types import Scores
from t1jax.update import advantages

ROOT = Path(__file__).parent.parent


def score(prompt, response, row):
    return 1.0


def test_importing_is_light_and_the_commands_stay_modules():
    program = (
        "import sys, t1jax\n"
        "heavy = {'jax', 'numpy', 'flax', 'absl', 'ml_collections'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert {'train', 'sample', 'evaluate', 'load', 'ConfigError', '__version__'} <= set(dir(t1jax))\n"
        "assert callable(t1jax.train) and callable(t1jax.load) and issubclass(t1jax.ConfigError, ValueError)\n"
        "import t1jax.sample, t1jax.evaluate\n"
        "assert t1jax.sample.main and t1jax.evaluate.main and callable(t1jax.sample) and callable(t1jax.evaluate)\n"
        "try:\n"
        "    t1jax.sample('no/such/folder', 'x')\n"
        "except t1jax.ConfigError as error:\n"
        "    print(error)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "no/such/folder" in done.stdout, done.stderr


def test_configs_are_given_in_many_ways():
    knobs = {"rl.num_steps": 7, "scaling.budgets": (4,)}
    by_name = given.config_of("tiny", knobs)
    assert by_name == given.config_of(tiny.get_config(), knobs) == given.config_of(given.config_of("tiny"), knobs)
    assert by_name == given.config_of(ROOT / "configs/tiny.py", knobs) and by_name.rl.num_steps == 7
    assert given.config_of("tiny").rl.num_steps != 7
    with pytest.raises(ConfigError, match="unknown knob rl.num_stpes; did you mean rl.num_steps"):
        given.config_of("tiny", {"rl.num_stpes": 1})
    with pytest.raises(ConfigError, match="rl.num_steps is 'x'; expected a whole number"):
        given.config_of("tiny", {"rl.num_steps": "x"})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: given.config_of({"seed": 1}, {"rl.num_steps": 1}), "missing knob .*rl, .*; start from"),
        (lambda: given.config_of({"rl": 3}, {"rl.num_steps": 1}), "missing knob seed"),
        (lambda: given.config_of(given.config_of("tiny").to_dict() | {"rl": 3}, {"rl.num_steps": 1}), "rl is 3"),
        (lambda: given.config_of(None), "config is None; expected the name of a config"),
        (lambda: given.config_of([1]), r"config is \[1\]; expected the name of a config"),
        (lambda: given.config_of("tiny", [1]), r"knobs is \[1\]; expected a dict"),
        (lambda: given.config_of("tiny", {1: 2}), "unknown knob 1"),
        (lambda: given.problem_knobs(5, None, Path("x")), "problems is 5; expected a list of rows"),
        (lambda: given.problem_knobs([{}], 5, Path("x")), "held_out is 5; expected a list of rows"),
        (lambda: given.reward_knobs(score, ["a"]), r"weights is \['a'\]; expected a number for each reward"),
        (lambda: given.reward_knobs(score, [None]), r"weights is \[None\]; expected a number for each reward"),
        (lambda: given.reward_knobs(score, 0.5), "weights is 0.5; expected a number for each reward"),
        (lambda: given.reward_knobs(5, ()), "reward is 5; expected a list of functions"),
    ],
)  # fmt: skip
def test_what_is_given_of_the_wrong_kind_is_a_line(call, words):
    with pytest.raises(ConfigError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_run_is_loaded_with_its_own_config_and_others_with_base(tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "open_checkpoint", lambda cfg, folder: (cfg, folder))
    cfg = given.config_of("tiny", {"data.template": "Q: {problem}", "rl.max_new_tokens": 77})
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(cfg.to_dict()))
    run = Run(tmp_path, tmp_path / "report.html")
    assert run.load().opened == t1jax.load(tmp_path).opened == (cfg, str(tmp_path))
    assert t1jax.load(tmp_path, knobs={"seed": 5}).opened[0] == dataclasses.replace(cfg, seed=5)
    assert t1jax.load(tmp_path, config="base").opened[0] == given.config_of("base")
    assert t1jax.load(tmp_path / "other").opened[0] == given.config_of("base")


def test_rewards_are_named_by_their_file():
    found = given.reward_knobs([score, "correct"], (1, 0.5))
    assert found == {"reward.function": f"{__file__}:score,correct", "reward.weights": (1.0, 0.5)}
    for bad in (lambda prompt, response, row: 1.0, object().__str__, dataclasses.make_dataclass("X", [])()):
        with pytest.raises(ConfigError, match="a function that a .py file defines at its top"):
            given.named(bad)


def test_problems_become_files_of_the_workdir(tmp_path):
    rows = [{"problem": f"{n}?", "answer": n} for n in range(20)]
    knobs = given.problem_knobs(rows, None, tmp_path)
    train, held_out = (
        [json.loads(line) for line in Path(knobs[f"data.{name}"]).read_text().splitlines()]
        for name in ("train", "eval")
    )
    assert held_out == [rows[9], rows[19]] and train == [row for row in rows if row not in held_out]
    assert given.problem_knobs(rows, None, tmp_path) == knobs
    (tmp_path / "config.json").touch()  # the run has begun
    assert given.problem_knobs(rows, None, tmp_path) == knobs
    with pytest.raises(ConfigError, match="train.jsonl holds other problems"):
        given.problem_knobs(rows[1:], None, tmp_path)
    for bad, words in (([1], "problem 1 is a int"), ([{"x": {1}}], "problem 1: .*JSON"), ([], "0 rows to train on")):
        with pytest.raises(ConfigError, match=words):
            given.problem_knobs(bad, [{"problem": "x"}], tmp_path / "other")


def test_a_call_that_failed_before_its_run_began_may_be_mended(tmp_path):
    """Its problems are in the workdir, its config is not."""
    rows = [{"problem": f"{n}?", "answer": n} for n in range(20)]
    for problems in (rows, rows[1:], rows[:12]):
        with pytest.raises(ConfigError, match=r"expected model\.checkpoint to be set too"):
            t1jax.train("base", workdir=tmp_path, problems=problems)
        assert len((tmp_path / "problems/train.jsonl").read_text().splitlines()) == len(problems) - len(problems) // 10
    assert not (tmp_path / "config.json").exists()


def test_train_in_the_process_of_a_reward_function_is_refused(monkeypatch):
    monkeypatch.setenv("T1JAX_REWARD_PROCESS", "1")
    with pytest.raises(ConfigError, match='t1jax.train is called while its file.*__name__ == "__main__"'):
        t1jax.train("tiny")


def test_the_digest_of_a_reward_function_is_of_what_its_file_says(tmp_path):
    path = tmp_path / "mine.py"
    cfg = given.config_of("tiny", {"reward.function": f"{path}:f"})

    def digest(text):
        path.write_text(text)
        return workdir.digests(cfg)["reward.function"]

    first = digest("def f(prompt, response, row):\n    return 1.0\n")
    main = 'if __name__ == "__main__":\n    f("", "", {})\n'
    assert digest(f"# said\ndef f(prompt, response, row):\n\n    return 1.0\n\n{main}") == first
    assert digest("def f(prompt, response, row):\n    return 2.0\n") != first
    assert digest("def f(:") != first
    workdir.begin(cfg, tmp_path, ())
    path.write_text("def f(prompt, response, row):\n    return 3.0\n")
    with pytest.raises(ConfigError, match=r"mine.py:f \(reward.function\) is not the file that"):
        workdir.claim(cfg, tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match=r"mine.py: No such file or directory; expected FILE.py:NAME"):
        workdir.digests(cfg)
    assert workdir.digests(given.config_of("tiny")) == {}


# rewards that are no right and wrong, in the step


def drawn_scores(shape, reward_of, **knobs):
    """(the scores and the plan of the step's own pieces, the setup), of the first step's rollouts."""
    prompts, rollouts, *_ = small.drawn()
    cfg = small.make_config(**{"reward__function": "a.py:f"} | knobs)

    def scorer(problem, tokens, sampled, stopped):
        no = np.zeros(len(problem), bool)
        reward = np.array([reward_of(p, t[m]) for p, t, m in zip(problem, tokens, sampled, strict=True)], np.float32)
        outcome = np.where(np.isnan(reward), -1, 2).astype(np.int8)
        return HostScores(outcome, no, no, no, np.nan_to_num(reward))

    setup = rl_setup(cfg, small.make_mesh(shape))
    return *jax.jit(make_score(setup, scorer))(*small.to_numpy((prompts, rollouts))), setup, rollouts


def own(problem, tokens):
    """A reward of a problem and its tokens, NaN for some."""
    return float("nan") if tokens.sum() % 5 == 0 else float(problem % 3) - 0.01 * len(tokens)


@pytest.mark.parametrize("shape", [small.ONE, (1, 4, 2)])
def test_rewards_come_back_to_their_rows_and_enter_the_advantage(shape):
    scores, plan, setup, rollouts = drawn_scores(shape, own, rl__entropy_coef=0.0, rl__kl_coef=0.0)
    tokens, sampled = np.asarray(rollouts.tokens_BT), np.asarray(rollouts.sampled_BT)
    problems = np.repeat(np.arange(100, 100 + small.P), small.R)
    expected = np.array([own(p, t[m]) for p, t, m in zip(problems, tokens, sampled, strict=True)], np.float32)
    known = ~np.isnan(expected)
    assert 0 < known.sum() < len(known)
    np.testing.assert_array_equal(scores.outcome_B, np.where(known, 2, -1))
    np.testing.assert_array_equal(np.asarray(scores.reward_B)[known], expected[known])
    by_hand = np.zeros_like(expected)
    for b in np.flatnonzero(known):
        group = [j for j in range(b // small.R * small.R, b // small.R * small.R + small.R) if j != b and known[j]]
        by_hand[b] = expected[b] - expected[group].mean() if group else 0.0
    scores = Scores(*(jnp.asarray(np.asarray(x)) for x in jax.tree.leaves(scores)))
    found = advantages.advantages(scores, jnp.zeros(len(by_hand)), setup.cfg.rl)
    np.testing.assert_allclose(found, by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(plan.row_B) >= 0, known & np.repeat(spread(expected), small.R))


def spread(reward):
    """Of each group, whether its known rewards differ."""
    return np.array([np.nanmax(group) > np.nanmin(group) for group in reward.reshape(-1, small.R)])


def test_the_report_speaks_of_mean_reward_and_with_correctness_of_both():
    rollouts = small.drawn()[1]
    scores, _, setup, _ = drawn_scores(small.ONE, own)
    report = step.describe(rollouts, scores, setup.cfg.rl, right_and_wrong=False)
    known = np.asarray(scores.outcome_B) >= 0
    assert float(report["mean_reward"]) == pytest.approx(float(np.asarray(scores.reward_B)[known].mean()), rel=1e-5)
    assert report["reward"] == report["mean_reward"] and not {"accuracy", "right", "wrong"} & report.keys()
    assert report["mixed_groups"] == spread(np.where(known, np.asarray(scores.reward_B), np.nan)).mean()
    graded = step.describe(rollouts, scores, setup.cfg.rl)
    assert {"accuracy", "mean_reward"} <= graded.keys()
    penalised = scores.replace(overlong_B=jnp.ones_like(scores.overlong_B))
    cut = step.describe(rollouts, penalised, setup.cfg.rl, right_and_wrong=False)
    assert cut["reward"] == setup.cfg.rl.penalty and cut["mean_reward"] == report["mean_reward"]


def test_right_and_wrong_as_a_reward_is_what_it_was_bit_by_bit():
    """The rows of a run whose rewards are 1 and 0, given as outcomes and given as numbers."""
    prompts, rollouts, scores, plan = small.drawn()
    assert scores.reward_B is None
    as_numbers = scores.replace(reward_B=(scores.outcome_B == 1).astype(jnp.float32))
    setup = small.fused(small.ONE).setup
    old, new = (step.describe(rollouts, one, setup.cfg.rl) for one in (scores, as_numbers))
    new.pop("mean_reward")
    assert old.keys() == new.keys()
    for name in old:
        assert np.asarray(old[name]).tobytes() == np.asarray(new[name]).tobytes(), name
    kl = jnp.linspace(0, 1, len(scores.outcome_B))
    for site in ("reward", "advantage", "wrong"):
        rl = dataclasses.replace(setup.cfg.rl, penalty_site=site)
        one, other = (np.asarray(advantages.advantages(x, kl, rl)).tobytes() for x in (scores, as_numbers))
        assert one == other


def test_an_advantage_of_ones_own():
    """The example's, against a loop; and all scorable responses are in the update, whatever the paper's would be."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from own_advantage import best_of_group
    finally:
        sys.path.pop(0)
    reward = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0.5, 2, 2.5, 1], np.float32)
    no = jnp.zeros(12, bool)
    scores = Scores(jnp.full(12, 2, jnp.int8), no, no, no, no, jnp.asarray(reward))
    rl = dataclasses.replace(small.make_config().rl, responses_per_prompt=4)
    found = np.asarray(best_of_group(scores, jnp.zeros(12), rl)).reshape(3, 4)
    np.testing.assert_allclose(found, [[0.5, 0.5, 0, 0], [0, 0, 0, 0], [0, 0, 1.0, 0]])
    prompts, rollouts, *_ = small.to_numpy(small.drawn())
    cfg = small.make_config(rl__entropy_coef=0.0, rl__kl_coef=0.0)

    def right(problem, *_):
        wrong = np.zeros(len(problem), bool)
        return HostScores(np.where(problem == 101, -1, 1).astype(np.int8), wrong, wrong, wrong)

    setup = rl_setup(cfg, small.make_mesh())
    for every, expected in ((False, np.zeros(small.P, bool)), (True, np.arange(small.P) != 1)):
        _, plan = jax.jit(make_score(setup, right, every=every))(prompts, rollouts)
        np.testing.assert_array_equal(np.asarray(plan.row_B) >= 0, np.repeat(expected, small.R))


KNOBS = {
    "sft.num_steps": 0, "rl.num_steps": 2, "rl.prompts_per_step": 2, "rl.responses_per_prompt": 4,
    "rl.max_new_tokens": 16, "rl.window": 16, "rl.micro_batches": 1, "eval.num_problems": 4, "eval.batch_size": 4,
    "eval.quick_problems": 4, "eval.every": 1, "eval.samples": 2, "scaling.budgets": (4,), "checkpoint.every": 1,
    "model.num_layers": 1, "tokenizer.corpus_texts": 200, "compilation_cache": False,
}  # fmt: skip
PROGRAM = """
import json, sys
import t1jax
import own_reward

if __name__ == "__main__":
    knobs = json.loads(sys.argv[1])
    knobs["scaling.budgets"] = tuple(knobs["scaling.budgets"])
    rewards = [own_reward.quick, own_reward.length]
    run = t1jax.train("tiny", workdir="mine", reward=rewards, weights=[1, 0.5], knobs=knobs)
    model = run.load()
    answers = t1jax.sample(model, ["Pick two of 4, 6, 12, 14, 20 that sum to 20.\\n<think>\\n"] * 2, max_new_tokens=8)
    print(json.dumps({"answers": answers, "results": run.results["rl"]}))
"""


@pytest.mark.slow
def test_twenty_lines_train_the_embedded_task_with_a_reward_of_ones_own(tmp_path):
    """examples/own_reward.py, smaller: what the run leaves speaks of mean reward; a changed file is refused."""
    example = (ROOT / "examples/own_reward.py").read_text()
    assert len([line for line in example.splitlines() if line and not line.startswith("#")]) <= 20
    example = example.replace(
        "if __name__", "def length(prompt, response, row):\n    return len(response)\n\n\nif __name__"
    )
    (tmp_path / "own_reward.py").write_text(example)
    (tmp_path / "program.py").write_text(PROGRAM)
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}

    def run():
        return subprocess.run(
            [sys.executable, "program.py", json.dumps(KNOBS)], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    done = run()
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert {"mean_reward", "low", "high", "n"} <= said["results"].keys() and "accuracy" not in said["results"]
    assert len(said["answers"]) == 2 and all(isinstance(answer, str) for answer in said["answers"])
    rows = [json.loads(line) for line in (tmp_path / "mine/metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["mean_reward"] is not None and row.get("accuracy") is None
    responses = [json.loads(line) for line in (tmp_path / "mine/responses/rl-final.jsonl").read_text().splitlines()]
    assert {response["outcome"] for response in responses} == {"scored"}
    rewards = [response["reward"] for response in responses]
    assert rewards == [len(response["text"]) / 2 for response in responses]  # an untrained model answers nothing right
    assert said["results"]["mean_reward"] == pytest.approx(np.mean(rewards)) and np.mean(rewards) > 0
    assert all(row["reward"] != row["mean_reward"] > 0 for row in rows if row["stage"] == "rl")  # some were cut
    page = (tmp_path / "mine/report.html").read_text()
    assert "mean reward" in page and "Mean reward on held-out problems" in page and "accuracy" not in page.lower()
    (tmp_path / "own_reward.py").write_text(f"{example}\n# a comment changes nothing\n")
    assert "is done" in run().stdout
    (tmp_path / "own_reward.py").write_text(example.replace("0.05 *", "0.1 *"))
    again = run()
    assert again.returncode == 1 and "(reward.function) is not the file that" in again.stderr


def test_a_checkpoint_is_evaluated_from_python_and_a_second_call_samples_nothing(checkpoint, tmp_path, monkeypatch):
    """Rows or a file, with right and wrong or a function; what is kept is found again, and not written over."""
    import random_qwen

    from t1jax.rollouts.generate import Generator

    cfg, *_ = command_line.read_config(["t1jax", *random_qwen.KNOBS], lambda values: None, "base")
    model, rows, out = t1jax.load(checkpoint, config=cfg), random_qwen.PROBLEMS[:3], tmp_path / "out"
    (tmp_path / "ones.py").write_text("def score(prompt, response, row):\n    return 1.0\n")
    reward = f"{tmp_path}/ones.py:score"
    with pytest.raises(ConfigError, match="no problem column|problem"):
        model.evaluate([{"text": "one"}], out=out)  # mended by the next call
    first = model.evaluate(rows, out=out, samples=2)
    assert first["problems"] == 3 and 0 <= first["pass@1"]["value"] <= 1
    with monkeypatch.context() as patch:
        patch.setattr(Generator, "__call__", lambda *_, **__: pytest.fail("sampled again"))
        assert model.evaluate(rows, out=out, samples=2) == first
    before = (out / "problems.jsonl").read_text()
    with pytest.raises(ConfigError, match=r"problems\.jsonl holds other problems than are given"):
        model.evaluate(random_qwen.PROBLEMS[3:5], out=out, samples=2)
    with pytest.raises(ConfigError, match="other settings: reward is "):
        model.evaluate(rows, out=out, samples=2, reward=reward)
    assert (out / "problems.jsonl").read_text() == before
    rewarded = model.evaluate(rows, reward=reward)
    assert rewarded["mean_reward"]["value"] == 1.0 and "pass@1" not in rewarded
    with pytest.raises(ConfigError, match="expected reward"):
        model.evaluate(rows, weights=[1.0])
    with pytest.raises(ConfigError, match="all be the same"):
        model.evaluate(rows, temperature=0, samples=2)


def test_a_second_sample_from_python_compiles_nothing(checkpoint):
    import random_qwen

    cfg, *_ = command_line.read_config(["t1jax", *random_qwen.KNOBS], lambda values: None, "base")
    model = t1jax.load(checkpoint, config=cfg)
    first = model.sample(["one and one", "one"], max_new_tokens=4, temperature=0)
    compiled: list[str] = []

    def listen(event, *_, **__):
        compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert model.sample(["one and one", "one and two"], max_new_tokens=4, temperature=0)[0] == first[0]
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not [event for event in compiled if "backend_compile" in event]
