# SPDX-License-Identifier: Apache-2.0
"""Endpoints that answer, well or badly, over real HTTP on this machine: what is tried again, paid for, given up."""

from __future__ import annotations

import dataclasses
import gc
import gzip
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import bad_server as bad
import pytest
from asking import LONG, config_of, endpoint_threads, requests_of
from bad_server import BadServer, chunk, events, ok

from t1jax.config import ConfigError
from t1jax.host.stopping import Stopped
from t1jax.synthesis import endpoints, exchange, limits
from t1jax.synthesis.endpoints import EndpointWriter
from t1jax.synthesis.ledger import Ledger, Totals
from t1jax.synthesis.limits import Limiter
from t1jax.synthesis.writers import Completion, Failure, Request

SECRET = "sk-0123456789abcdefghijklmnop"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Retries at once; nothing of the environment's own endpoints."""
    monkeypatch.setattr(limits, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("A_KEY", SECRET)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "out.ledger.jsonl") as found:
        yield found


def write(server, ledger, count=1, **changes):
    """request key -> what became of it."""
    writer = EndpointWriter("big", config_of(server, **changes), ledger)
    return {request.key: result for request, result in writer.write(requests_of(count))}


def one(script, ledger, **changes):
    """What becomes of a single request, and how often it was sent."""
    with BadServer(script) as server:
        (result,) = write(server, ledger, **changes).values()
        return result, len(server.bodies)


def then_ok(*first):
    """These behaviours, and answers from then on."""
    return lambda number, _: first[number] if number < len(first) else ok()


