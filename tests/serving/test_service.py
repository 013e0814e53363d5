"""A service over a real socket: the same answers as in Python, and every fault defined."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import sys
import threading
from dataclasses import asdict

import pytest
from served import TOKEN, running, served_run

from p5jax.core.errors import UserError
from p5jax.inference.decoding import beam_search
from p5jax.inference.search import search_trie
from p5jax.memory.settings import MemorySettings
from p5jax.runs.stored_memory import store_memory
from p5jax.serving.http import app as application_module
from p5jax.serving.http.app import LARGEST_BODY
from p5jax.serving.http.engine import Engine
from p5jax.serving.http.openapi import document
from p5jax.serving.http.server import read_token
from p5jax.serving.http.service import Log, Service
from p5jax.serving.question import Question
from p5jax.serving.recommender import Recommender
from p5jax.serving.settings import ServeConfig

WARM = Engine.warm  # which the fixture replaces for most tests
CHOSEN = {"prompt": "2-3", "users": 3, "model": 0.1, "mixed": 0.2}


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    run = served_run(
        world, tmp_path_factory.mktemp("service") / "run", "2-3", "3-1", "3-8", max_source=64
    )
    store_memory(run, MemorySettings(0.25), CHOSEN)
    return run


@pytest.fixture(scope="module")
def serving(run):
    """Programs are compiled when they are needed, which is quicker for a few questions."""
    config = ServeConfig(beam=16, rows=2, queue=4, seconds=60.0)
    changed = pytest.MonkeyPatch()
    changed.setattr(Engine, "warm", lambda *given: None)
    service = Service([Recommender(run)], lambda: [Recommender(run)], config, TOKEN)
    with running(service) as found:
        found.wait_until_ready()
        yield found
    changed.undo()


@pytest.fixture(scope="module")
def recommender(run):
    return Recommender(run)


@pytest.mark.parametrize(
    ("user", "memory"), [(57, True), pytest.param(0, False, marks=pytest.mark.check)]
)
def test_answers_are_those_in_python(world, serving, recommender, user, memory):
    key = world.user_keys[user]
    history = [world.item_keys[item] for item in world.sequence(user)]
    (expected,) = recommender.recommend([key], 5, memory=memory, beam=16)
    for asked in ({"user": key}, {"user": key, "history": history}):
        status, found = serving.post("/v1/recommend", **asked, k=5, memory=memory)
        assert status == 200, found
        assert found["exact"] == expected.exact
        assert found["memory"] is memory
        assert [item["item"] for item in found["items"]] == [each.item for each in expected.items]
        logp = [item["log_probability"] for item in found["items"]]
        assert logp == pytest.approx([each.log_probability for each in expected.items], abs=1e-4)


@pytest.mark.check
def test_candidates_scores_and_views_are_those_in_python(world, serving, recommender):
    question = Question(history=world.item_keys[:3], candidates=world.item_keys[3:9])
    asked = {"history": world.item_keys[:3], "candidates": world.item_keys[3:9]}
    (expected,) = recommender.recommend([question], 10, beam=16)
    status, found = serving.post("/v1/recommend", **asked)
    assert [item["item"] for item in found["items"]] == [each.item for each in expected.items]
    status, found = serving.post("/v1/score", **asked, items=world.item_keys[2:5])
    assert status == 200
    placed = recommender.placed(question, world.item_keys[2:5])
    assert [each["rank"] for each in found["items"]] == [each.rank for each in placed]
    assert found["items"][0]["rank"] is None
    status, found = serving.post("/v1/explain", history=world.item_keys[:3])
    (view,) = found["prompts"]
    assert view["prompt"] == "2-3"
    assert (view["known"], view["told"]) == (3, 3)
    assert all(world.item_ids[item] in view["text"] for item in range(3))
    (told,) = recommender.views(Question(history=world.item_keys[:3]), beam=16)
    assert view == json.loads(json.dumps(asdict(told)))
    vocabulary = recommender.run.vocabulary
    pieces = [[vocabulary.piece(t) for t in vocabulary.encode(id)] for id in world.item_ids]
    assert view["steps"]  # decimal ids: several have a beginning in common
    for step in view["steps"]:
        assert step["entered"] <= min(16, step["prefixes"])
        for prefix in step["best"]:
            begun = [ids[: len(prefix["tokens"])] for ids in pieces]
            assert begun.count(prefix["tokens"]) == prefix["items"] > 1


def test_items_and_users_are_found_by_their_words(world, serving):
    title = world.titles[5]
    status, found, _ = serving.call("GET", f"/v1/items?query={title.upper().replace(' ', '%20')}")
    assert status == 200
    assert {"item": world.item_keys[5], "title": title} in found["items"]
    user = serving.call("GET", f"/v1/users?query={world.user_keys[3]}")[1]["users"][0]
    expected = [world.item_keys[item] for item in world.sequence(3)]
    assert [each["item"] for each in user["history"]] == expected


def refusals(world):
    user = world.user_keys[0]
    return [
        ({}, "found neither a user nor a history", None),
        ({"user": "nobody"}, "user 'nobody' is not in the dataset", None),
        ({"history": ["x1", "x2"]}, "history: items 'x1', 'x2' are not in the dataset", "history"),
        ({"user": user, "k": 0}, "k: found 0, expected 1 to 16", "k"),
        ({"user": user, "k": 17}, "k: found 17, expected 1 to 16", "k"),
        ({"user": user, "k": "5"}, "k: found '5', expected a whole number", "k"),
        ({"user": user, "kk": 5}, "found key 'kk'; did you mean k?", None),
        ({"user": 1.5}, "user: found 1.5, expected", "user"),
        ({"user": user, "run": "b"}, "run: found 'b', expected run", "run"),
        ({"user": user, "prompts": ["2-9"]}, "'2-9' is not a sequential prompt", None),
        ({"user": user, "candidates": []}, "candidates: found no item", None),
        ({"user": user, "exclude": ["a"] * 1001}, "exclude: found 1001 items", "exclude"),
        ({"user": "u" * 2000}, "user: found 2000 characters, expected 1000 at most", "user"),
        ({"user": "\ud800"}, "lone surrogates", "user"),
    ]


def test_what_is_wrong_is_said_with_its_field(world, serving):
    for body, words, field in refusals(world):
        status, found = serving.post("/v1/recommend", **body)
        assert status == 422, body
        assert words in found["error"]["message"], found
        assert str(world.path) not in json.dumps(found)
        if field:
            assert found["error"]["field"] == field, found
            assert found["error"]["expected"] if "expected" in words else True


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "expected a JSON object"),
        (b"{", "expected a JSON object"),
        (b"[1]", "expected a JSON object"),
        (b'{"user": NaN}', "the number NaN"),
        (b'{"user": "a", "user": "b"}', "key 'user' twice"),
        (b"\xff", "expected JSON in UTF-8"),
        (b"[" * 100_000, "expected a JSON object"),
        (b'{"k": ' + b"9" * 5000 + b"}", "found"),
    ],
)
def test_a_malformed_body_is_one_line(serving, body, words):
    status, found, _ = serving.call("POST", "/v1/recommend", body)
    assert status == 422
    assert words in found["error"]["message"]
    assert "\n" not in found["error"]["message"]
    assert "Traceback" not in json.dumps(found)


def test_large_bodies_other_types_and_methods_are_refused(serving):
    assert serving.call("POST", "/v1/recommend", b"x" * (LARGEST_BODY + 1))[0] == 413
    chunks = [b"x" * (1 << 16)] * 20  # its size is not said beforehand
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=60)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/recommend", iter(chunks), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert serving.call("POST", "/v1/recommend", b"{}", **{"Content-Type": "text/plain"})[0] == 415
    assert serving.call("GET", "/v1/recommend")[0] == 405
    assert serving.call("POST", "/v1/model", {})[0] == 405


def test_a_body_that_does_not_come_is_not_waited_for(serving, monkeypatch):
    monkeypatch.setattr(application_module, "_BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", serving.port), timeout=30) as slow:
        head = f"POST /v1/recommend HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n"
        slow.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{{".encode()
        )
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_only_the_pages_own_file_is_served(serving):
    status, page, headers = serving.call("GET", "/")
    assert (status, page[:15]) == (200, "<!doctype html>")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "http://" not in page
    assert "https://" not in page
    for path in (
        "/../setup.cfg",
        "/%2e%2e/setup.cfg",
        "//etc/passwd",
        "/page.html",
        "/v1/../healthz",
        "/v1/items/",
        "/\\..\\x",
    ):
        assert serving.call("GET", path)[0] == 404, path


def test_without_the_token_nothing_is_told(serving):
    for given in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
        for method, path in (
            ("GET", "/v1/model"),
            ("GET", "/metrics"),
            ("POST", "/admin/reload"),
            ("GET", "/nowhere"),
        ):
            status, _found, headers = serving.call(method, path, Authorization=given)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert serving.call("GET", "/healthz", Authorization="")[0] == 200
    assert serving.call("GET", "/readyz", Authorization="")[0] == 200


def test_a_full_queue_says_when_to_come_again(serving, world, monkeypatch):
    """At many times the capacity every request is answered, or refused with 429."""
    statuses: list[int] = []

    def ask(number: int) -> None:
        status, _, headers = serving.call(
            "POST", "/v1/recommend", {"user": world.user_keys[number]}
        )
        if status == 429:
            assert int(headers["retry-after"]) >= 1
        statuses.append(status)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 40
    assert 200 in statuses
    assert set(statuses) <= {200, 429}


def test_a_reload_swaps_without_a_failed_request(serving, world):
    failed: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            status = serving.post("/v1/recommend", user=world.user_keys[1])[0]
            if status != 200:
                failed.append(status)

    thread = threading.Thread(target=ask)
    thread.start()
    before = serving.service.engine_or_unready()
    assert serving.post("/admin/reload") == (200, {"status": "reloaded"})
    assert serving.service.engine_or_unready() is not before
    ended.set()
    thread.join()
    assert failed == []


def test_a_run_that_cannot_be_loaded_leaves_the_old_one(serving, monkeypatch):
    def missing():
        raise UserError("run: not a run folder")

    before = serving.service.engine_or_unready()
    monkeypatch.setattr(serving.service, "load", missing)
    status, found = serving.post("/admin/reload")
    assert (status, found["error"]["message"]) == (422, "run: not a run folder")
    assert serving.service.engine_or_unready() is before


def test_metrics_and_logs_tell_of_requests_and_not_of_what_was_asked(serving, world, capfd):
    user = world.user_keys[2]
    serving.post("/v1/recommend", user=user)
    serving.call("GET", f"/v1/items?query={user}")
    status, text, _headers = serving.call("GET", "/metrics")
    assert status == 200
    assert 'p5jax_requests_total{path="/v1/recommend",status="200"}' in text
    assert "p5jax_queue_depth 0" in text
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert {"/v1/recommend", "/v1/items"} <= {line.get("path") for line in lines}
    assert user not in json.dumps(lines)


def test_a_log_that_is_full_or_gone_stops_nothing(monkeypatch):
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    monkeypatch.setattr(sys, "stderr", full)
    Log().event("listening")
    os.dup2(os.open("/dev/null", os.O_WRONLY), full.fileno())  # or closing it fails
    full.close()


def test_the_description_names_every_route_and_field(serving):
    _status, found, _ = serving.call("GET", "/openapi.json")
    assert found == json.loads(json.dumps(document()))
    assert {path for path in serving.service.paths if path not in ("/", "/openapi.json")} == set(
        found["paths"]
    )
    post = found["paths"]["/v1/recommend"]["post"]["requestBody"]
    fields = post["content"]["application/json"]["schema"]["properties"]
    assert set(fields) == {
        *("user", "history", "candidates", "exclude", "prompts", "memory", "run", "k"),
        "exclude_history",
    }


def test_two_runs_answer_each_for_itself(serving, run, world, tmp_path):
    other = Recommender(served_run(world, tmp_path / "other", "2-1", max_source=64))
    config = ServeConfig(beam=16, rows=2, seconds=60.0)
    first, user = Recommender(run), world.user_keys[4]
    with pytest.raises(UserError, match="found two runs named 'run', expected one"):
        Service([first, first], list, config)
    with running(Service([first, other], list, config)) as found:
        found.wait_until_ready()
        _, model, _ = found.call("GET", "/v1/model?run=other")
        assert (model["run"], model["runs"]) == ("other", ["run", "other"])
        of_first, of_other = (
            [item["item"] for item in found.post("/v1/recommend", user=user, run=name)[1]["items"]]
            for name in ("", "other")
        )
        (expected,) = other.recommend([user], beam=16)
        assert of_other == [item.item for item in expected.items] != of_first
        assert found.call("GET", "/v1/users?query=1&run=third")[0] == 422


def test_a_token_is_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(str(file)) == TOKEN
    monkeypatch.setenv("P5JAX_TOKEN", "other")
    assert read_token(None) == "other"
    for bad in ("", "two words", "ümlaut"):
        file.write_text(bad)
        with pytest.raises(UserError, match="expected a token"):
            read_token(str(file))
    with pytest.raises(UserError, match="No such file"):
        read_token(str(tmp_path / "absent"))


@pytest.mark.check
def test_all_programs_are_compiled_before_it_is_ready(run, world, monkeypatch):
    config = ServeConfig(beam=16, rows=2, seconds=60.0)
    service = Service([Recommender(run)], lambda: [Recommender(run)], config)
    asked_early = threading.Event()

    def late(engine, *passed):
        asked_early.wait(60)
        return WARM(engine, *passed)

    monkeypatch.setattr(Engine, "warm", late)
    with running(service) as found:
        assert found.call("GET", "/readyz")[0] == 503
        assert found.post("/v1/recommend", user=world.user_keys[0])[0] == 503
        asked_early.set()
        found.wait_until_ready()
        compiled = search_trie._cache_size(), beam_search._cache_size()
        for count in (1, 3, 9, 40):
            asked = {"history": world.item_keys[:count]}
            for more in ({}, {"memory": False}, {"candidates": world.item_keys[50:]}, {"k": 3}):
                assert found.post("/v1/recommend", **asked, **more)[0] == 200
            assert found.post("/v1/score", **asked, items=world.item_keys[:count])[0] == 200
            assert found.post("/v1/explain", **asked)[0] == 200
            asked = {"user": world.user_keys[count], "item": world.item_keys[count]}
            assert found.post("/v1/explain", **asked)[0] == 200
            assert found.post("/v1/generate", text="who? " * count)[0] == 200
        assert (search_trie._cache_size(), beam_search._cache_size()) == compiled


@pytest.mark.check
def test_what_was_accepted_is_answered_before_the_end(run, world):
    config = ServeConfig(beam=16, rows=2, queue=8, seconds=60.0)
    service = Service([Recommender(run)], lambda: [Recommender(run)], config)
    statuses: list[int] = []
    with running(service) as found:
        found.wait_until_ready()
        threads = [
            threading.Thread(
                target=lambda: statuses.append(
                    found.post("/v1/recommend", user=world.user_keys[0])[0]
                )
            )
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        while found.service.depth < 2 and any(thread.is_alive() for thread in threads):
            pass
    for thread in threads:
        thread.join()
    assert statuses == [200] * 6


def test_a_closed_loop_hears_nothing():
    """A caller whose loop is gone does not stop the thread."""
    from p5jax.serving.http.batcher import Batcher

    batcher = Batcher(2, 2, lambda *told: None)
    assert asyncio.run(batcher.submit(lambda works: works, "a", 1, 5.0)) == 1
    batcher.close()
