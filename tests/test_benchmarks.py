# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, print the peers' keys last, count what they say, and compare like with like. Nothing is timed."""

from __future__ import annotations

import json
import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import (
    blocks,
    candidates,
    compare,
    costs,
    host,
    mixing,
    persistence,
    plans,
    roofline,
    surprise,
    tiles,
    workload,
)  # fmt: skip
from configs import study
from t1jax.config import load
from t1jax.model import splash
from t1jax.tasks.pairs.task import PairsTask
from t1jax.text.huggingface import HFTokenizer
from t1jax.text.tokenizer import SentencePieceTokenizer, train_sentencepiece

FLAGS = (
    "--layers=1 --hidden=16 --ffn=24 --heads=2 --kv-heads=1 --head-dim=8 --vocab=64 --prompts=8 --group=2 "
    "--prompt-len=5 --new=6 --steps=1 --warmup=1 --threads=0 --micro-batches=1"
).split()
KEYS = {"tokens_per_s", "seconds_per_step", "split_s", "tokens_per_step", "mean_len_seen", "other_cores_busy", "args"}


@pytest.mark.parametrize("name", ["sampler", "step"])
def test_the_last_line_has_the_keys_and_counts_all_tokens(name):
    line = compare.run([sys.executable, "-m", f"benchmarks.{name}", *FLAGS], compare.ROOT)
    assert line.keys() >= KEYS
    assert line["tokens_per_step"] == 8 * 2 * 6 and line["mean_len_seen"] == 6
    if name == "step":
        assert set(line["split_s"]) == {"generate", "reward", "update"} and line["logprob_gap"] < 1e-4
        assert line["memory_mb"].keys() == {"plan", "program", "process"}


@pytest.mark.parametrize("mean", [16.0, 64.0])
def test_stop_tokens_give_the_mean_length_asked_for(mean):
    stops = workload.stop_tokens(4096, 128, mean)
    assert stops[-1] == 4095 and len(set(stops)) == len(stops)
    drawn = np.random.default_rng(0).geometric(len(stops) / 4096, 200_000)
    assert np.minimum(drawn, 128).mean() == pytest.approx(mean, rel=0.02)


def test_without_a_mean_nothing_stops_and_a_mean_that_cannot_be_is_refused():
    assert workload.stop_tokens(4096, 128, 0.0) == ()
    with pytest.raises(SystemExit, match="--mean-len"):
        workload.stop_tokens(4096, 128, 128.0)


def test_ratios_say_how_many_times_as_fast_ours_is():
    assert compare.ratios([4.0, 6.0], [2.0, 2.0], "tokens_per_s") == {"median": 2.5, "min": 2.0, "max": 3.0}
    assert compare.ratios([2.0, 2.0], [4.0, 6.0], "seconds_per_step") == {"median": 2.5, "min": 2.0, "max": 3.0}


def test_compare_runs_everybody_in_turn_and_tells_who_is_left_out(tmp_path, monkeypatch, capsys):
    ran = []

    def run(command, folder):
        ran.append((command[1].rpartition("/")[2], "--new=6" in command, "--micro-batches=8" in command))
        speed = 8.0 if command[1] == "-m" else 2.0
        return {"tokens_per_s": speed, "mean_len_seen": 6, "split_s": {}, "other_cores_busy": 0.0}

    monkeypatch.setattr(compare, "run", run)
    flags = ["--what=sampler", "--rounds=2", f"--bench-dir={tmp_path}", "--tunix-python=py", "--new=6"]
    compare.main([*flags, "--ours=--micro-batches=8 --set=rl.pack_length=488"])
    out = capsys.readouterr()
    assert ran == [("-m", True, True), ("sampler_tunix.py", True, False)] * 2
    assert "transformers is left out" in out.err and "tunix is left out" not in out.err
    assert json.loads(out.out)["sampler"]["times_as_fast"] == {"tunix": {"median": 4.0, "min": 4.0, "max": 4.0}}


def test_a_peer_that_fails_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="no such luck"):
        compare.run([sys.executable, "-c", "raise ValueError('no such luck')"], tmp_path)


