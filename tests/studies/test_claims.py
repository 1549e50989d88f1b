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
from t1jax.studies import curves, findings, measures, paper, tables
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
        "choices": ("rl.kl_site", ["reward"] * 8 + ["token", "loss"] + ["reward"] * 3),
    }
    for name, (knob, expected) in values.items():
        section, _, field = knob.rpartition(".")
        assert [getattr(getattr(arm.config(BASE, 0), section), field) for arm in STUDIES[name].arms] == expected
    assert [arm.config(BASE, 0).sft.num_steps for arm in STUDIES["cold_start"].arms][-1] == 0
    difficulty = [arm.config(BASE, 0) for arm in STUDIES["difficulty"].arms]
    assert [(cfg.rl.filter_pass_rate, cfg.rl.filter_samples) for cfg in difficulty] == [(1, 16), (0.3, 16), (1, 16)]
    assert [cfg.task.curriculum for cfg in difficulty] == [0, 0, 0.5]
    assert [arm.config(BASE, 0).rl.penalty for arm in STUDIES["penalties"].arms] == [-1.0, 0.0]


def test_what_the_paper_leaves_open_is_tried_with_every_value():
    """Each open knob of the objective, with every value but ours; gamma has the study anchor.

    But for a penalty_site "advantage": on the embedded tasks what is flagged has no answer, so "wrong" is the same run.
    """
    tried = {knob for arm in STUDIES["choices"].arms for knob in arm.knobs}
    assert tried >= {
        ("rl.loss_normalisation", "response_mean"), ("rl.loss_normalisation", "token"), ("rl.penalty_site", "wrong"),
        ("rl.advantage_floor", True), ("rl.kl_site", "token"), ("rl.kl_site", "loss"),
        ("rl.kl_reduction", "mean"), ("rl.anchor_every", 4), ("rl.entropy_target", 0.1), ("rl.max_perplexity", 1.3),
    }  # fmt: skip
    knobs = {arm.label: dict(arm.knobs) for arm in STUDIES["choices"].arms}
    for contrast in STUDIES["choices"].contrasts:  # the two differ in one knob
        assert len(dict(knobs[contrast.more].items() - knobs[contrast.less].items())) == 1
        assert knobs[contrast.less].items() <= knobs[contrast.more].items()
    assert len(STUDIES["choices"].contrasts) == len(tried) - 2  # a KL and a bonus to change


def test_contrasts_name_arms_that_exist():
    for study in STUDIES.values():
        labels = {arm.label for arm in study.arms}
        assert len(labels) == len(study.arms)
        for contrast in study.contrasts:
            assert contrast.more in labels or contrast.measure in measures.ACROSS
            assert contrast.less in labels or not contrast.less


def test_effects_of_the_paper_by_hand():
    """Points of T1's figures; shapes: tests/studies/test_shapes.py."""
    found = {c.measure: c.paper for name in ("oversampling", "inference_scaling") for c in STUDIES[name].contrasts}
    assert math.isclose(found["accuracy"], 0.394 - 0.318) and math.isclose(found["rise"], 0.526 - 0.305)
    assert math.isclose(found["rise_gain"], 0.221 - (0.241 - 0.213))
    assert all(found[shape] > 0 for shape in measures.SHAPES)
    assert found["response_length"] is found["nats_saved"] is found["over_vote"] is None


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
    responses = [job.task["config"]["rl"]["responses_per_prompt"] for job in runs]
    assert responses[0] == 64 and responses[-1] == 4 and responses == sorted(responses, reverse=True)


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


def judged(contrast, trials):
    return findings.conclude([findings.compare(contrast, trials)])[0]


