"""Audience figures: intervals that hold, numbers that must not be computed from others, windows, and what is held."""

from __future__ import annotations

import asyncio
import csv
import gc
import io
import itertools
import json
import math
import types
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra server")

from serving import Serving

from faceinsight import FaceInsight
from faceinsight.bundle.bundle import Bundle
from faceinsight.errors import RequestError
from faceinsight.server.app import build
from faceinsight.server.audience import figures as module
from faceinsight.server.audience import quantification
from faceinsight.server.audience.figures import HELD, LEAST, WINDOW, Audience
from faceinsight.server.audience.quantification import Correction, corrections, decode
from faceinsight.server.audience.window import COLUMNS, suppressed
from faceinsight.server.facts import facts as facts_of
from faceinsight.server.metrics import Metrics
from faceinsight.server.security import Gate
from faceinsight.server.state import State

CHOICE = ("Young", "Middle", "Old")
FACTS = {
    "bundle_sha256": "known",
    "characteristics": [
        {"name": "Glasses", "group": ""},
        {"name": "Hat", "group": ""},
        *({"name": name, "group": "age"} for name in CHOICE),
    ],
    "choices": [list(CHOICE)],
}
#: Beta distributions of the probability of glasses, for faces with and without them; Dirichlet ones of the choice.
GLASSES = ((3.0, 2.0), (1.2, 5.0))
AGES = ((4.0, 2.0, 1.0), (2.0, 4.0, 2.0), (1.0, 2.0, 3.0))


