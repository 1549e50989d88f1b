# SPDX-License-Identifier: Apache-2.0
"""Studies: their arms are what they say, runs that are the same are one, and what comes out is judged rightly."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from configs import study as base_config
from t1jax import config, validation
from t1jax.config import ConfigError
from t1jax.host.workdir import changes
from t1jax.studies import findings
from t1jax.studies.claims import STUDIES, Arm, Contrast, cold_start_name
from t1jax.study import jobs_of

BASE = config.load(base_config.get_config())
ARMS = [(name, arm) for name, study in STUDIES.items() for arm in study.arms]


@pytest.mark.parametrize("name, arm", ARMS, ids=[f"{name}-{arm.label}" for name, arm in ARMS])
def test_an_arm_changes_what_it_says_and_can_work(name, arm):
    cfg = arm.config(BASE, 5)
    validation.validate(cfg, 1)
    found = changes(BASE.to_dict(), cfg.to_dict())
    assert {knob: new for knob, (_, new) in found.items()} == dict(arm.knobs) | {"seed": 5}
    assert cfg.rl.num_steps == BASE.rl.num_steps  # equal updates


def test_the_issue_of_each_study_is_covered():
    """Each study has the arms that it is about."""
    values = {
        "oversampling": ("rl.responses_per_prompt", [4, 16, 64]),
        "temperature": ("rl.temperature", [0.8, 1.0, 1.1, 1.2, 1.3, 1.2]),
        "anchor": ("rl.anchor_decay", [0.98, 1.0, 0.995, 0.98, 0.9]),
        "entropy": ("rl.entropy_coef", [0.0, 0.001, 10.0]),
        "baseline": ("rl.baseline", ["leave_one_out", "group_mean", "group_mean_std"]),
        "cold_start": ("task.chains", ["trial_and_error", "right_only", "trial_and_error"]),
        "overdraw": ("rl.overdraw", [1.0, 2.0]),
        "choices": ("rl.kl_site", ["reward"] * 4 + ["loss"]),
    }
    for name, (knob, expected) in values.items():
        section, _, field = knob.rpartition(".")
        assert [getattr(getattr(arm.config(BASE, 0), section), field) for arm in STUDIES[name].arms] == expected
    assert [arm.config(BASE, 0).sft.num_steps for arm in STUDIES["cold_start"].arms][-1] == 0
    difficulty = [arm.config(BASE, 0) for arm in STUDIES["difficulty"].arms]
    assert [(cfg.rl.filter_pass_rate, cfg.rl.filter_samples) for cfg in difficulty] == [(1, 16), (0.3, 16), (1, 16)]
    assert [cfg.task.curriculum for cfg in difficulty] == [0, 0, 0.5]
    assert [arm.config(BASE, 0).rl.penalty for arm in STUDIES["penalties"].arms] == [-1.0, 0.0]


def test_contrasts_name_arms_that_exist():
    for study in STUDIES.values():
        labels = {arm.label for arm in study.arms}
        assert len(labels) == len(study.arms)
        for contrast in study.contrasts:
            assert contrast.more in labels and (contrast.less in labels or not contrast.less)


def test_runs_of_several_studies_are_made_once_and_wait_for_their_cold_starts():
    jobs = jobs_of(list(STUDIES), BASE, [0, 1])
    names = [job.name for job in jobs]
    assert len(names) == len(set(names))
    runs = [job for job in jobs if job.name.startswith("runs/")]
    assert len(runs) == len({arm.knobs for _, arm in ARMS})
    colds = [name for name in names if name.startswith("cold/")]
    assert len(colds) == 3 * 2  # trial and error, right only, none; two seeds
    for job in runs:
        assert set(job.after) <= set(colds) and len(job.after) == 2
        assert job.makes == tuple(f"{job.name}/seed{seed}/trial.json" for seed in (0, 1))
    assert [job.task["thinking"] for job in runs].count(True) == 1


def test_cold_starts_are_shared_by_arms_that_differ_in_rl_only():
    name = cold_start_name(Arm("base").config(BASE, 0))
    assert cold_start_name(Arm("hot", (("rl.temperature", 1.3),)).config(BASE, 0)) == name
    assert cold_start_name(Arm("easy", (("task.curriculum", 0.5),)).config(BASE, 0)) == name
    assert cold_start_name(Arm("other", (("task.chains", "right_only"),)).config(BASE, 0)) != name
    assert cold_start_name(Arm("none", (("sft.num_steps", 0),)).config(BASE, 0)) != name
    assert cold_start_name(Arm("base").config(BASE, 1)) != name


def mark(accuracy, **more):
    skills = {"gave_up": 0.1, "false_claims": 0.0, "overlong": 0.2, "response_length": 50.0, "kl_start": 2.0}
    return skills | {"step": 0, "accuracy": accuracy} | more


def trial(first, last, entropy=0.3, **more):
    return {"marks": [mark(first, kl_start=0.0), mark(last, **more)], "training": {"entropy": entropy}}


def test_a_claim_is_judged_seed_by_seed():
    contrast = Contrast("a is better", "accuracy", "a", "b")
    # seeds differ by much, the arms by little, always the same way: paired, it shows
    trials = {"a": [trial(0, x + 0.03) for x in (0.2, 0.5, 0.8)], "b": [trial(0, x) for x in (0.2, 0.55, 0.75)]}
    found = findings.judge(contrast, trials)
    assert found["verdict"] == "not told apart" and math.isclose(found["mean"], 0.03)
    trials["b"] = [trial(0, x) for x in (0.2, 0.501, 0.799)]
    assert findings.judge(contrast, trials)["verdict"] == "reproduced"
    flipped = findings.judge(Contrast("b is better", "accuracy", "b", "a"), trials)
    assert flipped["verdict"] == "the other way" and math.isclose(flipped["mean"], -0.03)
    one = findings.judge(contrast, {arm: runs[:1] for arm, runs in trials.items()})
    assert one["verdict"] == "one seed" and one["low"] is None


def test_measures_by_hand():
    scaling = [{"budget": b, "accuracy": a} for b, a in ((8, 0.1), (64, 0.7))]
    before = [{"budget": b, "accuracy": a} for b, a in ((8, 0.1), (64, 0.3))]
    votes = [{"k": k, "tokens": 30.0 * k, "accuracy": a} for k, a in ((1, 0.3), (2, 0.35), (4, 0.5), (8, 0.55))]
    run = trial(0.3, 0.8, entropy=0.2, kl_start=4.0, response_length=55.0, scaling=scaling)
    run["marks"][0] |= {"scaling": before, "votes": votes}
    assert math.isclose(findings.measure(run, "rise"), 0.6)
    assert math.isclose(findings.measure(run, "rise_gain"), 0.4)
    assert math.isclose(findings.measure(run, "over_vote"), 0.45)  # two votes cost 60 tokens, one too few
    assert findings.measure(run, "entropy") == 0.2 and findings.measure(run, "overlong") == 0.2
    run["marks"][-1]["response_length"] = 1000.0
    assert math.isclose(findings.measure(run, "over_vote"), 0.25)
    votes[1]["accuracy"], votes[2]["accuracy"], run["marks"][-1]["response_length"] = 0.6, 0.5, 100.0
    assert math.isclose(findings.measure(run, "over_vote"), 0.2)  # a vote that costs less may be the better one


def test_kl_is_compared_at_the_highest_accuracy_that_both_come_to():
    """By hand, on straight lines between marks: 0.6 is reached at 1 + (3 - 1) / 2 = 2 nats, and at 2.5."""
    fast = {"marks": [mark(0.3, kl_start=0.0), mark(0.5, kl_start=1.0), mark(0.7, kl_start=3.0)]}
    slow = {"marks": [mark(0.2, kl_start=0.0), mark(0.4, kl_start=2.0), mark(0.6, kl_start=2.5)]}
    contrast = Contrast("less KL", "nats_saved", "fast", "slow")
    found = findings.judge(contrast, {"fast": [fast, fast], "slow": [slow, slow]})
    assert np.allclose(found["values"], 0.5)
    found = findings.judge(contrast, {"fast": [slow, slow], "slow": [fast, fast]})
    assert np.allclose(found["values"], -0.5)
    still = {"marks": [mark(0.3, kl_start=0.0), mark(0.3, kl_start=-0.01)]}  # a sampled KL may be below 0
    assert np.allclose(findings.judge(contrast, {"fast": [still], "slow": [slow]})["values"], 1.0)
    assert np.allclose(findings.judge(contrast, {"fast": [fast], "slow": [still]})["values"], 0.0)


def test_seeds_that_were_measured_at_other_steps_are_not_mixed(tmp_path):
    write_trials(tmp_path, "penalties", [0, 1])
    path = tmp_path / "runs/base/seed1/trial.json"
    told = json.loads(path.read_text())
    told["marks"][-1]["step"] = 3
    path.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=r"runs/base/seed1: measured at steps \[0, 3\]; expected \[0, 0\]: delete"):
        findings.write("penalties", BASE, [0, 1], tmp_path)


@pytest.mark.parametrize(
    "name, knob, value",
    [
        ("oversampling", "rl.responses_per_prompt", 8),
        ("temperature", "rl.temperature", 1.0),
        ("temperature", "rl.min_p", 0.1),
        ("penalties", "rl.penalty", 0.0),
        ("anchor", "rl.anchor_decay", 0.9),
        ("entropy", "rl.entropy_coef", 0.0),
        ("cold_start", "task.chains", "right_only"),
        ("baseline", "rl.baseline", "group_mean"),
        ("choices", "rl.loss_normalisation", "token"),
        ("choices", "rl.penalty_site", "advantage"),
        ("choices", "rl.kl_site", "loss"),
        ("difficulty", "rl.filter_pass_rate", 0.3),
        ("difficulty", "task.curriculum", 0.5),
        ("overdraw", "rl.overdraw", 2.0),
    ],
)
def test_a_base_that_sets_what_a_study_compares_is_refused(name, knob, value):
    STUDIES[name].check(BASE)
    with pytest.raises(ConfigError, match=f"{knob} is {value}, but the study .* compares it; expected"):
        STUDIES[name].check(Arm("", ((knob, value),)).config(BASE, 0))
    STUDIES["inference_scaling"].check(Arm("", ((knob, value),)).config(BASE, 0))  # which compares no knob


def write_trials(out, name, seeds):
    for i, arm in enumerate(STUDIES[name].arms):
        for seed in seeds:
            path = out / "runs" / arm.folder / f"seed{seed}" / "trial.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(trial(0.3, 0.5 + 0.1 * i + 0.001 * seed)))


def test_a_study_is_written_with_its_table_its_claims_and_its_plot(tmp_path):
    write_trials(tmp_path, "penalties", [0, 1, 2])
    findings.write("penalties", BASE, [0, 1, 2], tmp_path)
    results = json.loads((tmp_path / "penalties/results.json").read_text())
    assert math.isclose(results["arms"]["without"]["accuracy"]["mean"], 0.601)
    assert [c["verdict"] for c in results["contrasts"]] == ["not told apart", "the other way"]
    table = (tmp_path / "penalties/table.md").read_text()
    assert "| with | 50.1 % [49.9, 50.3] |" in table and "−" not in table
    assert (tmp_path / "penalties/plot.png").read_bytes().startswith(b"\x89PNG")
    summary = findings.write_summary(tmp_path).read_text()
    assert summary.count("\n") == 4 and "| the other way | 3 |" in summary


def test_differences_have_their_units():
    def said(measure, mean):
        return findings._difference({"measure": measure, "mean": mean, "low": None})

    assert said("rise", 0.123) == "+12.3 points" and said("accuracy", -0.01) == "-1.0 points"
    assert said("nats_saved", 0.067) == "+0.07 nats"
    assert said("response_length", -4.2) == "-4.20 tokens" and said("kl_start", 12.34) == "+12.3 nats"
    measures = {contrast.measure for study in STUDIES.values() for contrast in study.contrasts}
    shares = {"accuracy", "overlong", "rise", "rise_gain", "over_vote"}
    assert measures <= shares | set(findings.NUMBERS)


def test_thinking_and_votes_are_tables_with_a_column_for_each_share_of_rl():
    def told(*means):
        return [{"mean": mean, "low": None, "high": None} for mean in means]

    marks = [
        {
            "step": step,
            "scaling": [{"budget": 8} | told(step / 10)[0], {"budget": 64} | told(step / 5)[0]],
            "votes": [{"k": 2, "tokens": 59.6 + step} | told(0.5)[0]],
        }
        for step in (0, 1, 3)
    ]
    text = findings.markdown({"title": "T", "seeds": [0], "arms": {}, "contrasts": [], "thinking": marks})
    assert "| thinking tokens: accuracy | 0 % of RL | 33 % of RL | 100 % of RL |\n|---|---|---|---|" in text
    assert "| 8 | 0.0 % | 10.0 % | 30.0 % |\n| 64 | 0.0 % | 20.0 % | 60.0 % |" in text
    assert "| 2 | 50.0 % (60) | 50.0 % (61) | 50.0 % (63) |" in text


def test_a_missing_or_damaged_run_is_named(tmp_path):
    write_trials(tmp_path, "penalties", [0])
    damaged = tmp_path / "runs/penalty=0.0/seed0/trial.json"
    damaged.write_text("{")
    with pytest.raises(ConfigError, match=r"penalty=0\.0/seed0/trial\.json: .*delete it"):
        findings.write("penalties", BASE, [0], tmp_path)
    damaged.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        findings.write("penalties", BASE, [0], tmp_path)