def test_a_claim_is_judged_seed_by_seed():
    contrast = Contrast("a is better", "accuracy", "a", "b")
    # seeds differ by much, the arms by little, always the same way: paired, it shows
    trials = {"a": [trial(0, x + 0.03) for x in (0.2, 0.5, 0.8)], "b": [trial(0, x) for x in (0.2, 0.55, 0.75)]}
    found = judged(contrast, trials)
    assert found["verdict"] == "not told apart" and math.isclose(found["mean"], 0.03)
    trials["b"] = [trial(0, x) for x in (0.2, 0.501, 0.799)]
    assert judged(contrast, trials)["verdict"] == "holds"
    flipped = judged(Contrast("b is better", "accuracy", "b", "a"), trials)
    assert flipped["verdict"] == "the other way" and math.isclose(flipped["mean"], -0.03)
    one = judged(contrast, {arm: runs[:1] for arm, runs in trials.items()})
    assert one["verdict"] == "one seed" and one["low"] is one["p"] is one["seeds_needed"] is None


def told(values, measure="accuracy", paper=None):
    return {"claim": "c", "measure": measure, "values": values, "mean": sum(values) / len(values), "paper": paper}


def test_claims_are_corrected_for_each_other():
    """p of 1, 2, 3 is 0.074; of 3, 3.1, 3.2 0.0003: times two it stays below 0.05, times 160 it does not."""
    weak, strong, single = told([0.1, 0.2, 0.3]), told([-0.3, -0.31, -0.32]), told([0.5])
    found = findings.conclude([weak, single, strong])
    assert [c["verdict"] for c in found] == ["not told apart", "one seed", "the other way"]
    assert math.isclose(found[2]["p_holm"], 2 * found[2]["p"]) and found[0]["p_holm"] == found[0]["p"]
    assert math.isclose(found[0]["p"], 0.0742, abs_tol=1e-4)
    many = findings.conclude([weak] * 159 + [strong])
    assert many[-1]["verdict"] == "not told apart" and many[-1]["p"] < 0.05 < many[-1]["p_holm"] == 160 * many[-1]["p"]


def test_the_seeds_that_a_claim_needs_are_for_the_papers_effect_or_else_for_the_one_seen():
    """By tables: an effect of 0.8 standard deviations needs 15, of 0.5 34."""
    values = [0.04, 0.05, 0.06]  # s = 0.01
    found = findings.conclude([told(values, paper=0.008), told([x - 0.045 for x in values]), told([0.05, 0.05, 0.05])])
    assert [(c["effect"], c["seeds_needed"]) for c in found[:1]] == [(0.008, 15)]
    assert found[0]["seeds_needed_holm"] == 20  # at 5 % / 3
    assert math.isclose(found[1]["effect"], 0.005) and found[1]["seeds_needed"] == 34
    assert found[2]["seeds_needed"] is None and found[2]["verdict"] == "not told apart"
    assert tables.claim(found[2] | {"low": None})[-1] == "not known: the same with each seed"
    assert tables.claim(found[0] | {"low": None})[-1] == "15 to 20 for the +0.8 points of the paper"
    assert tables.claim(found[1] | {"low": None})[-1] == "34 to 45 for the +0.5 points seen"
    endless = findings.conclude([told(values, paper=1e-6)])[0] | {"low": None}
    assert tables.claim(endless)[-1].startswith("more than 10,000 for the")
    assert tables.claim(findings.conclude([told([0.1])])[0] | {"low": None})[1:] == ("", "", "one seed", "")


def test_measures_by_hand():
    scaling = [{"budget": b, "accuracy": a} for b, a in ((8, 0.1), (64, 0.7))]
    before = [{"budget": b, "accuracy": a} for b, a in ((8, 0.1), (64, 0.3))]
    votes = [{"k": k, "tokens": 30.0 * k, "accuracy": a} for k, a in ((1, 0.3), (2, 0.35), (4, 0.5), (8, 0.55))]
    run = trial(0.3, 0.8, entropy=0.2, kl_start=4.0, response_length=55.0, scaling=scaling)
    run["marks"][0] |= {"scaling": before, "votes": votes}
    assert math.isclose(measures.measure(run, "rise"), 0.6)
    assert math.isclose(measures.measure(run, "rise_gain"), 0.4)
    assert math.isclose(measures.measure(run, "over_vote"), 0.45)  # two votes cost 60 tokens, one too few
    assert measures.measure(run, "entropy") == 0.2 and measures.measure(run, "overlong") == 0.2
    run["marks"][-1]["response_length"] = 1000.0
    assert math.isclose(measures.measure(run, "over_vote"), 0.25)
    votes[1]["accuracy"], votes[2]["accuracy"], run["marks"][-1]["response_length"] = 0.6, 0.5, 100.0
    assert math.isclose(measures.measure(run, "over_vote"), 0.2)  # a vote that costs less may be the better one