class Clock:
    """Monotonic seconds and a date that go on together."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at

    def date(self) -> datetime:
        return datetime(2026, 11, 30, 9, tzinfo=timezone.utc) + timedelta(seconds=self.at - 1000)


def person(
    *, glasses: str = "no", p: float | None = 0.1, age: str = "Young", dwell: float = 4.0, attention: float = 2.0
) -> dict[str, Any]:
    """The values of a `left` event."""
    ages = {name: ["yes" if name == age else "no", 0.9 if name == age else 0.05] for name in CHOICE}
    labels = {"Glasses": [glasses, p], "Hat": ["no", 0.01], **ages}
    return {
        "event": "left",
        "track": "7f3a",
        "dwell_s": dwell,
        "attention_s": attention,
        "glances": 1,
        "labels": labels,
    }


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Callable[..., Audience]:
    return lambda facts=FACTS, **more: Audience(lambda: facts, clock=clock, now=clock.date, **more)


def closed(audience: Audience, clock: Clock) -> dict[str, Any]:
    """The window, which is over now."""
    clock.at += audience.window
    window = audience.roll(clock.at)
    assert window is not None
    return window


def measured(names: tuple[tuple[str, ...], ...], classes: list[np.ndarray]) -> Correction:
    """As benchmarks/quality/audience.py measures it: classes (C) of summed probabilities (n,C)."""
    weights = np.linalg.inv(np.array([x.mean(0) for x in classes]).T)
    parts = [x @ weights.T for x in classes]
    variance = np.array([x.var(0, ddof=1) for x in parts]).T
    error = variance / [len(x) for x in classes]
    matrices = {"weights": weights.tolist(), "variance": variance.tolist(), "error": error.tolist()}
    return decode({"classes": names, "faces": [len(x) for x in classes], **matrices})


def yes_or_no(name: str, *probabilities: np.ndarray) -> Correction:
    """The same of a characteristic: of those who have it, and of the others."""
    return measured(((name,),), [np.stack([p, 1 - p], 1) for p in probabilities])


def wilson(count: int, people: int) -> tuple[float, float]:
    share, z = count / people, 1.96
    middle = (share + z * z / (2 * people)) / (1 + z * z / people)
    half = z * math.sqrt(share * (1 - share) / people + z * z / (4 * people**2)) / (1 + z * z / people)
    return (middle - half) * people, (middle + half) * people


def test_intervals_hold_the_truth_and_plain_counts_do_not(
    make: Callable[..., Audience], clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    """200 crowds through the whole of it, each with a validation set of its own."""
    rng = np.random.default_rng(17)
    known: dict[str, Correction] = {}
    monkeypatch.setattr(module, "corrections", lambda sha256: known)
    hits: dict[str, list[bool]] = {"glasses": [], "ages": [], "plain": [], "plain ages": []}
    for _ in range(200):
        both = [rng.beta(*shape, 150) for shape in GLASSES]
        ages = [rng.dirichlet(shape, 150) for shape in AGES]
        choice = measured(tuple((name,) for name in CHOICE), ages)
        known.update({"Glasses": yes_or_no("Glasses", *both), **dict.fromkeys(CHOICE, choice)})
        people = int(rng.integers(30, 301))
        wear = rng.permutation(people) < round(people * rng.uniform(0.05, 0.95))
        age = rng.choice(3, people, p=rng.dirichlet(np.ones(3)))
        audience, plain, plain_ages = make(), 0, np.zeros(3, int)
        for has, which in zip(wear, age, strict=True):
            p, shares = rng.beta(*GLASSES[0 if has else 1]), rng.dirichlet(AGES[which])
            likeliest = shares.argmax()
            values = person(glasses="yes" if p > 0.5 else "no", p=p)
            for name, share in zip(CHOICE, shares, strict=True):
                values["labels"][name] = ["yes" if name == CHOICE[likeliest] else "no", share]
            audience.left(values)
            plain += p > 0.5
            plain_ages[likeliest] += 1
        found = closed(audience, clock)["contents"]["none"]["characteristics"]
        if interval := found["Glasses"]["expected"]["yes"]:
            hits["glasses"].append(interval["low"] <= wear.sum() <= interval["high"])
            hits["plain"].append(wilson(plain, people)[0] <= wear.sum() <= wilson(plain, people)[1])
        for k, name in enumerate(CHOICE):
            if interval := found["age"]["expected"][name]:
                truth = (age == k).sum()
                hits["ages"].append(interval["low"] <= truth <= interval["high"])
                low, high = wilson(int(plain_ages[k]), people)
                hits["plain ages"].append(low <= truth <= high)
    assert min(len(x) for x in hits.values()) > 150
    shares = {name: np.mean(x) for name, x in hits.items()}
    assert 0.93 <= shares["glasses"] < 1
    assert 0.93 <= shares["ages"] < 1
    assert shares["plain"] < 0.8
    assert shares["plain ages"] < 0.8


def test_an_interval_is_the_set_of_what_fits():
    """Against the inequality itself, number by number."""
    correction = yes_or_no("Glasses", np.array([0.9, 0.5, 0.8] * 20), np.array([0.1, 0.4] * 30))
    (v1, v0), (e1, e0) = correction.variance[0], correction.error[0]
    for people, total in ((40, 12.0), (40, 10.5), (200, 66.0), (10, 7.5)):
        counts = correction.counts({"Glasses": total}, people)
        assert sum(counts) == pytest.approx(people)
        low, high = correction.interval(0, counts, people)

        def fits(x: float, people: int = people, count: float = counts[0]) -> bool:
            spread = x * v1 + (people - x) * v0 + x**2 * e1 + (people - x) ** 2 * e0
            return (count - x) ** 2 <= quantification.Z**2 * spread

        inside = [x for x in range(people + 1) if fits(x)]
        assert low <= inside[0] <= low + 1
        assert high - 1 <= inside[-1] <= high


@pytest.mark.parametrize(("total", "end"), [(10.0, 0), (75.0, 100)])
def test_people_who_are_read_otherwise_are_near_an_end(total: float, end: int):
    """No number of people explains such a sum."""
    correction = yes_or_no("Glasses", np.array([0.6, 0.5, 0.7] * 20), np.array([0.3, 0.4] * 30))
    low, high = correction.interval(0, correction.counts({"Glasses": total}, 100), 100)
    assert end in (low, high)
    assert 3 < high - low < 20


def test_what_cannot_be_told_apart_may_be_anybody():
    correction = yes_or_no("Hat", np.linspace(0.2, 0.81, 50), np.linspace(0.2, 0.8, 50))
    assert correction.interval(0, correction.counts({"Hat": 30.0}, 60), 60) == (0, 60)


def test_no_hidden_number_follows_from_the_others():
    for cells in itertools.product((0, 1, 3, 5, 8, 40), repeat=4):
        missing = suppressed(cells, LEAST)
        hidden = [cell for cell, hide in zip(cells, missing, strict=True) if hide]
        assert all(cell >= LEAST for cell, hide in zip(cells, missing, strict=True) if not hide)
        # Who knows the total knows their sum, and no more.
        assert not hidden or (len(hidden) > 1 and sum(hidden) >= LEAST) or all(missing)
    assert suppressed((40, 3, 20), LEAST) == [False, True, True]
    assert suppressed((40, 4, 4), LEAST) == [False, True, True]
    assert suppressed((40, 20, 5), LEAST) == [False, False, False]
    assert suppressed((10, 40, 2), LEAST, last=0) == [False, True, True]
    assert suppressed((10, 2, 2), LEAST, last=0) == [True, True, True]


def test_small_cells_and_their_complement_are_null(make: Callable[..., Audience], clock: Clock):
    audience = make()
    for glasses, count in (("yes", 20), ("no", 30), ("unsure", 3)):
        for _ in range(count):
            audience.left(person(glasses=glasses))
    for _ in range(6):
        audience.left(person(glasses="not visible", p=None))
    found = closed(audience, clock)["contents"]["none"]
    assert found["impressions"] == 59
    counts = found["characteristics"]["Glasses"]["counts"]
    # 3 in doubt and 0 who were not read: too few together, so that the next smallest is missing as well.
    assert counts == {"yes": 20, "no": 30, "unsure": None, "not visible": None, "not read": None}
    # All are young: who knows that knows it of everybody.
    assert set(found["characteristics"]["age"]["counts"].values()) == {None}
    assert found["characteristics"]["Glasses"]["expected"] is None


def test_few_people_are_nothing(make: Callable[..., Audience], clock: Clock):
    audience = make()
    for _ in range(LEAST - 1):
        audience.left(person())
    for _ in range(20):
        audience.left(person(dwell=0.9))
    window = closed(audience, clock)
    assert set(window["contents"]["none"].values()) == {None}
    assert (window["impressions"], window["watchers"]) == (None, None)
    report = audience.report(WINDOW)["contents"]["none"]
    assert (report["windows"], report["left_out"], report["impressions"]) == (0, 1, None)


def test_a_total_tells_nothing_of_a_content_that_is_not_shown(make: Callable[..., Audience], clock: Clock):
    audience = make()

    def watched(content: str, people: int, watchers: int) -> None:
        audience.set_content(content)
        clock.at += 60
        for i in range(people):
            audience.left(person(attention=2.0 if i < watchers else 0.0))

    watched("a", 20, 10)
    watched("b", 3, 3)
    window = closed(audience, clock)
    assert window["contents"]["a"]["watchers"] == 10
    assert (window["impressions"], window["watchers"]) == (None, None)
    watched("a", 20, 10)
    watched("c", 30, 12)
    window = closed(audience, clock)
    # "b", which was on the screen as the window began, had nobody.
    assert window["contents"]["b"]["impressions"] is None
    assert window["impressions"] is None
    clock.at += WINDOW
    audience.set_content("a")
    clock.at += WINDOW
    watched("a", 20, 10)
    (*_, window) = iter(lambda: audience.roll(clock.at + WINDOW), None)
    assert (window["impressions"], window["watchers"]) == (20, 10)


def test_time_and_watchers(make: Callable[..., Audience], clock: Clock):
    audience = make()
    for attention in (0.0, 0.5, 0.9, 0.0, 0.4, *[3.0] * 5):
        audience.left(person(dwell=6.0, attention=attention))
    found = closed(audience, clock)["contents"]["none"]
    assert (found["impressions"], found["watchers"]) == (10, 5)
    assert found["dwell_s"] == {"mean": 6.0, "total": 60.0}
    assert found["attention_s"] == {"mean": 1.68, "total": 16.8}
    # One who watched among many who did not: nobody's seconds are shown.
    for attention in (*[0.0] * 9, 3.0):
        audience.left(person(attention=attention))
    found = closed(audience, clock)["contents"]["none"]
    assert (found["watchers"], found["attention_s"]) == (None, None)


def test_windows_end_by_the_clock(make: Callable[..., Audience], clock: Clock):
    audience = make()
    for _ in range(10):
        audience.left(person())
    clock.at += WINDOW - 0.01
    assert audience.roll(clock.at) is None
    assert audience.report(WINDOW)["windows"] == 0
    clock.at += 0.01
    # Whoever leaves next is in the next window, and nobody misses the first one.
    audience.left(person())
    first = audience.roll(clock.at)
    assert first is not None
    assert (first["start"], first["window_s"], first["contents"]["none"]["impressions"]) == (
        "2026-11-30T09:00:00+00:00", 900.0, 10,
    )  # fmt: skip
    assert audience.roll(clock.at) is None
    # A night without anybody is no window.
    clock.at += 10.5 * WINDOW
    second = audience.roll(clock.at)
    assert second is not None
    assert second["start"] == "2026-11-30T09:15:00+00:00"
    clock.at += 0.5 * WINDOW
    assert closed(audience, clock)["start"] == "2026-11-30T11:45:00+00:00"
    for _ in range(HELD + 5):
        closed(audience, clock)
    assert audience.report(HELD * WINDOW)["windows"] == HELD


def test_a_report_is_made_of_what_windows_show(make: Callable[..., Audience], clock: Clock):
    audience = make()
    shown = []
    for glasses in (10, 12, 2):
        for i in range(40):
            audience.left(person(glasses="yes" if i < glasses else "no"))
        shown.append(closed(audience, clock)["contents"]["none"]["characteristics"]["Glasses"]["counts"]["yes"])
    assert shown == [10, 12, None]
    report = audience.report(3 * WINDOW)
    assert (report["windows"], report["contents"]["none"]["impressions"]) == (3, 120)
    # With 24 in all, the 2 would be 24 less what the other two windows show.
    assert report["contents"]["none"]["characteristics"]["Glasses"]["counts"]["yes"] is None
    for _ in range(40):
        audience.left(person(glasses="yes"))
    assert audience.report(2 * WINDOW)["contents"]["none"]["impressions"] == 80
    with pytest.raises(RequestError, match=r"900 .* to 86400 seconds, found 899"):
        audience.report(899)


def test_expected_numbers_of_several_windows(
    make: Callable[..., Audience], clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    rng = np.random.default_rng(3)
    correction = yes_or_no("Glasses", *(rng.beta(*shape, 400) for shape in GLASSES))
    monkeypatch.setattr(module, "corrections", lambda sha256: {"Glasses": correction})
    audience, found = make(), []
    for _ in range(2):
        for i in range(60):
            audience.left(person(p=float(rng.beta(*GLASSES[i % 2]))))
        (interval,) = closed(audience, clock)["contents"]["none"]["characteristics"]["Glasses"]["expected"].values()
        found.append(interval)
    (both,) = audience.report(2 * WINDOW)["contents"]["none"]["characteristics"]["Glasses"]["expected"].values()
    assert both["value"] == pytest.approx(sum(x["value"] for x in found), abs=0.11)
    assert both["low"] <= 60 <= both["high"]
    # Chance cancels out, what the validation faces leave open does not.
    widths = [x["high"] - x["low"] for x in found]
    assert max(widths) < both["high"] - both["low"] < sum(widths)
    assert audience.report(WINDOW)["expected"] == {"available": True, "reason": ""}


def test_a_visit_counts_for_what_was_longest_on_the_screen(make: Callable[..., Audience], clock: Clock):
    audience = make()
    clock.at += 60
    for content, seconds in (("a", 10), ("b", 7), ("c", 2)):
        audience.set_content(content)
        clock.at += seconds
    for _ in range(6):
        audience.left(person(dwell=12.0))
    for _ in range(7):
        audience.left(person(dwell=3.0))
    for _ in range(8):
        audience.left(person(dwell=50.0))
    contents = closed(audience, clock)["contents"]
    assert {name: found["impressions"] for name, found in contents.items()} == {"none": 8, "a": None, "b": 6, "c": 7}


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 65, "a/b", "a\n"])
def test_a_content_has_a_plain_name(make: Callable[..., Audience], name: str):
    with pytest.raises(RequestError, match="1 to 64 of the characters"):
        make().set_content(name)


def test_a_window_has_so_many_contents(make: Callable[..., Audience], clock: Clock):
    audience = make()
    for i in range(15):
        audience.set_content(f"spot-{i}")
    with pytest.raises(RequestError, match="at most 16"):
        audience.set_content("one-more")
    audience.set_content("spot-3")
    assert len(closed(audience, clock)["contents"]) == 16
    for _ in range(30):
        for i in range(12):
            audience.set_content(f"spot-{i}")
        closed(audience, clock)
    # Memory is bounded by contents as well as by windows.
    assert audience.report(HELD * WINDOW)["windows"] == 192 // 12


@pytest.mark.parametrize("options", [{"window": 899.0}, {"least": 1}])
def test_windows_are_not_short_and_figures_not_of_one(make: Callable[..., Audience], options: dict[str, Any]):
    with pytest.raises(RequestError, match="900 s or more and figures of 2 people or more"):
        make(**options)


def sizes(root: Any) -> dict[str, int]:
    """How many objects of each type are reachable; code and modules do not count."""
    out: dict[str, int] = {}
    known, waiting = set(), [root]
    while waiting:
        item = waiting.pop()
        code = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, Clock)
        if id(item) in known or isinstance(item, code) or item is FACTS:
            continue
        known.add(id(item))
        kind = type(item).__name__
        out[kind] = out.get(kind, 0) + 1
        if kind in ("list", "tuple", "dict", "Counter", "deque", "set"):
            out[f"in {kind}"] = out.get(f"in {kind}", 0) + len(item)
        waiting += gc.get_referents(item)
    return {kind: n for kind, n in out.items() if kind not in ("int", "float")}


def test_nothing_of_a_person_is_held(make: Callable[..., Audience]):
    audience = make()
    for glasses in ("yes", "no", "unsure"):
        audience.left(person(glasses=glasses))
    before = sizes(audience)
    assert before["Counter"] >= 3
    for i in range(500):
        audience.left(person(glasses="yes", p=i / 500, dwell=2 + i / 7) | {"track": f"track-{i}"})
    assert sizes(audience) == before


def test_another_bundle_begins_anew(clock: Clock):
    facts: list[Mapping[str, Any]] = [FACTS]
    audience = Audience(lambda: facts[-1], clock=clock, now=clock.date)
    assert audience.report(WINDOW)["expected"]["reason"] == "nobody was there yet"
    for _ in range(10):
        audience.left(person())
    closed(audience, clock)
    # A worker that was replaced says the same again.
    facts.append(json.loads(json.dumps(FACTS)))
    audience.left(person())
    assert audience.report(WINDOW)["windows"] == 1
    assert "no validation record" in audience.report(WINDOW)["expected"]["reason"]
    facts.append(FACTS | {"bundle_sha256": "another"})
    audience.left(person())
    assert audience.report(WINDOW)["windows"] == 0
    assert closed(audience, clock)["contents"]["none"]["impressions"] is None


def test_csv_has_a_row_for_each_characteristic(make: Callable[..., Audience], clock: Clock):
    audience = make()
    for i in range(40):
        audience.left(person(glasses="yes" if i < 10 else "no", age=CHOICE[i % 2]))
    closed(audience, clock)
    audience.left(person())
    clock.at += WINDOW
    table = list(csv.DictReader(io.StringIO(audience.csv(2 * WINDOW))))
    assert tuple(table[0]) == COLUMNS
    assert [row["characteristic"] for row in table] == ["Glasses", "Hat", *CHOICE, ""]
    assert (table[0]["start"], table[0]["impressions"]) == ("2026-11-30T09:00:00+00:00", "40")
    assert [table[0][name] for name in ("yes", "no", "unsure", "choice", "expected")] == ["10", "", "", "", ""]
    assert [(row["choice"], row["yes"]) for row in table[2:5]] == [("age", ""), ("age", "20"), ("age", "")]
    assert (table[5]["content"], table[5]["impressions"]) == ("none", "")


def test_the_shipped_bundle_has_a_record(insight: FaceInsight):
    sha256 = Bundle.open("nano").sha256
    known = corrections(sha256)
    assert {"Eyeglasses", "Male", "Smiling", "Age_0_2", "White", "Happiness"} <= set(known)
    assert known["Age_20_29"] is known["Age_30_39"]
    assert corrections("another bundle") == {}
    for correction in known.values():
        size = len(correction.faces)
        shapes = {len(row) for matrix in (correction.weights, correction.variance, correction.error) for row in matrix}
        assert shapes == {size} == {len(correction.weights)}
        assert min(correction.faces) >= 40
        # Everybody is of one class.
        names = [name for names in correction.classes for name in names]
        sums = dict.fromkeys(names, 50 / len(names))
        assert sum(correction.counts(sums, 50)) == pytest.approx(50, abs=1e-3)
    found = facts_of(insight, {"bundle": "nano"})
    assert [names[0] for names in found["choices"]] == ["Neutral"]


def test_over_http(make: Callable[..., Audience], clock: Clock):
    class Ready:
        """A supervisor that has a worker."""

        state = "ready"

        def require(self) -> None: ...

        class lane:
            retry_after = 1

            @staticmethod
            def require_room(rank: int) -> None: ...

    audience = make()
    state = State(Ready(), Metrics(), audience=audience)

    async def ask(method: str, path: str, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=build(state, Gate(("localhost",), None)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.request(method, path, **more)

    def run(method: str, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(ask(method, path, **more))

    assert run("POST", "/v1/content", json={"id": "spot-7"}).json() == {"id": "spot-7"}
    clock.at += 60
    for _ in range(9):
        audience.left(person())
    clock.at += WINDOW
    found = run("GET", "/v1/audience", params={"window": 900})
    assert found.status_code == 200
    assert found.json()["contents"]["spot-7"]["impressions"] == 9
    assert run("GET", "/v1/audience").json()["windows"] == 1
    for options in ({"params": {"format": "csv"}}, {"headers": {"accept": "text/csv"}}):
        table = run("GET", "/v1/audience", **options)
        assert table.headers["content-type"].startswith("text/csv")
        assert table.text.splitlines()[0] == ",".join(COLUMNS)
    for params in ({"window": "1"}, {"window": "x"}, {"window": "9" * 30}, {"window": "-900"}, {"format": "xml"}):
        refused = run("GET", "/v1/audience", params=params)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_value"), params
        assert refused.json()["error"]["param"] in params
    for body in ({"id": "a b"}, {}, {"id": 7}, {"id": "a", "more": 1}):
        assert run("POST", "/v1/content", json=body).status_code == 400, body
    state.audience = None
    for method, path in (("GET", "/v1/audience"), ("POST", "/v1/content")):
        assert run(method, path, json={"id": "a"} if method == "POST" else None).status_code == 404


@pytest.mark.slow
def test_a_server_with_a_camera_counts(tiny_bundle: Path, tmp_path: Path):
    with Serving(tmp_path, tiny_bundle, "--camera", "cmd:sleep 60", "--audience") as server:
        server.wait_ready()
        assert server.post("/v1/content", json={"id": "spot-7"}).status_code == 200
        report = server.get("/v1/audience").json()
        assert (report["windows"], report["contents"], report["expected"]["available"]) == (0, {}, False)
        assert server.get("/v1/audience", params={"format": "csv"}).text == ",".join(COLUMNS) + "\n"
        assert server.stop() == 0