def test_an_answer_has_text_counts_and_cost_and_the_server_was_asked_as_told(ledger):
    request = Request("attempt/9", ({"role": "system", "content": "s"}, {"role": "user", "content": "u"}), 77, 0.3, 12)
    with BadServer(ok("fo", "", "ur")) as server:
        writer = EndpointWriter("big", config_of(server, key_variable="A_KEY"), ledger)
        assert writer.name == "big"
        assert list(writer.write([request])) == [
            (request, Completion("four", "a-model-1", 7, 5, (7 * 2 + 5 * 10) / 1e6, "stop"))
        ]
        (body,), (headers,) = server.bodies, server.headers
    assert body == {
        "model": "m", "messages": [dict(message) for message in request.messages], "max_tokens": 77,
        "temperature": 0.3, "seed": 12, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert writer.spent == Totals(1, 0, 7, 5, 64e-6, 0) == ledger.totals()["big", "m"]


def test_an_endpoint_gets_its_own_key_or_none(ledger, monkeypatch):
    """openai would take them from its own variables, for whatever server."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "sk-of-another")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer sk-of-another")
    with BadServer(ok()) as server:
        write(server, ledger)
        write(server, ledger, key_variable="A_KEY", model="n")
        first, second = server.headers
    assert "sk-of-another" not in f"{first} {second}"
    assert "authorization" not in first and second["authorization"] == f"Bearer {SECRET}"


PASSING = {
    "429": bad.error(429, "slow down", "rate_limit_exceeded"),
    "429 without a body": bad.status(429),
    "408": bad.status(408),
    "409": bad.status(409),
    "500": bad.status(500, b"<html>oh no</html>", "text/html"),
    "503": bad.status(503),
    "529": bad.status(529),
    "a large error": bad.large(8 * 2**20, 500),
    "a stream that ends in the middle": events(chunk("so"), done=False),
    "a stream without an end": events(chunk("so")),
    "a connection that closes in a chunk": bad.cut,
    "a connection that is reset": bad.reset,
    "JSON that is none": events(chunk("so"), '{"id": '),
    "bytes that are no text": bad.behaviour(
        lambda handler, _: (handler.begin_stream(), handler.part(b"data: \xff\xfe\n\n"), handler.finish_stream())
    ),
    "JSON that is too deep": events("[" * 100_000),
    "JSON of another kind": events("17", "[1]", "null", '"text"', "{}"),
    "an error in the stream": events(chunk("so"), {"error": {"message": "overloaded", "code": 502}}),
    "another content type": bad.status(200, {"choices": [{"message": {"content": "hi"}}]}),
    "a web page": bad.status(200, b"<html>log in</html>", "text/html"),
    "a packed stream, which might unpack to anything": bad.status(
        200, gzip.compress(b'data: {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}\n\n'),
        "text/event-stream", Content_Encoding="gzip",
    ),
    "no choices": events(chunk(usage=(7, 0))),
    "an empty answer": bad.status(200, b"", "text/event-stream"),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again_and_counted(ledger, name):
    with BadServer(then_ok(PASSING[name], PASSING[name])) as server:
        writer = EndpointWriter("big", config_of(server), ledger)
        ((_, result),) = writer.write(requests_of(1))
        assert len(server.bodies) == 3 and server.bodies[0] == server.bodies[2]
    assert result == Completion("re: q0", "a-model-1", 7, 5, 64e-6, "stop")
    assert writer.spent == Totals(1, 2, 7, 5, 64e-6, 0) == ledger.totals()["big", "m"]


@pytest.mark.parametrize("hang", [bad.hang_before, bad.hang_within, bad.drip_before, bad.drip_within])
def test_silence_is_tried_again(ledger, hang):
    with BadServer(then_ok(hang)) as server:
        (result,) = write(server, ledger, timeout=0.4, retries=20).values()  # a busy machine may need some more
        assert result.text == "re: q0" and len(server.bodies) >= 2 and not server.ran_out


def test_an_answer_without_end_is_left(ledger, monkeypatch):
    monkeypatch.setattr(exchange, "SLOWEST", 0.5)  # times the timeout
    with BadServer(then_ok(bad.endless)) as server:
        (result,) = write(server, ledger, timeout=0.8, retries=20).values()
        assert result.text == "re: q0" and len(server.bodies) >= 2 and not server.ran_out


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("429", "Error code: 429 - slow down"),
        ("503", "Error code: 503"),
        ("a connection that is reset", r"no connection: [A-Za-z]+(: \S.*)?"),
        ("a stream without an end", "the stream broke off"),
        ("JSON that is none", "invalid JSON in the stream"),
        ("an error in the stream", "in the stream: overloaded"),
        ("another content type", "an answer of type application/json; expected text/event-stream"),
        ("no choices", "an answer without choices"),
    ],
)
def test_after_its_retries_a_request_is_given_up_in_a_line_and_not_kept(ledger, name, says):
    result, sent = one(PASSING[name], ledger)
    assert isinstance(result, Failure) and result.passing and sent == 3
    assert re.fullmatch(rf"big: {says}; given up after 3 tries", result.reason), result.reason
    assert len(ledger) == 0
    assert one(ok(), ledger)[0].text == "re: q0"


def test_nobody_there_is_a_failure_too(ledger):
    with BadServer(ok()) as server:
        pass
    (result,) = write(server, ledger).values()
    assert re.search("no connection: .*; given up after 3 tries", result.reason)


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_request_that_is_refused_is_not_sent_again(ledger, code):
    result, sent = one(bad.error(code, "too\nlong \x1b[2J"), ledger)
    assert result == Failure(f"big: Error code: {code} - too long \ufffd[2J") and sent == 1 and len(ledger) == 0


@pytest.mark.parametrize("code", [401, 403, 404, 307])
def test_a_wrong_key_url_or_model_ends_the_run(ledger, code):
    script = then_ok(ok(), ok(), bad.error(code, "no such thing", Location="http://127.0.0.1:9/v1"))
    with BadServer(script) as server:
        writer = EndpointWriter("big", config_of(server, key_variable="A_KEY"), ledger)
        found = []
        with pytest.raises(ConfigError) as error:
            found.extend(writer.write(requests_of(50)))
        assert len(server.bodies) == 3
    assert len(found) == len(ledger) == 2
    for part in ("synthesis.endpoints.big", server.url, f"Error code: {code} - no such thing", "model m", "A_KEY"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "spent",
    [
        bad.quota_spent(),
        bad.error(402, "Insufficient Balance"),
        events(chunk("so"), {"error": {"message": "none", "code": "insufficient_quota"}}),
    ],
)
def test_a_spent_quota_ends_the_run_and_says_what_to_do(ledger, spent):
    with BadServer(spent) as server, pytest.raises(ConfigError, match="has no quota or money left: top it up"):
        write(server, ledger, 50)
    assert len(server.bodies) == 1


def test_when_nobody_is_ever_answered_the_run_ends(ledger, monkeypatch):
    monkeypatch.setattr(endpoints, "IN_A_ROW", 4)
    script = then_ok(*[bad.status(400)] * 3, ok(), *[bad.status(400)] * 90)
    with BadServer(script) as server, pytest.raises(ConfigError, match="4 requests in a row got no answer, the last"):
        write(server, ledger, 50)
    assert len(server.bodies) == 8 and len(ledger) == 1


def test_refusals_among_answers_end_no_run_and_none_after_it(ledger, monkeypatch):
    """What is refused is asked again by every run; by then all between the refusals is in the ledger."""
    monkeypatch.setattr(endpoints, "IN_A_ROW", 4)
    with BadServer(lambda number, _: ok() if number < 16 and number % 2 else bad.status(400)) as server:
        for _ in range(2):
            assert sum(isinstance(found, Failure) for found in write(server, ledger, 16).values()) == 8
        assert len(server.bodies) == 16 + 8
    assert len(ledger) == 8


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (ok("bad", finish="content_filter"), "withheld by the endpoint's content filter"),
        (ok("x", finish="tool_calls"), "called a tool"),
        (events(chunk("x", tool_calls=[{"index": 0}]), chunk(finish="stop"), chunk(usage=(7, 5))), "called a tool"),
        (events(chunk(None), chunk(finish="stop"), chunk(usage=(7, 5))), "wrote nothing"),
        (ok("", finish="length"), "wrote nothing within its limit of tokens"),
        (events(chunk(refusal="no"), chunk(finish="stop"), chunk(usage=(7, 5))), "refused by the model"),
        (ok("x", finish="\x1b[2Jboo"), "ended with '\ufffd[2Jboo'; expected stop or length"),
    ],
)
def test_an_answer_of_no_use_is_a_failure_that_is_paid_for_once(ledger, script, says):
    result, sent = one(script, ledger)
    assert isinstance(result, Failure) and result.reason.startswith(f"big: {says}") and sent == 1
    assert ledger.totals()["big", "m"] == Totals(1, 0, 7, 5, 64e-6, 0)


def test_an_answer_cut_at_its_limit_says_so(ledger):
    result, _ = one(ok("1, 2, ", finish="length"), ledger)
    assert (result.text, result.finish_reason) == ("1, 2, ", "length")


@pytest.mark.parametrize(
    "script",
    [
        ok("four", usage=None),
        events(chunk("four"), chunk(finish="stop"), done=False),
        events(chunk("four"), chunk(finish="stop"), {"usage": {"prompt_tokens": "7", "completion_tokens": -1}}),
        events(chunk("four"), chunk(finish="stop"), {"usage": {"prompt_tokens": True, "completion_tokens": 5}}),
        events(chunk("four"), chunk(finish="stop"), "{ torn"),
    ],
)
def test_a_whole_text_without_counts_is_kept_and_counted_as_such(ledger, script):
    result, sent = one(script, ledger)
    assert result == Completion("four", "a-model-1", 0, 0, 0.0, "stop") and sent == 1
    assert ledger.totals()["big", "m"] == Totals(1, 0, 0, 0, 0.0, uncounted=1)


def test_text_is_only_text(ledger):
    """Surrogate pairs that a server cut in two are joined; halves become U+FFFD, also on their way to a server."""
    text, _ = "a\0b \x1b[2J </script> {x}", None
    events_of = events(
        '{"choices": [{"delta": {"content": "\\ud83d"}}]}', '{"choices": [{"delta": {"content": "\\ude00 \\ud800"}}]}',
        chunk(text), chunk(17), chunk(["x"]), chunk(finish="stop"), chunk(usage=(1, 1)),
    )  # fmt: skip
    result, _ = one(events_of, ledger)
    assert result.text == "\U0001f600 \ufffd" + text
    request = dataclasses.replace(requests_of(1)[0], key="\ud800", messages=({"role": "user", "content": "a\udc00"},))
    with BadServer(ok()) as server:
        ((_, result),) = EndpointWriter("big", config_of(server), ledger).write([request])
    assert result.text == "re: a\ufffd"


def test_a_body_without_end_is_not_read_to_its_end(ledger, monkeypatch):
    monkeypatch.setattr(exchange, "LARGEST", 2**20)
    result, sent = one(bad.large(2**22), ledger)
    assert result == Failure("big: the answer has more than 1048576 bytes") and sent == 1


def test_a_limit_of_tokens_by_another_name_is_found_out_once(ledger):
    refusal = bad.error(400, "use max_completion_tokens", "unsupported_parameter", "max_tokens")
    with BadServer(lambda _, body: ok() if "max_completion_tokens" in body else refusal) as server:
        results = write(server, ledger, 3, retries=0)
        assert [("max_tokens" in b, b.get("max_completion_tokens")) for b in server.bodies] == [
            (True, None), (False, 64), (False, 64), (False, 64),
        ]  # fmt: skip
    assert {result.text for result in results.values()} == {"re: q0", "re: q1", "re: q2"}


def test_what_is_sent_again_under_the_other_name_is_one_more_request_of_the_minute(ledger):
    refusal = bad.error(400, "use max_completion_tokens", "unsupported_parameter", "max_tokens")
    clock, waits = [0.0], []

    async def sleep(seconds):
        waits.append(seconds)
        clock[0] += seconds

    with BadServer(lambda _, body: ok() if "max_completion_tokens" in body else refusal) as server:
        limiter = Limiter(2, 0, lambda: clock[0], sleep)
        writer = EndpointWriter("big", config_of(server), ledger, limiter=limiter)
        assert [found.text for _, found in writer.write(requests_of(2))] == ["re: q0", "re: q1"]
        assert len(server.bodies) == 3 and sum(waits) == 60.0
    assert ledger.totals()["big", "m"].retries == 0


def test_retry_after_is_waited_for_and_holds_the_others_too(ledger):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)
        clock[0] += seconds

    clock, held = [0.0], []
    script = then_ok(bad.status(429, Retry_After="7"), bad.status(503), bad.status(503, Retry_After="soon"))
    with BadServer(script) as server:
        limiter = Limiter(0, 0, lambda: clock[0], sleep)
        limiter.hold = held.append  # what that does: test_limits.py
        writer = EndpointWriter("big", config_of(server, retries=3), ledger, limiter=limiter)
        ((_, result),) = writer.write(requests_of(1))
    assert result.text == "re: q0" and len(waits) == 3
    assert 7 <= waits[0] <= 7.001 and max(waits[1:]) <= 0.004 and held == [7.0]


def test_requests_and_tokens_per_minute_hold_for_retries_too(ledger):
    clock = [0.0]

    async def sleep(seconds):
        clock[0] += seconds

    times = []

    def script(number, _):
        times.append(clock[0])
        return bad.status(500) if number == 0 else ok()

    with BadServer(script) as server:
        writer = EndpointWriter("big", config_of(server), ledger, limiter=Limiter(3, 0, lambda: clock[0], sleep))
        assert len(list(writer.write(requests_of(6)))) == 6
    assert len(times) == 7
    assert all(len([t for t in times if start <= t < start + 60]) <= 3 for start in times)


def test_never_more_at_once_than_allowed_and_no_fewer_when_there_is_work(ledger):
    def script(number, body):
        return bad.status(500) if number % 7 == 5 else bad.ok_after_gate if number < 4 else ok()

    with BadServer(script) as server:
        writer = EndpointWriter("big", config_of(server, concurrency=4, retries=5), ledger)
        results = writer.write(requests_of(60))
        threading.Thread(target=lambda: (wait_for(lambda: server.active == 4), server.gate.set())).start()
        assert {result.text for _, result in results} == {f"re: q{i}" for i in range(60)}
        assert server.highest == 4


def test_two_endpoints_at_once_share_a_ledger(ledger):
    """Each answers only once the other was asked, too."""
    with BadServer(bad.ok_after_gate) as a, BadServer(bad.ok_after_gate) as b:
        writers = [
            EndpointWriter("a", config_of(a, concurrency=3, price_in=0.0), ledger),
            EndpointWriter("b", config_of(b, concurrency=3, price_out=0.0), ledger),
        ]
        found = {}
        threads = [
            threading.Thread(target=lambda w=w: found.update({w.name: dict_of(w.write(requests_of(20)))}))
            for w in writers
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: a.active == b.active == 3)
        a.gate.set(), b.gate.set()
        for thread in threads:
            thread.join(LONG)
    assert all(len(found[name]) == 20 for name in "ab") and len(ledger) == 40
    assert ledger.totals().keys() == {("a", "m"), ("b", "m")}
    assert ledger.totals()["a", "m"].cost == pytest.approx(20 * 5 * 10 / 1e6)
    assert ledger.totals()["b", "m"].cost == pytest.approx(20 * 7 * 2 / 1e6)


def dict_of(results):
    return {request.key: result for request, result in results}


def wait_for(holds):
    """Until `holds()`, for at most two minutes: the machine may be busy."""
    end = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_what_the_ledger_has_is_not_asked_for_again(ledger):
    told = []
    with BadServer(ok()) as server:
        first = write(server, ledger, 5)
        writer = EndpointWriter("big", config_of(server), ledger, on_usage=told.append)
        assert dict_of(writer.write(requests_of(8))) == first | write(server, ledger, 8)
        assert server.asked() == [f"q{i}" for i in range(8)]
        assert [totals.requests for totals in told] == [1, 2, 3] and writer.spent == told[-1]
        write(server, ledger, 8, model="another")
        assert len(server.bodies) == 16


def test_an_answer_is_in_the_ledger_before_it_is_handed_on_and_no_earlier_than_it_came(ledger):
    with BadServer(then_ok(ok(), ok(), bad.hang_before)) as server:
        results = EndpointWriter("big", config_of(server), ledger).write(requests_of(5))
        for count in (1, 2):
            next(results)
            assert len(ledger) >= count
        results.close()
        assert len(ledger) == 2


@pytest.mark.parametrize("how", ["close", "throw", "drop"])
def test_leaving_early_leaves_no_thread_and_no_request(ledger, caplog, how):
    with BadServer(then_ok(ok(), bad.hang_within, bad.hang_before)) as server:
        writer = EndpointWriter("big", config_of(server, concurrency=3), ledger)
        results = writer.write(requests_of(40))
        next(results)
        assert endpoint_threads() == ["endpoint-big"]
        with pytest.raises(RuntimeError, match="big is writing"):
            next(writer.write(requests_of(40)))
        if how == "close":
            results.close()
        elif how == "throw":
            with pytest.raises(KeyboardInterrupt):
                results.throw(KeyboardInterrupt())
        else:
            del results
            gc.collect()
        assert endpoint_threads() == []
        server.script = lambda *_: ok()
        assert len(list(writer.write(requests_of(40)))) == 40  # and it may be asked again
    assert "never" not in caplog.text  # as in: Task exception was never retrieved


def test_a_write_that_another_thread_reads_can_be_stopped(ledger):
    with BadServer(then_ok(ok(), bad.hang_within, bad.hang_before)) as server:
        writer = EndpointWriter("big", config_of(server, concurrency=2), ledger)
        found = []
        thread = threading.Thread(target=lambda: found.extend(writer.write(requests_of(40))))
        thread.start()
        wait_for(lambda: found and server.active == 2)
        writer.stop()
        thread.join(LONG)
        assert not thread.is_alive() and endpoint_threads() == [] and len(found) == len(ledger) == 1
        assert list(writer.write(requests_of(40))) == found and len(server.bodies) == 3  # for good


def test_a_ledger_that_cannot_be_written_ends_the_run(ledger):
    with BadServer(ok()) as server:
        writer = EndpointWriter("big", config_of(server), ledger)
        results = writer.write(requests_of(3))
        ledger.record = lambda paid: (_ for _ in ()).throw(Stopped("no room", 3))
        with pytest.raises(Stopped, match="no room"):
            list(results)


def test_the_same_request_twice_is_refused(ledger):
    with BadServer(ok()) as server, pytest.raises(ValueError, match="each request once"):
        list(EndpointWriter("big", config_of(server), ledger).write(requests_of(1) * 2))


@pytest.mark.parametrize(
    "code",
    [400, 401, 403, 404, 429, 500, 200],  # 200: in the middle of a stream
)
def test_a_key_that_a_server_echoes_reaches_no_text(ledger, caplog, capfd, code):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpcore2").setLevel(logging.DEBUG)
    said = []
    with BadServer(bad.echo_key(code, mid_stream=code == 200)) as server:
        writer = EndpointWriter("big", config_of(server, key_variable="A_KEY"), ledger)
        try:
            said += [repr(result) for result in writer.write(requests_of(1))]
        except ConfigError as error:
            said += [f"{error} {error!r}"]
            assert error.__cause__ is None and error.__context__ is None  # openai's own have the headers
        assert SECRET in str(server.headers)
    out, err = capfd.readouterr()
    said += [repr(writer), repr(vars(writer)), caplog.text, out, err, ledger.path.read_text()]
    assert "receive_response_headers" in caplog.text  # what the libraries log is seen here, and it has the header:
    assert "[key]" in caplog.text or code == 200
    assert any("[key]" in line for line in said[:1])
    for start in range(0, len(SECRET) - 8):
        assert SECRET[start : start + 8] not in "\n".join(said)


def test_a_key_that_a_server_puts_into_an_answer_reaches_no_file(ledger):
    answer = chunk(f"it is {SECRET}") | {"model": f"m {SECRET}"}
    results = []
    with BadServer(then_ok(events(answer, chunk(finish="stop")), ok("x", finish=SECRET))) as server:
        for count in (1, 2):
            results += [repr(result) for result in write(server, ledger, count, key_variable="A_KEY").values()]
    assert "text='it is [key]', model='m [key]'" in results[0] and "'[key]'" in results[-1]
    assert SECRET[:8] not in ledger.path.read_text() and SECRET[:8] not in "".join(results)


def test_a_key_is_needed_before_anything_is_asked(ledger, monkeypatch):
    monkeypatch.delenv("A_KEY")
    with BadServer(ok()) as server, pytest.raises(ConfigError, match="A_KEY, which is not set"):
        EndpointWriter("big", config_of(server, key_variable="A_KEY"), ledger)


def test_without_openai_the_extra_is_named(ledger, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with BadServer(ok()) as server, pytest.raises(ConfigError, match=r"pip install '\.\[synthesis\]'"):
        EndpointWriter("big", config_of(server), ledger)


PROGRAM = """
import sys, threading
from pathlib import Path
sys.path.insert(0, "tests/support")
import asking
from t1jax.synthesis.endpoints import EndpointWriter
from t1jax.synthesis.ledger import Ledger

class Server:
    url = sys.argv[1]

with Ledger(Path(sys.argv[2])) as ledger:
    try:
        writer = EndpointWriter("big", asking.config_of(Server, concurrency=4), ledger)
        for request, result in writer.write(asking.requests_of(12)):
            print(request.key, flush=True)
    except KeyboardInterrupt:
        print("interrupted", asking.endpoint_threads(), flush=True)
        sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_after_a_signal_the_next_run_pays_only_for_what_is_missing(tmp_path, number):
    path = tmp_path / "out.ledger.jsonl"
    env = os.environ | {"NO_PROXY": "127.0.0.1"}
    with BadServer(lambda number, _: ok() if number < 5 else bad.hang_within) as server:
        command = [sys.executable, "-c", PROGRAM, server.url, str(path)]
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        try:
            wait_for(lambda: server.active == 4 and len(path.read_bytes().splitlines()) == 5)
            process.send_signal(number)
            out, _ = process.communicate(timeout=LONG)
        finally:
            process.kill()
        assert process.returncode == (-9 if number == signal.SIGKILL else 130)
        assert number == signal.SIGKILL or "interrupted []" in out
        paid = {json.loads(line)["request"] for line in path.read_text().splitlines()}
        assert len(paid) == 5
        before, server.script = len(server.bodies), lambda *_: ok()
        with Ledger(path) as ledger:
            assert write(server, ledger, 12, concurrency=4) == {
                f"attempt/{i}": Completion(f"re: q{i}", "a-model-1", 7, 5, 64e-6, "stop") for i in range(12)
            }
            assert ledger.totals()["big", "m"].requests == 12
        again = {f"attempt/{said[1:]}" for said in server.asked()[before:]}
        assert len(server.bodies) - before == 7 and not again & paid
