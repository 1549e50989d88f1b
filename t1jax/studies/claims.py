# SPDX-License-Identifier: Apache-2.0
"""T1's claims as experiments: which runs each study compares, and what the paper's claims predict.

    study = STUDIES["penalties"]; study.arms -> runs; study.contrasts -> what is tested

An arm is a set of changes to the base config of all studies (configs/study.py), as on a command line. Arms without
changes are the same run in every study. All arms of a study make the same number of updates, so that more
responses per prompt are more responses in total, as in the paper.
Source: T1 (arXiv 2501.11651) section 4: number of responses, temperature, penalties, inference scaling.
Deliberately not here: running (studies/trial.py), measures of runs (measures.py), what comes out (findings.py).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from t1jax import config
from t1jax.config import Config, ConfigError
from t1jax.studies import paper, shapes


@dataclass(frozen=True)
class Arm:
    """A run of a study, with any seed."""

    label: str
    knobs: tuple[tuple[str, Any], ...] = ()  # (dotted name, value) of what differs from the base

    def config(self, base: Config, seed: int) -> Config:
        """The whole config of the run with this seed. ConfigError: a knob does not exist or has the wrong type."""
        tree = base.to_dict() | {"seed": seed}
        for knob, value in self.knobs:
            section, _, name = knob.rpartition(".")
            tree[section] = tree[section] | {name: value}
        return config.load(tree)

    @property
    def folder(self) -> str:
        """A name that no other arm has."""
        return ",".join(f"{knob.rpartition('.')[2]}={value}" for knob, value in self.knobs) or "base"


@dataclass(frozen=True)
class Contrast:
    """`measure` of the arm `more`, less that of the arm `less`: above 0 if the paper is right.

    Without `less` it is a measure of one arm. Measures of two runs (measures.PAIRED) are taken of both arms at once,
    those of all runs (measures.ACROSS) of all arms.
    """

    claim: str
    measure: str
    more: str = ""
    less: str = ""
    paper: float | None = None  # the paper's own, in the measure's unit; None: it states none as a number


@dataclass(frozen=True)
class Study:
    """Arms that are compared, and the claims that the comparison is for."""

    title: str
    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]
    measure: str = "accuracy"  # what the plot shows beside the accuracy, if it is another
    assumes: tuple[tuple[str, Any], ...] = ()  # (knob, value) of the base that the arms' labels speak of

    def check(self, base: Config) -> None:
        """ConfigError: `base` sets a knob that the study compares, so its arms would not be what they are called."""
        for knob, expected in self.assumes:
            section, _, name = knob.rpartition(".")
            if (found := base.to_dict()[section][name]) != expected:
                raise ConfigError(
                    f"{knob} is {found}, but the study {self.title!r} compares it; expected {expected}: leave it "
                    "out, or name other studies"
                )


def _knob(name: str, *values: Any, base: Any) -> tuple[Arm, ...]:
    """An arm for each value of a knob."""
    short = name.rpartition(".")[2]
    return tuple(Arm(f"{short} {v:g}", () if v == base else ((name, v),)) for v in values)


def _responses(count: int) -> Arm:
    """An arm with that many responses per prompt, in parts of the same size."""
    if count == BASE_RESPONSES:
        return Arm(f"R = {count}")
    return Arm(f"R = {count}", (("rl.responses_per_prompt", count), ("rl.micro_batches", count // 2)))


BASE_RESPONSES = 16  # of configs/study.py, whose rl.micro_batches is half of it: 16 responses of full length a part
STRONG = ("rl.kl_coef", 0.3)  # the demo's 1e-3 is too weak to show what the anchor is
BONUS = ("rl.entropy_coef", 10.0)  # large beside a policy term that is summed over tokens

CHOICES = (  # label, what differs from the base, the arm that it is compared with; gamma has the study "anchor"
    ("ours", (), ""),
    ("loss: mean of a response's tokens", (("rl.loss_normalisation", "response_mean"),), "ours"),
    ("loss: mean of all tokens", (("rl.loss_normalisation", "token"),), "ours"),
    ("penalty: after the baseline", (("rl.penalty_site", "wrong"),), "ours"),  # "advantage": the same runs here
    ("floor of advantages", (("rl.advantage_floor", True),), "ours"),
    ("perplexity at most 1.3", (("rl.max_perplexity", 1.3),), "ours"),
    ("KL 0.3", (STRONG,), ""),
    ("KL 0.3: mean of tokens", (STRONG, ("rl.kl_reduction", "mean")), "KL 0.3"),
    ("KL 0.3: of each token", (STRONG, ("rl.kl_site", "token")), "KL 0.3"),
    ("KL 0.3: in the loss", (STRONG, ("rl.kl_site", "loss")), "KL 0.3"),
    ("KL 0.3: anchor every 4th step", (STRONG, ("rl.anchor_every", 4)), "KL 0.3"),
    ("bonus 10", (BONUS,), ""),
    ("bonus 10: below 0.1 nats", (BONUS, ("rl.entropy_target", 0.1)), "bonus 10"),
)

FIGURE_1 = tuple(paper.SCALING[share] for share in (0.0, 0.3, 0.6, 1.0))  # of RL, as in "inference_scaling"

COLD = ("model", "tokenizer", "task", "data", "sft")  # sections of the config that a cold start depends on

STUDIES = {
    "oversampling": Study(
        "Responses per prompt, equal updates",
        tuple(map(_responses, (4, 16, 64))),
        (
            Contrast(
                "more responses per prompt: higher accuracy",
                "accuracy",
                "R = 64",
                "R = 4",
                paper.RESPONSES[64][-1] - paper.RESPONSES[4][-1],
            ),
            Contrast("more responses per prompt: longer responses", "response_length", "R = 64", "R = 4"),
            Contrast("more responses per prompt: less KL at equal accuracy", "nats_saved", "R = 64", "R = 4"),
            Contrast(
                "shape: at the end R = 4 is lowest, R = 64 highest",
                "ordered_at_end",
                paper=shapes.ordered_at_end(list(paper.RESPONSES.values())),
            ),
        ),
        "response_length",
        (("rl.responses_per_prompt", BASE_RESPONSES),),
    ),
    "temperature": Study(
        "Sampling temperature and min-p",
        (
            *_knob("rl.temperature", 0.8, 1.0, 1.1, 1.2, 1.3, base=1.2),
            Arm("temperature 1.2, min-p 0.05", (("rl.min_p", 0.05),)),
        ),
        (
            Contrast("1.2 is better than 0.8", "accuracy", "temperature 1.2", "temperature 0.8"),
            Contrast("1.2 is better than 1.0", "accuracy", "temperature 1.2", "temperature 1"),
            Contrast("1.2 is better than 1.3", "accuracy", "temperature 1.2", "temperature 1.3"),
            Contrast("1.2 uncut is better than min-p", "accuracy", "temperature 1.2", "temperature 1.2, min-p 0.05"),
        ),
        "entropy",
        (("rl.temperature", 1.2), ("rl.min_p", 0.0)),
    ),
    "penalties": Study(
        "Penalties for overlong, repetitive and garbled responses",
        (Arm("with"), Arm("without", (("rl.penalty", 0.0),))),
        (
            Contrast("without penalties more responses run over the limit", "overlong", "without", "with"),
            Contrast("penalties: higher accuracy", "accuracy", "with", "without"),
        ),
        "overlong",
        (("rl.penalty", -1.0),),
    ),
    "anchor": Study(
        "Reference policy of the KL, at a coefficient of 0.3",
        (
            Arm("no KL", (("rl.kl_coef", 0.0),)),
            Arm("frozen", (STRONG, ("rl.anchor_decay", 1.0))),
            Arm("EMA 0.995", (STRONG, ("rl.anchor_decay", 0.995))),
            Arm("EMA 0.98", (STRONG,)),
            Arm("EMA 0.9", (STRONG, ("rl.anchor_decay", 0.9))),
        ),
        (
            Contrast("a moving anchor: higher accuracy than a frozen one", "accuracy", "EMA 0.9", "frozen"),
            Contrast("a moving anchor: less KL than none", "kl_start", "no KL", "EMA 0.9"),
        ),
        "kl_start",
        (("rl.anchor_decay", 0.98),),
    ),
    "entropy": Study(
        "Entropy bonus",
        _knob("rl.entropy_coef", 0.0, 0.001, BONUS[1], base=0.001),
        (
            Contrast("a small bonus: higher accuracy than none", "accuracy", "entropy_coef 0.001", "entropy_coef 0"),
            Contrast("a bonus keeps entropy up", "entropy", "entropy_coef 10", "entropy_coef 0"),
        ),
        "entropy",
        (("rl.entropy_coef", 0.001),),
    ),
    "cold_start": Study(
        "What RL starts from",
        (
            Arm("trial and error"),
            Arm("right only", (("task.chains", "right_only"),)),
            Arm("no cold start", (("sft.num_steps", 0),)),
        ),
        (
            Contrast("trial and error is better than right chains only", "accuracy", "trial and error", "right only"),
            Contrast("a cold start is better than none", "accuracy", "trial and error", "no cold start"),
        ),
        "response_length",
        (("task.chains", "trial_and_error"),),
    ),
    "baseline": Study(
        "Baseline of the advantage",
        (
            Arm("leave one out"),
            Arm("group mean", (("rl.baseline", "group_mean"),)),
            Arm("group mean / std", (("rl.baseline", "group_mean_std"),)),
        ),
        (Contrast("leave one out is better than the mean over std", "accuracy", "leave one out", "group mean / std"),),
        "kl_start",
        (("rl.baseline", "leave_one_out"),),
    ),
    "choices": Study(
        "What the paper leaves open: each choice against ours",
        tuple(Arm(label, knobs) for label, knobs, _ in CHOICES),
        tuple(
            Contrast(f"{label}: higher accuracy than {other}", "accuracy", label, other)
            for label, _, other in CHOICES
            if other
        ),
        "kl_start",
        (
            ("rl.loss_normalisation", "response"),
            ("rl.penalty_site", "reward"),
            ("rl.advantage_floor", False),
            ("rl.max_perplexity", 0.0),
            ("rl.kl_site", "reward"),
            ("rl.kl_reduction", "sum"),
            ("rl.anchor_every", 1),
            ("rl.entropy_target", 0.0),
        ),
    ),
    "difficulty": Study(
        "Choice of problems, equal updates",
        (
            Arm("all"),
            Arm("rarely solved", (("rl.filter_pass_rate", 0.3), ("rl.filter_problems", 256))),
            Arm("easy ones first", (("task.curriculum", 0.5),)),
        ),
        (
            Contrast("problems that the cold start rarely solves: higher accuracy", "accuracy", "rarely solved", "all"),
            Contrast("easy problems first: higher accuracy", "accuracy", "easy ones first", "all"),
        ),
        assumes=(("rl.filter_pass_rate", 1.0), ("task.curriculum", 0.0)),
    ),
    "overdraw": Study(
        "Choice of groups by what they can teach, equal updates",
        _knob("rl.overdraw", 1.0, 2.0, base=1.0),
        (Contrast("twice the groups, mixed ones kept: higher accuracy", "accuracy", "overdraw 2", "overdraw 1"),),
        assumes=(("rl.overdraw", 1.0),),
    ),
    "inference_scaling": Study(
        "Thinking tokens, and votes, after 0, 30, 60 and 100 % of RL",
        (Arm("base"),),
        (
            Contrast("more thinking, more right answers: after RL", "rise", "base", paper=shapes.rise(FIGURE_1[-1])),
            Contrast(
                "the curve is steeper after RL",
                "rise_gain",
                "base",
                paper=shapes.rise(FIGURE_1[-1]) - shapes.rise(FIGURE_1[0]),
            ),
            Contrast("a response after RL beats a vote before RL at equal tokens", "over_vote", "base"),
            Contrast("shape: flat before RL", "flat_before", "base", paper=shapes.flat_before(FIGURE_1)),
            Contrast(
                "shape: equal at the smallest budget after any RL",
                "equal_at_smallest",
                "base",
                paper=shapes.equal_at_smallest(FIGURE_1),
            ),
            Contrast("shape: a fan with more RL", "fans_out", "base", paper=shapes.fans_out(FIGURE_1)),
        ),
    ),
}


def cold_start_name(cfg: Config) -> str:
    """What names the cold start of a run: equal for runs that can share it, with a seed of its own."""
    parts = {name: value for name, value in cfg.to_dict().items() if name in COLD}
    parts["task"] |= {"curriculum": 0.0}  # which orders the problems of RL
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
    return f"{digest}/seed{cfg.seed}"
