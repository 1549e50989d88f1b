# SPDX-License-Identifier: Apache-2.0
"""Verdicts of the whole verifier, and that nothing an answer does to a worker costs more than that answer.

Tests of what goes wrong use a stub in the place of math-verify: it does what the answer says.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from t1jax import validation
from t1jax.config import ConfigError, VerifierConfig
from t1jax.rewards import answers, notation, precheck
from t1jax.rewards import pool as pool_module
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG
from t1jax.rewards.pool import _Batch as Batch
from t1jax.rewards.process import Died, Worker
from t1jax.rewards.verifier import Verifier

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parents[3] / "shared" / "data"
DEFAULT = VerifierConfig(workers=2, deadline=3.0, memory=1024, recycle=5000)
QUICK = VerifierConfig(workers=2, deadline=0.5, memory=1024, recycle=5000)
HANGS = "\\binom{100000000}{50000000}"  # one multiplication after the other, in C

STUB = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from t1jax.rewards import worker

def compare(answer, gold):
    word, _, number = answer.partition(" ")
    if word == "spin":
        while True:
            pass
    elif word == "stuck":  # signals and threads of Python wait until this is done
        9 ** 10**9
    elif word == "sleep":
        time.sleep(float(number))
    elif word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "exit":
        os._exit(0)
    elif word == "eat":
        bytearray(int(number) * 2**20)
    elif word == "print":
        print("1", flush=True), os.write(1, b"1" * 100), os.write(2, b"1" * 200_000)
    elif word == "environment":
        return int(os.environ["JAX_PLATFORMS"] == "cpu" and os.environ["CUDA_VISIBLE_DEVICES"] == "")
    elif word == "pid":
        return int(str(os.getpid()) == gold)
    elif word == "raise":
        raise {{"memory": MemoryError, "depth": RecursionError}}[number]
    return int(gold == "right")

worker.compare = compare
worker.main(sys.argv[1:])
"""


