"""The demos: what their addresses answer and refuse, and the pages in a real browser."""

from __future__ import annotations

import re
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

from topk_lib.apps.monitor import Monitor
from topk_lib.apps.recommend import Recommender
from topk_lib.apps.store import Store
from topk_lib.apps.support import Desk, DeskSettings
from topk_lib.apps.web import Bounds, make_app, serve

BOOK = Path(__file__).resolve().parents[2] / "book"
HANGING = 600_000  # milliseconds; a slow machine fails nothing


@contextmanager
def served(**products: Any) -> Iterator[str]:
    """The address of an application of these products."""
    server = uvicorn.Server(uvicorn.Config(make_app(**products), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(60)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store(tmp_path_factory.mktemp("web") / "state.sqlite") as store:
        yield store


@pytest.fixture(scope="module")
def taught(store: Store) -> Desk:
    """A desk of these tests' own, which they teach."""
    return Desk(source="embedded", settings=DeskSettings(head="prototype"), store=store)


@pytest.fixture(scope="module")
def address(taught: Desk, monitor: Monitor, recommender: Recommender, store: Store) -> Iterator[str]:
    with served(desk=taught, monitor=monitor, recommender=recommender, store=store) as address:
        yield address


def post(address: str, path: str, body: Any) -> Any:
    response = httpx.post(f"{address}{path}", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_desk_answers(address: str, taught: Desk, store: Store) -> None:
    question = "My new card has not arrived yet"
    before = store.counts("support").get("asked", 0)
    told = post(address, "/support/ask", {"question": question})
    reply = taught([question])[0]
    assert (told["answer"], told["answered"], told["intent"]) == reply[:3]
    assert told["confidence"] == pytest.approx(reply.confidence, abs=1e-4)
    assert [near["question"] for near in told["near"]] == [near[0] for near in reply.near]
    assert store.counts("support")["asked"] == before + 2
    assert all(set(one.fields) == {"answered", "confidence"} for one in store.read("support", "asked"))


def test_many_ask_and_teach_at_once(address: str, taught: Desk, store: Store) -> None:
    before = store.counts("support")
    known = ["My card has not come yet", "My PIN is blocked", "How do I close my account?"]
    new = ["Do you sell gold coins?", "Is there a branch of yours on the moon?"]
    for question in new:
        post(address, "/support/teach", {"question": question, "answer": f"Of {question}"})
    wanted = {question: taught([question])[0].answer for question in known + new}
    assert [wanted[question] for question in new] == [f"Of {question}" for question in new]

    def ask(i: int) -> None:
        if i % 6 == 5:
            post(
                address, "/support/teach", {"question": f"What is the colour of door {i}?", "answer": "Red."}
            )
        else:
            question = [*known, *new][i % 6]
            assert post(address, "/support/ask", {"question": question})["answer"] == wanted[question]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(48)))
    after = store.counts("support")
    assert after["asked"] - before.get("asked", 0) == 40 + 5
    assert after["taught"] - before.get("taught", 0) == 8 + 2


def test_the_monitor_watches(address: str, monitor: Monitor, store: Store) -> None:
    told = post(address, "/monitor/read", {"sentence": "Profit rose to EUR 4 million ."})
    assert told["polarity"] == "positive"
    assert tuple(told["words"]) == monitor.topic_names[told["topic"]]
    rang = 0
    for seed in range(6):
        told = post(address, "/monitor/replay", {"seed": seed})
        replay = monitor.replay(seed)
        seen = monitor.watch(replay)
        assert told["surge"] == {"topic": replay.topic, "day": int(replay.days[replay.start])}
        assert [one["topic"] for one in told["alarms"]] == list(seen.alarms)
        assert len(told["lines"]) == 5
        assert {len(line) for line in told["lines"]} == {40}
        for one in told["alarms"]:
            assert told["lines"][one["topic"]][one["day"]] >= told["threshold"]
            assert one["evidence"]
        rang += bool(seen.alarms)
    assert rang
    assert store.counts("monitor") == {"alarm": rang}
    calm = post(address, "/monitor/replay", {"seed": 1, "surge": False, "rule": "cusum"})
    assert calm["surge"] is None
    assert not any(one["early"] is False for one in calm["alarms"])


def test_films_are_offered(address: str, recommender: Recommender, store: Store) -> None:
    title = recommender.titles[0]
    found = httpx.get(f"{address}/recommend/films", params={"q": title[:6].upper()}, timeout=60).json()
    assert {"film": recommender.films[0], "title": title} in found["films"]
    assert len(httpx.get(f"{address}/recommend/films", timeout=60).json()["films"]) == 10
    told = post(
        address, "/recommend/offer", {"history": [{"film": recommender.films[0], "stars": 5}], "k": 4}
    )
    right = recommender.recommend([(recommender.films[0], 5.0)], 4)
    assert [one["title"] for one in told["offers"]] == [one.title for one in right]
    assert store.read("recommend")[-1].fields == {"rated": 1, "k": 4}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/support/ask", {"question": " "}, 422, "the question is empty"),
        ("/support/ask", {"question": "x" * 2001}, 422, "the question has 2,001 characters, more than 2,000"),
        ("/support/ask", {"question": 3}, 422, "question: Input should be a valid string"),
        ("/support/ask", {}, 422, "question: Field required"),
        ("/support/ask", {"question": "x", "k": 1}, 422, "k: Extra inputs are not permitted"),
        ("/support/ask", {"question": "x" * 70_000}, 413, "a request may have 65,536 bytes"),
        ("/support/teach", {"question": "x", "answer": ""}, 422, "the answer is empty"),
        ("/monitor/read", {"sentence": ""}, 422, "the sentence is empty"),
        ("/monitor/replay", {"rule": "oracle"}, 422, "the rule must be one of e-detector"),
        ("/monitor/replay", {"false_alarm": 2}, 422, "false_alarm must be between 0 and 1"),
        ("/monitor/replay", {"seed": -1}, 422, "seed: Input should be greater than or equal to 0"),
        ("/recommend/offer", {"history": [{"film": "No such film", "stars": 5}]}, 422, "No such film"),
        ("/recommend/offer", {"history": [{"film": 1, "stars": 9}]}, 422, "stars"),
        ("/recommend/offer", {"k": 0}, 422, "k must be a whole number from 1"),
        ("/recommend/offer", {"history": [{"film": 1, "stars": 5}] * 101}, 422, "at most 100 films"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(
    address: str, path: str, body: Any, status: int, said: str
) -> None:
    response = httpx.post(f"{address}{path}", json=body, timeout=60)
    assert response.status_code == status
    assert said in response.json()["detail"]


def test_no_json_and_no_end_are_refused(address: str) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b"{", b"\xff", b'{"question": "\\ud800"}', b"[]"):
        response = httpx.post(f"{address}/support/ask", content=content, headers=headers, timeout=60)
        assert response.status_code in (400, 422), content
        assert isinstance(response.json()["detail"], str)

    def endless() -> Iterator[bytes]:
        yield b"{"

    response = httpx.post(f"{address}/support/ask", content=endless(), timeout=60)
    assert response.status_code == 411
    assert httpx.get(f"{address}/support/ask", timeout=60).status_code == 405
    assert httpx.get(f"{address}/static/../web.py", timeout=60).status_code == 404


def test_too_many_at_once_are_told_to_wait(desk: Desk) -> None:
    with served(desk=desk, bounds=Bounds(waiting=0)) as address:
        response = httpx.post(f"{address}/support/ask", json={"question": "x"}, timeout=60)
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        assert httpx.get(f"{address}/health", timeout=60).json()["apps"] == ["support"]
        assert httpx.get(f"{address}/monitor", timeout=60).status_code == 404
        assert httpx.get(address, timeout=60).headers["location"] == "/support"


def test_nothing_and_a_taken_port(desk: Desk) -> None:
    with pytest.raises(ValueError, match="there is nothing to serve"):
        make_app()
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match="choose another --port"),
    ):
        serve(make_app(desk=desk), port=taken.getsockname()[1])