def test_flops_and_bytes_by_hand():
    """One layer, D 2, N 2, K 1, H 3, F 5, V 7; P 2, R 2, C 3, T 2; 4 bytes a number."""
    from small import make_config

    model = make_config(
        model__num_layers=1, model__hidden_size=2, model__num_heads=2, model__num_kv_heads=1, model__head_dim=3,
        model__mlp_size=5, model__vocab_size=7,
    ).model  # fmt: skip
    weights = 2 * 6 + 6 * 2 + 2 * (2 * 3) + 3 * (2 * 5)  # q, o, k and v, gate and up and down
    assert weights == 66
    found = roofline.costs(model, P=2, R=2, C=3, T=2, size=4)
    assert found["prefill"][0].flops == 2 * (2 * 3 * 66 + 24 * 6)
    assert [cost.flops for cost in found["decode"]] == [4 * (2 * (66 + 14) + 24 * n) for n in (4, 5)]
    assert [cost.bytes for cost in found["decode"]] == [4 * (66 + 14) + (6 + 4 * t) * 2 * 3 * 4 for t in (1, 2)]
    assert found["scoring"][0].flops == 4 * (2 * (5 * 66 + 2 * 14) + 24 * 15)
    assert found["update"][0].flops == 3 * found["scoring"][0].flops

    model = make_config(
        model__num_layers=1, model__hidden_size=2, model__num_heads=2, model__num_kv_heads=1, model__head_dim=3,
        model__mlp_size=5, model__vocab_size=7, model__num_experts=4, model__experts_per_token=2,
    ).model  # fmt: skip
    (prefill,) = roofline.costs(model, P=2, R=2, C=3, T=2, size=4)["prefill"]
    router, mlp = 2 * 4, 3 * (2 * 5)
    assert prefill.flops == 2 * (2 * 3 * (36 + router + 2 * mlp) + 24 * 6)  # of the experts that a token goes through
    assert prefill.bytes == 4 * (36 + router + 4 * mlp) + 6 * 2 * 3 * 4


def test_costs_takes_turns_and_prints_ratios_and_goals(monkeypatch, capsys):
    ran = []

    def make_step(flags, mean, extra):
        def once(i):
            ran.append((flags.rpartition(" ")[2], i))
            return (3.0 if "--prompts=8" in flags else 2.0), 10

        return once

    monkeypatch.setattr(costs, "make_step", make_step)
    costs.main(["--what=batch", "--rounds=2", "--threads=0"])
    out = capsys.readouterr().out.splitlines()
    a, b = "--prompts=8", "--prompts=4"
    assert ran == [(a, 0), (b, 0), (a, 1), (b, 1), (a, 2), (b, 2)]
    assert out[0] == "batch: 3.000 s / 2.000 s = 1.5 (1.5 to 1.5), goal at most 1.8"
    assert json.loads(out[1])["batch"]["ratio"] == {"median": 1.5, "min": 1.5, "max": 1.5}


def test_costs_refuses_a_pair_that_it_does_not_know(capsys):
    with pytest.raises(SystemExit):
        costs.main(["--what=speed"])
    assert "--what is 'speed'; expected some of spread,maximum,group,batch" in capsys.readouterr().err


def test_blocks_are_counted_as_a_real_run_reads_them():
    """Refilled and compacted lanes, in a ring that goes round."""
    flags = [*FLAGS, "--mean-len=4"]
    args = workload.parser(None).parse_args([*flags, "--group=6", "--new=14"])
    args.set = ["rl.lanes=3", "rl.window=4"]
    counted, simulated = blocks.real(args, S=4)
    assert counted == simulated and counted.kernel < counted.loop and counted.tokens > 14


def test_tiles_by_hand(monkeypatch):
    """A prompt of 4 and responses of 6 and 2 in a row of 20, in blocks of 4; and each in a row of 10 with a prompt."""
    monkeypatch.setattr(splash, "BLOCK", 4)
    drawn = np.array([[6, 2]])
    assert tiles.pairs(drawn, 4) == 10 + (6 * 4 + 21) + (2 * 4 + 3)
    visited = 1 + 2 + 3 + 1 + 1  # by the prompt, the first response, the end of it with the second, and nothing
    whole = 2  # by the second and third to the prompt
    assert tiles.computed(drawn, prompt=4, most=6, room=2) == (visited * 16, 20, whole / visited)
    assert tiles.causal(drawn, prompt=4, most=6, block=4) == (2 * 6 * 16, 20)


def test_blocks_by_hand():
    """Two lanes, responses of 3, 1 and 2 tokens: the second lane starts the third response in column 1."""
    count = blocks.simulate(np.array([[3, 1, 2]]), m=2, S=2, tiers=())
    assert count == blocks.Count(
        kernel=1 + 1 + 1 + 1 + 2 + 2, loop=2 * (1 + 1 + 2), columns=1 + 2 + 3 + 1 + 1 + 2, tokens=3
    )