@pytest.fixture
def stub(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "stub.py"
    path.write_text(STUB.format(root=str(ROOT)))
    monkeypatch.setattr(pool_module, "PROGRAM", path)
    return path


@pytest.fixture(scope="module")
def real():
    with Verifier(DEFAULT) as shared:
        yield shared


def runs(pid: int) -> bool:
    """Whether the process is there; what ended and was not yet waited for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: list[int], within: float) -> bool:
    until = time.monotonic() + within
    while any(map(runs, pids)):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def pids(pool: Verifier) -> list[int]:
    return [worker.process.pid for worker in pool._workers]


TABLE = [
    # lists, sets, intervals, pairs
    ("5, 6", "5", WRONG),
    ("5 or 6", "6", WRONG),
    ("\\text{The answer is 5, not 6}", "5", WRONG),
    ("\\{5, 6\\}", "6, 5", RIGHT),
    ("2\\text{ and }3", "2,3", RIGHT),
    ("\\{1, 2\\}", "\\{1, 2, 3\\}", WRONG),
    ("(1,2)", "[1,2]", WRONG),
    ("[1,2)", "\\left[1, \\frac{4}{2}\\right)", RIGHT),
    ("(1,2)", "(2,1)", WRONG),
    ("(1,000)", "1000", WRONG),
    ("(1,000)", "1,000", WRONG),
    ("(-\\infty, 1) \\cup (1, \\infty)", "(1,\\infty) \\cup (-\\infty,1)", RIGHT),
    ("\\left(\\frac12, 3\\right)", "(0.5,3)", RIGHT),
    ("x \\in [1,2]", "[1,2]", RIGHT),
    ("\\pm 3", "3, -3", RIGHT),
    # numbers
    ("142.0", "142", RIGHT),
    ("1{,}234", "1234", RIGHT),
    ("\\frac12", "0.5", RIGHT),
    ("0.333333", "\\frac13", RIGHT),
    ("1\\frac{1}{2}", "\\frac{3}{2}", RIGHT),
    ("15", "15\\%", RIGHT),
    ("15\\%", "0.15", RIGHT),
    ("15\\%", "0.16", WRONG),
    ("5\\text{ cm}", "5", RIGHT),
    ("60^\\circ", "60", RIGHT),
    ("60^\\circ", "\\frac{\\pi}{2}", WRONG),
    ("2^{10}", "1024", RIGHT),
    ("5!", "120", RIGHT),
    ("5:6", "\\frac{5}{6}", RIGHT),
    ("x=5", "5", RIGHT),
    ("5", "x = 5", RIGHT),
    ("$5$", "x=5", RIGHT),
    ("5\\text{ apples}", "5", RIGHT),
    ("not 5", "5", WRONG),
    # algebra
    ("\\sqrt{8}", "2\\sqrt{2}", RIGHT),
    ("\\frac{1}{\\sqrt 2}", "\\frac{\\sqrt{2}}{2}", RIGHT),
    ("(x+1)^2", "x^2+2x+1", RIGHT),
    ("(x+1)^2", "x^2+2x+2", WRONG),
    ("2n+1", "2k+1", WRONG),
    ("y = 2x+1", "2x + 1 = y", RIGHT),
    ("1+2i", "2i+1", RIGHT),
    ("\\log_2 8", "3", RIGHT),
    ("\\infty", "-\\infty", WRONG),
    ("\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "\\begin{pmatrix}1 & 2 \\\\ 3 & \\frac{8}{2}\\end{pmatrix}", RIGHT),
    ("\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "\\begin{pmatrix}1 & 3 \\\\ 2 & 4\\end{pmatrix}", WRONG),
    ("c + a + b", "a + b + c", RIGHT),
    ("a + b", "a + b + c", WRONG),
    ("\\frac{1}{29322216}", "\\dfrac{1}{29,\\!322,\\!216}", RIGHT),
    # text
    ("\\text{east}", "\\mathrm{east}", RIGHT),
    ("\\text{yes}", "\\text{no}", WRONG),
    ("D", "\\text{(D)}", RIGHT),
    ("\\text{None of the above}", "5", WRONG),
    ("5?", "5", WRONG),
    ("\\approx \\frac{1}{2}", "\\frac{1}{2}", WRONG),  # never a number out of a text
    ("$x+1$? no: $x+2$", "x+2", WRONG),
    ("", "5", WRONG),
    # characters that are no text
    ("5\0", "5", RIGHT),
    ("\ud800", "5", WRONG),
    ("x\ud800+1\0", "1+x", RIGHT),
    # nothing to compare with, or too much
    ("5", "", UNSCORABLE),
    ("9^{9^{9^9}}", "5", UNSCORABLE),
    ("100000000!", "5", UNSCORABLE),
]


@pytest.mark.parametrize("answer, gold, outcome", TABLE)
def test_verdicts(real, answer, gold, outcome):
    assert real.check([(answer, gold)]) == [outcome]


def test_the_last_box_counts(real):
    response = "so \\boxed{6}. Wait, I forgot one: \\boxed{x+2}"
    answer = answers.final_answer(response)
    assert real.check([(answer, "2+x"), (answer, "6")]) == [RIGHT, WRONG]


def test_outcomes_stand_in_the_order_of_the_pairs(real):
    pairs = [(answer, gold) for answer, gold, _ in TABLE]
    assert real.check(pairs + pairs[::-1]) == [row[2] for row in TABLE] + [row[2] for row in TABLE][::-1]
    assert real.check([]) == []


GOLDS = {  # file -> rows
    "gsm8k_train.jsonl": 7473,
    "gsm8k_test.jsonl": 1319,
    "math500.jsonl": 500,
    "aime24.jsonl": 30,
    "math_train.json": 7474,
    "aime_1983_2023.json": 975,
    "amc83.json": 83,
}
NO_GOLD = {("math_train.json", row): "the file has an empty answer" for row in (5328, 5330)}
NOT_READ = {  # golds that only equal text can match -> why math-verify does not find them equal to themselves
    "": "empty",
    "05:00": "a ratio with a divisor of zero",
    "\\approx 8.24 \\text{ mph}": "\\approx is not read",
}


def golds_of(name: str) -> list[str]:
    text = (DATA / name).read_text(encoding="utf-8")
    rows = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    return [str(row["answer"]).rpartition("####")[2].strip() for row in rows]


@pytest.mark.skipif(
    not DATA.is_dir(), reason=f"{DATA} is missing: put gsm8k_test.jsonl (GSM8K) and math_train.json (MATH) there"
)
@pytest.mark.parametrize("name", GOLDS)
def test_every_gold_verifies_against_itself(real, name):
    golds = golds_of(name)
    assert len(golds) == GOLDS[name]
    boxed = [answers.final_answer(f"so $\\boxed{{{gold}}}$.") for gold in golds]
    outcomes = real.check([(answer, gold) for answer, gold in zip(boxed, golds, strict=True)])
    failed = {(name, row) for row, outcome in enumerate(outcomes) if outcome != RIGHT}
    assert failed == {key for key in NO_GOLD if key[0] == name}


@pytest.mark.slow
@pytest.mark.skipif(
    not DATA.is_dir(), reason=f"{DATA} is missing: put gsm8k_test.jsonl (GSM8K) and math_train.json (MATH) there"
)
def test_every_gold_verifies_against_itself_by_math_verify_alone(real):
    """Without the comparison of text, which any gold passes."""
    golds = {notation.rewrite(gold) for name in GOLDS for gold in golds_of(name) if not gold.lstrip("-").isdigit()}
    outcomes = real._compare({(gold, gold) for gold in golds})
    assert len(golds) > 2000
    assert {gold for (gold, _), outcome in outcomes.items() if outcome != RIGHT} == set(NOT_READ)


def test_a_gold_that_math_verify_cannot_read_is_compared_as_text(real):
    before = real.counts()["unread"]
    gold = "f: A \\to B \\text{ is onto}"
    others = ["f:A\\to B\\text{ is Onto.}", "f: A \\to C \\text{ is onto}", "5", ""]
    assert real.check([(answer, gold) for answer in others]) == [RIGHT, WRONG, WRONG, WRONG]
    assert real.counts()["unread"] == before + 3  # equal text is not asked
    assert real.explain([("5", gold)]) == [(WRONG, precheck.AS_TEXT)]


def test_which_golds_can_be_compared_by_value(real):
    golds = ["5", "(B)", "x+1", "x+1", "\\text{three}", "f: A \\to B", "2, 4, \\ldots", "9^{9^{9^9}}", ""]
    assert real.comparable(golds) == [True, True, True, True, True, False, False, False, False]
    assert real.comparable([]) == []


def test_cached_and_duplicate_pairs_are_compared_once(stub):
    with Verifier(QUICK) as pool:
        assert pool.check([("x", "right"), ("x", "right"), ("5", "5"), (" $x$", "right"), ("x", "wrong")]) == [
            RIGHT,
            RIGHT,
            RIGHT,
            RIGHT,
            WRONG,
        ]
        expected = {"checked": 5, "cached": 2, "quick": 1, "refused": 0, "compared": 2, "timed_out": 0, "crashed": 0}
        assert pool.counts() | expected == pool.counts()
        assert pool.check([("x", "wrong"), ("y", "right")]) == [WRONG, RIGHT]
        assert pool.counts() | {"checked": 7, "cached": 3, "compared": 3} == pool.counts()


def test_the_cache_forgets_the_oldest(stub, monkeypatch):
    monkeypatch.setattr(Verifier, "kept", 2)
    with Verifier(QUICK) as pool:
        for answer in ("a", "b", "a", "c", "a", "b"):  # b is the oldest when c comes
            pool.check([(answer, "right")])
        assert pool.counts() | {"compared": 4, "cached": 2} == pool.counts()


def test_nothing_starts_before_a_pair_needs_it(stub):
    with Verifier(DEFAULT) as pool:
        assert pool.check([("5", "5"), ("1/2", "0.5"), ("6", "5")]) == [RIGHT, RIGHT, WRONG]
        assert pool.counts()["started"] == 0
        pool.check([("x", "right")])
        assert pool.counts()["started"] == 1


@pytest.mark.parametrize("answer", ["spin", "stuck", "sleep 100"])
def test_a_hung_answer_costs_one_deadline_and_no_other_answer(stub, caplog, monkeypatch, answer):
    monkeypatch.setattr(validation, "WALL", 4)
    with Verifier(VerifierConfig(workers=1, deadline=0.5, memory=1024, recycle=5000)) as pool:
        pool.check([("warm", "right")])
        start = time.monotonic()
        before = [(f"a{i}", "right") for i in range(20)]
        after = [(f"longer than the one that hangs {i}", "right") for i in range(20)]
        with caplog.at_level(logging.WARNING):
            outcomes = pool.check([*before, (answer, "right"), *after])
        assert outcomes == [RIGHT] * 20 + [UNSCORABLE] + [RIGHT] * 20
        assert time.monotonic() - start >= 0.5
        assert pool.counts() | {"timed_out": 1, "crashed": 0, "compared": 41, "started": 2} == pool.counts()
        assert len(caplog.records) == 1 and "hung on 1 and died on 0" in caplog.text and answer in caplog.text
        before = pool.counts()
        assert pool.check([(answer, "right")]) == [UNSCORABLE]  # known by now
        assert pool.counts() | {"timed_out": 1, "cached": before["cached"] + 1} == pool.counts()


@pytest.mark.skipif(
    sys.platform != "linux", reason="/proc is missing, which tells another process's processor time: run it on Linux"
)
def test_a_worker_that_gets_no_time_loses_no_answer(stub):
    """As on a loaded machine: three times the deadline passes while the worker stands still."""
    with Verifier(VerifierConfig(workers=1, deadline=0.4, memory=1024, recycle=5000)) as pool:
        pool.check([("warm", "right")])
        (pid,) = pids(pool)
        os.kill(pid, signal.SIGSTOP)
        later = threading.Timer(1.2, os.kill, (pid, signal.SIGCONT))
        later.start()
        start = time.monotonic()
        assert pool.check([("a", "right")]) == [RIGHT]
        assert time.monotonic() - start >= 1.0
        assert pool.counts() | {"timed_out": 0, "started": 1} == pool.counts()


@pytest.mark.skipif(
    sys.platform != "linux", reason="/proc is missing, which tells another process's processor time: run it on Linux"
)
def test_what_burns_processor_time_is_killed_at_the_deadline_and_what_sleeps_is_not(stub):
    with Verifier(VerifierConfig(workers=1, deadline=0.4, memory=1024, recycle=5000)) as pool:
        assert pool.check([("sleep 1", "right")]) == [RIGHT]  # the processor time is not spent
        (pid,) = pids(pool)
        before = cpu(pid)
        watcher = Watcher(pid)
        watcher.start()
        assert pool.check([("spin", "right")]) == [UNSCORABLE]
        watcher.join()
        assert 0.35 <= watcher.used - before <= 0.8
        assert pool.counts()["timed_out"] == 1


def cpu(pid: int) -> float:
    """Seconds of processor time of a process, as resource.getrusage would give them."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Watcher(threading.Thread):
    """Looks at a process until it is gone."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.used = pid, 0.0

    def run(self):
        while runs(self.pid):
            self.used = max(self.used, cpu(self.pid))
            time.sleep(0.01)


@pytest.mark.parametrize("answer", ["die", "exit", "raise memory", "raise depth", "eat 2000"])
def test_a_dead_worker_costs_its_answer_only(stub, answer):
    with Verifier(QUICK) as pool:
        pairs = [("a", "right"), (answer, "right"), ("b", "wrong"), ("c", "right")]
        assert pool.check(pairs) == [RIGHT, UNSCORABLE, WRONG, RIGHT]
        assert pool.counts() | {"crashed": 1, "timed_out": 0, "compared": 3} == pool.counts()


def test_memory_below_the_cap_is_fine(stub):
    with Verifier(DEFAULT) as pool:
        assert pool.check([("eat 500", "right")]) == [RIGHT]


def test_a_worker_killed_from_outside_is_replaced(stub):
    with Verifier(VerifierConfig(workers=1, deadline=20.0, memory=1024, recycle=5000)) as pool:
        pool.check([("warm", "right")])
        (first,) = pids(pool)
        killer = threading.Timer(0.3, os.kill, (first, signal.SIGKILL))
        killer.start()
        start = time.monotonic()
        assert pool.check([("sleep 10", "right"), ("a longer answer", "right")]) == [UNSCORABLE, RIGHT]
        assert time.monotonic() - start < 5
        os.kill(*pids(pool), signal.SIGKILL)  # while it is idle
        assert pool.check([("next", "right")]) == [UNSCORABLE]
        assert pool.check([("next", "right")]) == [RIGHT]  # a crash is not remembered


def test_what_a_library_prints_is_no_answer(stub):
    with Verifier(QUICK) as pool:
        assert pool.check([("print", "wrong"), ("a", "right")]) == [WRONG, RIGHT]
        assert pool.counts()["crashed"] == pool.counts()["timed_out"] == 0


def test_workers_see_no_accelerator(stub, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with Verifier(QUICK) as pool:
        assert pool.check([("environment", "x")]) == [RIGHT]


def test_workers_are_recycled(stub):
    with Verifier(VerifierConfig(workers=1, deadline=5.0, memory=1024, recycle=3)) as pool:
        assert pool.check([(f"a{i}", "right") for i in range(7)]) == [RIGHT] * 7
        assert pool.counts()["started"] == 3
        assert len(pids(pool)) == 1


def test_a_batch_that_hangs_again_and_again_gets_shorter_deadlines(stub, monkeypatch):
    deadlines = []

    def hang(worker, question, deadline, times):
        deadlines.append(deadline)
        raise Died(timed_out=True)

    with Verifier(VerifierConfig(workers=1, deadline=1.6, memory=1024, recycle=5000)) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(Worker, "ask", hang)
            assert pool.check([(f"a{i}", "right") for i in range(18)]) == [UNSCORABLE] * 18
            assert deadlines == [1.6] * 4 + [0.8] * 4 + [0.4] * 4 + [0.2] * 6
            assert pool.check([("b", "right")]) == [UNSCORABLE]
            assert deadlines[18:] == [1.6]  # the next batch has the whole deadline again
        compared = pool.counts()["compared"]
        assert pool.check([("a0", "right"), ("a17", "right")]) == [UNSCORABLE, RIGHT]  # a short deadline is not final
        assert pool.counts()["compared"] == compared + 1


def test_what_nobody_waits_for_is_not_compared(stub):
    """As after Ctrl-C: the rest of a batch must not keep the workers busy."""
    with Verifier(VerifierConfig(workers=1, deadline=5.0, memory=1024, recycle=5000)) as pool:
        batch = Batch([("a", "right")])
        batch.over.set()
        pool._jobs.put((("a", "right"), batch))
        assert pool.check([("b", "right")]) == [RIGHT]
        assert pool.counts()["compared"] == 1


def test_many_threads_share_the_workers(stub):
    with Verifier(DEFAULT) as pool:
        found: dict[int, list] = {}

        def ask(thread: int) -> None:
            found[thread] = pool.check([(f"t{thread} {i}", "right" if i % 3 else "wrong") for i in range(30)])

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == {n: [RIGHT if i % 3 else WRONG for i in range(30)] for n in range(8)}
        assert pool.counts()["started"] == 2


def test_close_ends_the_workers_and_whoever_waits(stub):
    pool = Verifier(VerifierConfig(workers=2, deadline=60.0, memory=1024, recycle=5000))
    others = set(threading.enumerate())
    errors = []

    def ask() -> None:
        try:
            pool.check([("spin", "right"), ("sleep 50", "right"), ("a longer one", "right")])
        except RuntimeError as error:
            errors.append(str(error))

    pool.check([("a", "right"), ("b", "right")])
    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)  # both are busy now
    started = pids(pool)
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 10
    thread.join(5)
    assert errors == ["the verifier is closed"] and len(started) == 2
    assert gone(started, within=0)
    assert set(threading.enumerate()) == others
    with pytest.raises(RuntimeError, match="closed"):
        pool.check([("x", "right")])
    pool.close()


@pytest.mark.parametrize(
    "program, memory, problem",
    [
        ("import no_such_module", 1024, "No module named 'no_such_module'"),
        ("import sys; sys.exit(3)", 1024, "exit status 3: it said nothing"),
        (None, 8, "verifier.memory is 8 MiB"),
    ],
    ids=["import", "exit", "memory"],
)
def test_workers_that_never_start_are_one_clear_error(tmp_path, monkeypatch, program, memory, problem):
    if program:
        (tmp_path / "bad.py").write_text(program)
        monkeypatch.setattr(pool_module, "PROGRAM", tmp_path / "bad.py")
    with Verifier(VerifierConfig(workers=2, deadline=1.0, memory=memory, recycle=5000)) as pool:
        for _ in range(2):
            with pytest.raises(ConfigError, match="does not start") as caught:
                pool.check([(f"x+{i}", "y") for i in range(10)])
            assert problem in str(caught.value) and "\n" not in str(caught.value)
        assert pool.counts()["started"] <= 4
        assert pool.check([("5", "5")]) == [RIGHT]


def test_a_missing_math_verify_is_named(tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text("raise ModuleNotFoundError(\"No module named 'math_verify'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Verifier(QUICK) as pool, pytest.raises(ConfigError, match="No module named 'math_verify'.*install"):
        pool.check([("x", "y")])


PROGRAM = """
import os, sys, threading, time
from pathlib import Path
print("main", flush=True)
sys.path.insert(0, {root!r})
from t1jax.config import VerifierConfig
from t1jax.rewards import pool, verifier
pool.PROGRAM = Path({stub!r})
pool = verifier.Verifier(VerifierConfig(workers=3, deadline=30.0, memory=1024, recycle=5000))
pool.check([("a", "right"), ("b", "right"), ("c", "right")])
threading.Thread(target=pool.check, args=([("spin", "right"), ("stuck", "right")],), daemon=True).start()
time.sleep(0.3)
print(*[worker.process.pid for worker in pool._workers], flush=True)
{end}
"""


@pytest.mark.parametrize(
    "end, status",
    [
        ("", 0),
        ("sys.exit(7)", 7),
        ("raise ValueError", 1),
        ("os.kill(os.getpid(), 9)", -9),
        ("os.kill(os.getpid(), 15)", -15),
        ("if os.fork(): os._exit(0)\ntime.sleep(5)", 0),  # a child of the program holds its pipes open
    ],
    ids=["end", "exit", "error", "SIGKILL", "SIGTERM", "fork"],
)
def test_no_worker_outlives_the_program(tmp_path, stub, end, status):
    """Idle, spinning and stuck workers; the program's own main runs once."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM.format(root=str(ROOT), stub=str(stub), end=end)))
    start = time.monotonic()
    with open(tmp_path / "out", "w+") as out:
        done = subprocess.run(
            [sys.executable, str(path)], stdout=out, stderr=subprocess.DEVNULL, timeout=60, cwd=tmp_path
        )
        assert done.returncode == status
        assert time.monotonic() - start < 20
        out.seek(0)
        main, started = out.read().splitlines()
    assert main == "main" and len(started.split()) == 3
    assert gone([int(pid) for pid in started.split()], within=3)


def test_it_answers_from_inside_a_compiled_program(stub):
    """Eight devices ask at once, each from its own callback."""
    jax = pytest.importorskip("jax", reason="jax is missing: pip install -r requirements.txt")
    from jax.experimental import io_callback

    with Verifier(DEFAULT) as pool:

        def ask(rows: np.ndarray) -> np.ndarray:
            return np.array(pool.check([(f"a{n}", "right" if n % 2 else "wrong") for n in rows]), np.int32)

        def shard(rows):
            return io_callback(ask, jax.ShapeDtypeStruct(rows.shape, np.int32), rows)

        mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        spec = jax.sharding.PartitionSpec("data")
        mapped = jax.shard_map(shard, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        outcomes = jax.jit(mapped)(np.arange(32, dtype=np.int32))
        assert outcomes.tolist() == [n % 2 for n in range(32)]
        assert pool.counts()["compared"] == 32


def test_a_worker_imports_no_jax():
    program = (
        "import sys; from t1jax.rewards import worker; assert worker.compare('x+1', '1+x') == 1;"
        "sys.exit(bool({'jax', 'flax', 'torch', 'ml_collections', 't1jax.config'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_math_verify_itself_is_killed_when_it_hangs():
    cfg = VerifierConfig(workers=1, deadline=1.0, memory=1024, recycle=5000)
    with Verifier(cfg) as pool:
        assert pool.check([("x+1", "1+x")]) == [RIGHT]
        start = time.monotonic()
        assert pool.check([(HANGS, "5"), ("\\sqrt{8} + 0 \\cdot x \\cdot y \\cdot z", "2\\sqrt{2}")]) == [
            UNSCORABLE,
            RIGHT,
        ]
        assert time.monotonic() - start < validation.WALL * cfg.deadline + 20  # it may get little of the processor
        assert pool.counts()["timed_out"] + pool.counts()["crashed"] == 1


def hostile(n: int) -> str:
    """The n-th of endless different pathological answers."""
    nested = f"{n}"
    for _ in range(500):
        nested = f"\\frac{{1}}{{1+{nested}}}"
    kinds = (
        f"{n}+9^{{9^{{9^9}}}}",
        f"{100_000_000 + n}!",
        nested,
        "\\{" + ",".join(str(i) for i in range(n, n + 3000)) + "\\}",
        f"{n}" + "7" * 200_000,
        f"\0{n}\0x",
        f"\ud800{n}\udfff",
        f"{n}" + "{" * 2000,
        f"{n}" + "}" * 2000,
        f"((({n}!)!)!)!",
        f"{n}^{{{n}000000000}}",
        f"\\sqrt{{{n}" + "(" * 300,
    )
    return kinds[n % len(kinds)]


def test_some_pathological_answers_at_once():
    with Verifier(DEFAULT) as pool:
        pairs = [(hostile(n), "x^2+1") for n in range(48)]
        start = time.monotonic()
        outcomes = pool.check([*pairs, ("1+x^2", "x^2+1")])
        assert outcomes[-1] == RIGHT and RIGHT not in outcomes[:-1]
        assert time.monotonic() - start < 60


@pytest.mark.slow
def test_2048_pathological_answers_at_once_take_less_than_a_minute():
    pool = Verifier(DEFAULT)
    pairs = [(hostile(n), "5" if n % 2 else "x^2+1") for n in range(2048)]
    start = time.monotonic()
    outcomes = pool.check(pairs)
    started = pids(pool)
    pool.close()
    assert time.monotonic() - start < 60
    assert RIGHT not in outcomes and len(outcomes) == 2048
    assert started and gone(started, within=0)