@contextmanager
def opened(browser: Browser, address: str, name: str, **how: Any) -> Iterator[Page]:
    """A page; whatever it asks of others, and whatever goes wrong on it, fails."""
    context = browser.new_context(**how)
    context.set_default_timeout(HANGING)
    page = context.new_page()
    wrong: list[str] = []

    def asked(one: Request) -> None:
        if not one.url.startswith((address, "data:")):
            wrong.append(one.url)

    def said(one: ConsoleMessage) -> None:
        if one.type == "error" and "422" not in one.text:  # a sentence is shown for it
            wrong.append(one.text)

    page.on("request", asked)
    page.on("console", said)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(f"{address}/{name}", wait_until="networkidle")
    yield page
    context.close()
    assert not wrong


def fine(page: Page) -> None:
    """Nothing serious for who cannot see, and nothing beyond the edge."""
    found = Axe().run(page).response["violations"]
    assert not [
        (one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
    ]
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_customer_asks_and_the_desk_is_taught(browser: Browser, address: str) -> None:
    with opened(browser, address, "support") as page:
        expect(page.locator("nav a")).to_have_count(3)
        expect(page.locator("nav a[aria-current]")).to_have_text("Support desk")
        expect(page.locator("#about")).to_contain_text("questions of 14 kinds (the embedded corpus)")
        expect(page.locator("#kept")).to_contain_text("is not kept")
        page.get_by_role("button", name="My card has not come yet").click()
        expect(page.locator(".badge")).to_have_text("answered")
        expect(page.locator(".answer")).to_contain_text("A new card takes")
        expect(page.locator(".near li")).to_have_count(3)
        fine(page)
        page.get_by_role("button", name="How long should I boil an egg?").click()
        expect(page.locator(".badge")).to_have_text("handed to a person")
        page.get_by_label("Teach the desk").fill("Eight minutes, <b>in</b> boiling water.")
        page.get_by_role("button", name="Teach").click()
        expect(page.locator(".answer")).to_have_text("Eight minutes, <b>in</b> boiling water.")
        expect(page.locator("#teach")).to_be_hidden()
        expect(page.get_by_label("What would you ask your bank?")).to_be_focused()


def test_an_empty_question_is_answered_in_a_sentence(browser: Browser, address: str) -> None:
    with opened(browser, address, "support") as page:
        page.get_by_label("What would you ask your bank?").fill("   ")
        page.get_by_role("button", name="Ask").click()
        expect(page.locator("#problem")).to_have_text("the question is empty: write something")
        expect(page.get_by_role("button", name="Ask")).to_be_focused()
        fine(page)


def test_a_surge_is_watched(browser: Browser, address: str, monitor: Monitor) -> None:
    seed = next(i for i in range(50) if (one := monitor.replay(i)).topic in monitor.watch(one).alarms)
    small = {"width": 390, "height": 844}
    with opened(browser, address, "monitor", color_scheme="dark", viewport=small) as page:
        expect(page.locator("#about")).to_contain_text("The set has no dates")
        page.get_by_label("Replay", exact=True).fill(str(seed))
        page.get_by_role("button", name="Replay").click()
        expect(page.locator("svg polyline")).to_have_count(5)
        expect(page.locator("svg polyline.surge")).to_have_count(1)
        expect(page.locator("svg .planted")).to_have_count(1)
        expect(page.locator("svg .alarm").first).to_be_visible()
        expect(page.locator("#alarms .badge").first).to_contain_text(re.compile("rang|false alarm"))
        fine(page)
        page.get_by_label("with a surge planted").uncheck()
        page.get_by_role("button", name="Replay").click()
        expect(page.locator("#caption")).to_contain_text("Nothing is planted")
        page.get_by_label("A sentence of financial news").fill("Profit rose to EUR 4 million .")
        page.get_by_role("button", name="Read").click()
        expect(page.locator("#opinion .badge")).to_have_text("positive")


def test_films_are_rated_and_offered(browser: Browser, address: str, recommender: Recommender) -> None:
    title = recommender.titles[0]
    with opened(browser, address, "recommend", viewport={"width": 360, "height": 740}) as page:
        expect(page.locator("#offers li")).to_have_count(10)
        page.get_by_label("A film that you have seen").fill(title)
        expect(page.locator("#films option").first).to_have_attribute("value", title)
        page.keyboard.press("Enter")
        expect(page.locator("#rated li")).to_contain_text(title)
        expect(page.locator("#offers li").first).to_contain_text("because of")
        fine(page)
        page.get_by_role("button", name=f"drop {title}").click()
        expect(page.locator("#rated li")).to_have_count(0)
        expect(page.get_by_label("A film that you have seen")).to_be_focused()
        page.get_by_label("A film that you have seen").fill("No such film at all")
        page.get_by_role("button", name="Add").click()
        expect(page.locator("#problem")).to_contain_text("No such film at all")
        expect(page.locator("#rated li")).to_have_count(0)


def test_the_pictures_of_the_demos_can_be_taken_anew(
    browser: Browser, address: str, recommender: Recommender, tmp_path: Path
) -> None:
    made = runpy.run_path(str(BOOK / "demos.py"))
    made["take"](browser, address, recommender, tmp_path)
    for name in ("support", "monitor", "recommend"):
        with (
            Image.open(tmp_path / f"demo-{name}.png") as now,
            Image.open(BOOK / "_static" / f"demo-{name}.png") as kept,
        ):
            assert now.width == kept.width == round(made["WIDTH"] * made["SHARP"])
            assert now.height == pytest.approx(kept.height, rel=0.2), "as the page looks now"
            assert (BOOK / "_static" / f"demo-{name}.png").stat().st_size < 100_000


@pytest.mark.slow
def test_the_command_serves_what_was_asked_for(tmp_path: Path) -> None:
    words = [
        "app",
        "serve",
        "recommend",
        "--source",
        "embedded",
        "--port",
        "0",
        "--store",
        str(tmp_path / "s"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "topk_lib.cli", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        told = next(line for line in process.stdout if "open http" in line)
        found = re.search(r"http://\S+", told)
        assert found is not None
        assert httpx.get(f"{found[0]}/health", timeout=60).json()["apps"] == ["recommend"]
        assert len(post(found[0], "/recommend/offer", {"k": 3})["offers"]) == 3
        page = httpx.get(f"{found[0]}/recommend", timeout=60)
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
    finally:
        process.kill()  # without a warning: what was answered is kept
        process.wait(60)
    with Store(tmp_path / "s") as store:
        assert store.counts("recommend") == {"offered": 1}