def test_the_same_text_whatever_the_maximum_and_prompts_kept_once():
    assert costs.stops(1024, 64.0) == tuple(range(1008, 1024)) and costs.stops(1024, 0.0) == ()
    pair = costs.PAIRS["group"]
    few, many = (costs.prompt_bytes(f"{pair.shared} {flags}") for flags in (pair.a, pair.b))
    assert many == 8 * few == 2 * 4 * 2 * 16 * 2 * 64 * 64


def test_all_parts_are_timed_on_a_small_shape(capsys, monkeypatch):
    monkeypatch.setattr(roofline, "ceilings", lambda *_: {"matmul": 1e9, "read": 1e9, "copy": 1e9})
    roofline.main(FLAGS)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(line["parts"]) == {"prefill", "decode", "scoring", "update"}
    assert line["parts"]["scoring"]["seconds"] > 0 and line["plan_mb"] >= 0


def test_the_host_scores_what_it_was_given(tmp_path, capsys):
    """Answers are right in turn; of 16 responses one loops and one is garbled."""
    words = "The sum of these {} numbers is even, so one of them, namely {}, must be twice the other; what is it?"
    rows = [{"problem": words.format(n, 7 * n), "answer": f"{n}"} for n in range(20)]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    host.main([str(tmp_path / "problems.jsonl"), "--responses=48", "--tokens=900", "--threads=0"])
    line = json.loads(capsys.readouterr().out)
    assert (line["right"], line["wrong"], line["garbled"]) == (24, 24, 3) and 3 <= line["repetition"] < 48
    assert line["seconds"] > 0 and line["parts_ms"].keys() == {"decoding", "repetition", "garbled"}
    with pytest.raises(SystemExit, match="--responses is 7; expected a multiple of 16"):
        host.main([str(tmp_path / "problems.jsonl"), "--responses=7"])


def test_ceilings_are_positive():
    found = roofline.ceilings("float32", (16, 32), (1,), times=1)
    assert set(found) == {"matmul", "read", "copy"} and min(found.values()) > 0


def test_a_point_of_the_plans_is_a_suggestion():
    found = plans.plan({"model": "qwen0p5b", "responses": 2, "length": 64, "chips": 2})
    assert found.fits and plans.row({"chips": 2}, "chips", found).startswith("| 2 | ")


def test_surprise_names_each_response_by_the_first_rule_that_fits_and_counts_percentiles():
    flags = {  # garbled; repetitive, right; overlong; unscorable; right; wrong twice
        "garbled_B": [1, 0, 0, 0, 0, 0, 0], "repetition_B": [1, 1, 0, 0, 0, 0, 0], "overlong_B": [0, 0, 1, 0, 0, 0, 0],
    }  # fmt: skip
    scores = SimpleNamespace(outcome_B=np.array([-1, 1, 0, -1, 1, 0, 0]), **{k: np.array(v) for k, v in flags.items()})
    kind_B = surprise.kinds(scores)
    assert [surprise.KINDS[kind] for kind in kind_B] == [*surprise.KINDS, "wrong"]
    found = surprise.rows(np.array([9.0, 1.0, 1.0, 1.0, 1.5, 2.0, 4.0]), kind_B)
    assert found["garbled"] == {"n": 1, "p1": 9.0, "p50": 9.0, "p95": 9.0, "p99": 9.0}
    assert found["wrong"]["n"] == 2 and found["wrong"]["p50"] == 3.0 and found["wrong"]["p95"] == pytest.approx(3.9)
    assert "| wrong | 2 | 2.02 | 3.00 | 3.90 | 3.98 |" in surprise.table("t", found)
    assert "right" not in surprise.rows(np.array([2.0]), np.array([5]))


def test_the_tokenizer_of_the_embedded_task_reads_the_same_in_hugging_faces_format(tmp_path):
    cfg = load(study.get_config())
    task = PairsTask(cfg.task)
    pieces = SentencePieceTokenizer(train_sentencepiece(task.corpus(200, 0), cfg.model.vocab_size, task.symbols()))
    mixing.reader(pieces.vocabulary).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(mixing.NAMED))
    found = HFTokenizer(tmp_path)
    assert (found.stop_ids, found.pad_id, found.vocab_size) == (pieces.stop_ids, pieces.pad_id, pieces.vocab_size)
    for index in range(100):
        problem = task.problem(index, "train")
        text = task.prompt(problem) + task.chain(problem, random.Random(index))
        assert found.encode(text) == pieces.encode(text) and found.decode([*found.encode(text), 1]) == text