def test_kl_is_compared_at_the_highest_accuracy_that_both_come_to():
    """By hand, on straight lines between marks: 0.6 is reached at 1 + (3 - 1) / 2 = 2 nats, and at 2.5."""
    fast = {"marks": [mark(0.3, kl_start=0.0), mark(0.5, kl_start=1.0), mark(0.7, kl_start=3.0)]}
    slow = {"marks": [mark(0.2, kl_start=0.0), mark(0.4, kl_start=2.0), mark(0.6, kl_start=2.5)]}
    contrast = Contrast("less KL", "nats_saved", "fast", "slow")
    found = findings.compare(contrast, {"fast": [fast, fast], "slow": [slow, slow]})
    assert np.allclose(found["values"], 0.5)
    found = findings.compare(contrast, {"fast": [slow, slow], "slow": [fast, fast]})
    assert np.allclose(found["values"], -0.5)
    still = {"marks": [mark(0.3, kl_start=0.0), mark(0.3, kl_start=-0.01)]}  # a sampled KL may be below 0
    assert np.allclose(findings.compare(contrast, {"fast": [still], "slow": [slow]})["values"], 1.0)
    assert np.allclose(findings.compare(contrast, {"fast": [fast], "slow": [still]})["values"], 0.0)


def test_seeds_that_were_measured_at_other_steps_are_not_mixed(tmp_path):
    write_trials(tmp_path, "penalties", [0, 1])
    path = tmp_path / "runs/base/seed1/trial.json"
    told = json.loads(path.read_text())
    told["marks"][-1]["step"] = 3
    path.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=r"runs/base/seed1: measured at steps \[0, 3\]; expected \[0, 0\]: delete"):
        findings.write("penalties", BASE, [0, 1], tmp_path)


def test_of_runs_measured_less_often_by_an_older_version_those_are_to_be_made_again(tmp_path):
    write_trials(tmp_path, "penalties", [0, 1])
    path = tmp_path / "runs/base/seed0/trial.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"marks": told["marks"][:1]}))
    with pytest.raises(ConfigError, match=r"runs/base/seed0: measured at steps \[0\]; expected \[0, 0\]: delete"):
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
        ("choices", "rl.kl_reduction", "mean"),
        ("choices", "rl.advantage_floor", True),
        ("choices", "rl.anchor_every", 2),
        ("choices", "rl.entropy_target", 0.2),
        ("choices", "rl.max_perplexity", 2.0),
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
            path.write_text(json.dumps(trial(0.3, 0.5 + 0.1 * i + 0.001 * seed * (i + 1))))


