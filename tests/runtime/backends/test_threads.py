"""llama.cpp's threads on a machine that does other things: chosen by the time that steps take."""

from __future__ import annotations

import pytest
from paths import PHOTO

from faceinsight import FaceInsight
from faceinsight.backends.llama_cpp.threads import LATE, Threads


def run(threads: Threads, cost: dict[int, float], steps: int) -> tuple[float, list[int]]:
    """Seconds of so many steps that take `cost[threads]` each, and what they were taken with."""
    used = []
    for _ in range(steps):
        used.append(threads.count)
        threads.took(cost[threads.count])
    return sum(cost[n] for n in used), used


IDLE = {8: 1.0, 4: 1.7, 2: 3.0, 1: 5.5}
#: Two other processes on eight cores: whoever wants more than six waits.
CROWDED = {8: 20.0, 4: 1.7, 2: 3.0, 1: 5.5}
#: Hardly anything is free.
FULL = {8: 20.0, 4: 18.0, 2: 15.0, 1: 6.0}


def test_an_idle_machine_keeps_its_threads():
    threads = Threads(8)
    spent, used = run(threads, IDLE, 2000)
    assert threads.count == 8
    assert spent < 1.02 * 2000 * IDLE[8]
    assert set(used) == {8, 4, 2, 1}


@pytest.mark.parametrize(("cost", "best"), [(CROWDED, 4), (FULL, 1)])
def test_a_busy_machine_gets_as_many_as_are_free_and_has_them_back(cost, best):
    threads = Threads(8)
    run(threads, IDLE, 200)
    run(threads, cost, 60)
    spent, used = run(threads, cost, 400)
    assert max(set(used), key=used.count) == best
    assert spent < 1.25 * 400 * cost[best]
    run(threads, IDLE, 3 * LATE)
    assert max(set(u := run(threads, IDLE, 300)[1]), key=u.count) == 8


def test_the_first_answer_learns_already():
    threads = Threads(2)
    _, used = run(threads, {2: 20.0, 1: 4.0}, 40)
    assert used[:7] == [2, 2, 2, 2, 1, 1, 1]
    assert used.count(2) <= 7


def test_one_thread_is_left_alone():
    threads = Threads(1)
    assert set(run(threads, {1: 1.0}, 50)[1]) == {1}


def test_answers_do_not_depend_on_how_many_threads_were_free():
    with FaceInsight.load("nano", device="cpu", threads=2) as insight:
        face = insight.perceive(PHOTO)[0]
        seen = []
        for count in (2, 1):
            insight.language.llm._threads = Threads(count)
            seen.append([(p.text, round(p.probability, 4)) for p in insight.stream(face, "Describe this face.")])
        assert seen[0] == seen[1]