def test_the_files_of_mixing_hold_what_they_say_and_their_golds_are_right(tmp_path):
    cfg = load(study.get_config())
    files = mixing.write_problems(cfg, tmp_path)
    rows = {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in files.items()}
    assert {name: len(of_file) for name, of_file in rows.items()} == mixing.SIZES | {"held_out": mixing.HELD_OUT}
    for name, numbers in (("few", 5), ("many", 8), ("held_out", 8)):
        assert {len(row["numbers"]) for row in rows[name]} == {numbers}
    assert not {row["problem"] for row in rows["many"]} & {row["problem"] for row in rows["held_out"]}
    row = {"numbers": [3, 5, 7], "target": 10}
    right = {"3+7": 1.0, "7+3": 1.0, "5+5": 0.0, "4+6": 0.0, "5+3": 0.0, "10+0": 0.0, "3+5+2": 0.0}
    assert {text: mixing.found("", f"\\boxed{{{text}}}", row) for text in right} == right
    assert mixing.found("", "3+7", row) == 0.0  # no box
    assert all(mixing.found("", f"\\boxed{{{row['answer']}}}", row) for of_file in rows.values() for row in of_file)


@pytest.mark.slow
def test_candidates_are_measured_with_the_model_of_the_folder(tmp_path, capsys):
    """configs/base.py has other sizes than it; and each response is counted once."""
    from random_qwen import make_folder

    knobs = (
        f"model.checkpoint={make_folder(tmp_path)}", "model.compute_dtype=float32", "mesh.data=-1", "mesh.fsdp=1",
        "data.prompt_length=192", "sft.sequence_length=256", "sft.batch_size=8", "sft.warmup_steps=1",
        "rl.prompts_per_step=8", "rl.responses_per_prompt=2", "rl.micro_batches=1", "rl.max_new_tokens=8",
        "rl.window=8", "eval.batch_size=24", "verifier.workers=1",
    )  # fmt: skip
    flags = ["--updates=2", "--prompts=2", "--responses=3", "--only=chain_sum,gcd"]
    candidates.main(["--config=base", *(f"--config.{knob}" for knob in knobs), *flags])
    rows = json.loads(capsys.readouterr().out)["candidates"]
    assert [row["dataset"] for row in rows] == ["chain_sum", "gcd"]
    for row in rows:
        assert row["n"] == 2 * 3 and row["mixed"] in (0, 0.5, 1) and row["update_seconds"] > 0
        assert row["accuracy"] * 6 == pytest.approx(round(row["accuracy"] * 6)) and row["response_tokens"] <= 8
        assert row["accuracy"] <= row["boxed"] <= 1  # nothing is right without a box


def test_persistence_compares_seed_by_seed_and_bans_where_it_says():
    """Sums of three numbers by hand: means 20 and 18, of 10, 20, 30 and 9, 17, 28; the mean difference is 2."""
    banned, after = (
        [dict.fromkeys(persistence.COLUMNS, value) for value in values] for values in ((9.0, 17.0, 28.0), (10, 20, 30))
    )
    lines = persistence.table(banned, after).splitlines()
    assert lines[2].startswith("| cold start, forbidden to give up | 18.0 [")
    assert lines[3].startswith("| after RL | 20.0 [")
    assert lines[4].startswith("| difference | +2.0 [-0.5, +4.5] |")  # 2 +- 4.303 / sqrt(3)

    asked = []

    class Evaluator:
        def respond(self, params, name, questions, forbid_giving_up):
            asked.append((params, name, questions, forbid_giving_up))
            return [SimpleNamespace(overlong=overlong) for overlong in (False, False, False, True)]

    summary = {"accuracy": 0.5, "false_claims": 0.25, "gave_up": 0.0, "response_length": 12.0}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("t1jax.evaluation.figures.summary", lambda _: summary | {"skills": {"arithmetic": 0.9}})
        found = [persistence.measured(Evaluator(), "weights", "questions", ban) for ban in (True, False)]
    assert asked == [("weights", "forbidden", "questions", True), ("weights", "held_out", "questions", False)]
    expected = zip(persistence.COLUMNS, (50, 25, 0, 25, 90, 12), strict=True)
    assert found[0] == found[1] == pytest.approx(dict(expected))


def test_persistence_names_a_folder_without_finished_runs(tmp_path, monkeypatch):
    (tmp_path / "runs/base/seed0").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["persistence", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"no finished run in runs/base; expected what t1jax\.study"):
        persistence.main()
    (tmp_path / "runs/many/seed0").mkdir(parents=True)
    (tmp_path / "runs/many/seed0/trial.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["persistence", str(tmp_path), "few"])
    with pytest.raises(SystemExit, match="no finished run in runs/few; expected one of many"):
        persistence.main()