def test_a_study_is_written_with_its_table_its_claims_and_its_plot(tmp_path):
    write_trials(tmp_path, "penalties", [0, 1, 2])
    findings.write("penalties", BASE, [0, 1, 2], tmp_path)
    summary = findings.write_summary(tmp_path).read_text()
    results = json.loads((tmp_path / "penalties/results.json").read_text())
    assert math.isclose(results["arms"]["without"]["accuracy"]["mean"], 0.602)
    assert [c["verdict"] for c in results["contrasts"]] == ["not told apart", "the other way"]
    table = (tmp_path / "penalties/table.md").read_text()
    assert "| with | 50.1 % [49.9, 50.3] |" in table and "−" not in table
    assert (tmp_path / "penalties/plot.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "penalties/paper.png").exists()
    lines = summary.splitlines()
    assert len([line for line in lines if line.startswith("| penalties |")]) == 2
    assert (
        "| -10.1 [-10.3, -9.9] points | < 0.001 | < 0.001 | the other way | 2 for the -10.1 points seen | 3 |"
        in summary
    )


def test_a_study_that_comes_later_counts_in_what_earlier_ones_found(tmp_path):
    """And results of an older version, without p, are judged with it."""
    write_trials(tmp_path, "penalties", [0, 1])
    findings.write("penalties", BASE, [0, 1], tmp_path)
    path = tmp_path / "penalties/results.json"
    old = json.loads(path.read_text())
    for claim in old["contrasts"]:
        del claim["paper"]
        claim |= {"values": [0.1, 0.12], "mean": 0.11, "low": 0.0, "high": 0.2}
    path.write_text(json.dumps(old))
    findings.write_summary(tmp_path)
    first = json.loads(path.read_text())["contrasts"]
    write_trials(tmp_path, "baseline", [0, 1])
    findings.write("baseline", BASE, [0, 1], tmp_path)
    findings.write_summary(tmp_path)
    later = json.loads(path.read_text())["contrasts"]
    assert first[0]["p"] == later[0]["p"] and math.isclose(first[0]["p_holm"], 2 * first[0]["p"])
    assert math.isclose(later[0]["p_holm"], 2 * first[0]["p"])  # the new one has the smallest p
    (new,) = json.loads((tmp_path / "baseline/results.json").read_text())["contrasts"]
    assert math.isclose(new["p_holm"], 3 * 2 / math.pi * math.atan(1 / 201))  # -0.2 and -0.202, one degree of freedom
    assert "| 0.058 | 0.115 |" in (tmp_path / "penalties/table.md").read_text()


def write_curves(out, accuracies):
    """Runs of oversampling: arm -> seed -> accuracy after 0, 5 and 10 steps."""
    for arm, runs in zip(STUDIES["oversampling"].arms, accuracies, strict=True):
        for seed, points in enumerate(runs):
            marks = [mark(accuracy, step=step) for step, accuracy in zip((0, 5, 10), points, strict=True)]
            path = out / "runs" / arm.folder / f"seed{seed}" / "trial.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"marks": marks, "training": {"entropy": 0.1}}))


def test_curves_over_steps_are_judged_and_drawn_beside_the_papers(tmp_path):
    few, some, many = [[0.3, 0.4, 0.5]] * 2, [[0.3, 0.3, 0.6], [0.3, 0.5, 0.6]], [[0.3, 0.6, 0.7], [0.3, 0.6, 0.58]]
    write_curves(tmp_path, (few, some, many))
    findings.write("oversampling", BASE, [0, 1], tmp_path)
    findings.write_summary(tmp_path)
    results = json.loads((tmp_path / "oversampling/results.json").read_text())
    np.testing.assert_allclose(results["contrasts"][-1]["values"], [0.1, -0.02])
    table = (tmp_path / "oversampling/table.md").read_text()
    assert "| shape: at the end R = 4 is lowest, R = 64 highest | +10.0 | -2.0 | 1 of 2 |" in table
    assert "| steps of RL: accuracy | R = 4 | R = 16 | R = 64 |" in table and "| 10 | 50.0 % [50.0, 50.0] |" in table
    assert "| R = 4 and R = 16 | 7.5 | never |" in table  # -0.1 at 5 steps, 0.1 at 10
    assert "| R = 16 and R = 64 | never | 9.2 |" in table  # 0.1 at 5, -0.02 at 10: after 5 / 6 of them
    assert (tmp_path / "oversampling/paper.png").read_bytes().startswith(b"\x89PNG")


def test_curves_by_budget_are_judged_and_drawn_beside_the_papers(tmp_path):
    """The paper's own curves at our shares of RL, as if a seed had them; the other seed's are turned around."""
    curves_of = [paper.SCALING[share] for share in (0.0, 0.3, 0.6, 1.0)]
    for seed, turned in enumerate((curves_of, curves_of[::-1])):
        marks = [
            mark(curve[-1], step=10 * i)
            | {"scaling": [{"budget": b, "accuracy": a} for b, a in zip(paper.BUDGETS, curve, strict=True)]}
            | {"votes": [{"k": 1, "tokens": 30.0, "accuracy": 0.2}]}
            for i, curve in enumerate(turned)
        ]
        path = tmp_path / f"runs/base/seed{seed}/trial.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"marks": marks, "training": {"entropy": 0.1}}))
    findings.write("inference_scaling", BASE, [0, 1], tmp_path)
    findings.write_summary(tmp_path)
    table = (tmp_path / "inference_scaling/table.md").read_text()
    assert "| shape: flat before RL | +2.5 | -21.4 | 1 of 2 |" in table
    assert "| shape: a fan with more RL | +6.1 | -" in table
    for c, contrast in zip(
        json.loads((tmp_path / "inference_scaling/results.json").read_text())["contrasts"],
        STUDIES["inference_scaling"].contrasts,
        strict=True,
    ):
        assert contrast.paper is None or math.isclose(c["values"][0], contrast.paper), contrast
    assert (tmp_path / "inference_scaling/paper.png").read_bytes().startswith(b"\x89PNG")


def test_lines_of_the_figures_are_the_authors_and_ours():
    points = [{"mean": 0.4, "low": 0.3, "high": 0.5}, {"mean": 0.5, "low": 0.4, "high": 0.6}]
    found = {"title": "T", "seeds": [0, 1], "steps": {"at": [0, 9], "curves": dict.fromkeys(("a", "b", "c"), points)}}
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "_draw", lambda *given: drawn.append(given))
        curves.draw(found)
        marks = [
            {"step": step, "scaling": [{"budget": 8, **points[0]}, {"budget": 16, **points[1]}]} for step in (0, 7, 24)
        ]
        curves.draw({"title": "T", "seeds": [0], "thinking": marks})
    assert curves.draw({"title": "T", "seeds": [0]}) is None
    (_, titles, (left, right), heading, doubling, _), (_, _, (theirs, ours), _, octaves, _) = drawn
    assert titles[1] == "here, 2 seeds" and "authors" in titles[0] and heading == "steps of RL" and not doubling
    assert [(line.label, round(line.y[-1], 9), line.low) for line in left] == [
        ("K = 4", 0.318, ()), ("K = 16", 0.358, ()), ("K = 64", 0.394, ()),
    ]  # fmt: skip
    assert all((line.x, line.y, line.low) == ([0, 9], [0.4, 0.5], [0.3, 0.4]) for line in right)
    assert octaves and [line.label for line in ours] == ["0 % of RL", "29 % of RL", "100 % of RL"]
    assert [line.label for line in theirs] == [f"{share} % of RL" for share in (0, 30, 60, 90, 100)]
    assert theirs[-1].x[-1] == 16384 and theirs[-1].y[-1] == 0.526
    same = [next(line.colour for line in theirs if line.label == f"{share} % of RL") for share in (0, 30, 100)]
    assert [line.colour for line in ours] == same


def test_differences_have_their_units():
    def said(measure, mean):
        return tables.difference({"measure": measure, "mean": mean, "low": None})

    assert said("rise", 0.123) == "+12.3 points" and said("accuracy", -0.01) == "-1.0 points"
    assert said("nats_saved", 0.067) == "+0.07 nats"
    assert said("response_length", -4.2) == "-4.20 tokens" and said("kl_start", 12.34) == "+12.3 nats"
    found = {contrast.measure for study in STUDIES.values() for contrast in study.contrasts}
    shares = {"accuracy", "overlong", "rise", "rise_gain", "over_vote", *measures.SHAPES}
    assert found <= shares | set(measures.NUMBERS)


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
    text = tables.markdown({"title": "T", "seeds": [0], "arms": {}, "contrasts": [], "thinking": marks})
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
