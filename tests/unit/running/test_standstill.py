"""A rank in which nothing happens says so once, until something does."""

import queue
import re
import threading

import pytest

from outpace.benchmarks.running import standstill
from outpace.benchmarks.running.standstill import Standstill


def test_once_for_every_standstill_with_the_place_of_each_thread(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: queue.Queue[None] = queue.Queue()
    waiting = threading.Thread(target=lambda: asked.get(), name="answer", daemon=True)
    waiting.start()
    still = Standstill(3)
    still.look(moved=False)
    assert capsys.readouterr().err == ""  # not for long enough
    monkeypatch.setattr(standstill, "STILL_S", 0.0)
    for moved in (False, False, True, False, False):
        still.look(moved)
    asked.put(None)
    waiting.join()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    place = r"answer, for \d+ s: running/test_standstill\.py:\d+ \(.*asked\.get\(\)"
    for line in told:
        assert re.match(r"rank 3: nothing has happened here for \d+ s; its threads are at: ", line)
        assert re.search(place, line), line
