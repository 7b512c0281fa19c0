"""Who is to blame, and what would have been, in runs whose every time is known."""

import itertools
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from made_traces import paces, rounds, simulate

from outpace.benchmarks.command import main
from outpace.benchmarks.explaining import Explanation, explain, words
from outpace.benchmarks.explaining.rounds import Rounds
from outpace.benchmarks.trace.run import Run
from outpace.comm.errors import UserError

COUNT = 60  # rounds


def even(n: int = 4, seed: int = 0) -> Any:
    """Busy seconds of equal workers: 20 ms and a little more."""
    return 0.02 + np.random.default_rng(seed).exponential(0.001, (n, COUNT))


def named(explained: Explanation) -> list[tuple[int | None, str]]:
    return [(culprit.rank, "injected" if culprit.injected else culprit.cause) for culprit in explained.culprits]


def if_(explained: Explanation, start: str, rank: int | None = None) -> float:
    """Seconds of the what-if that begins like this."""
    (wall_s,) = [each.wall_s for each in explained.what_if if each.what.startswith(start) and each.rank == rank]
    return wall_s


@pytest.mark.parametrize("n", [2, 4, 8])
def test_nobody_is_named_among_equals(tmp_path: Path, n: int) -> None:
    """Chance makes somebody the last of every round, and somebody the slowest of all."""
    for seed in range(12):
        assert not explain(rounds(tmp_path / f"s{seed}.h5", even(n, seed))).culprits
        rng = np.random.default_rng(seed)
        assert not explain(paces(tmp_path / f"a{seed}.h5", 0.02 + rng.uniform(0, 0.003, n), seconds=2)).culprits


@pytest.mark.parametrize("n", [4, 8])
def test_a_slow_rank_ends_every_round(tmp_path: Path, n: int) -> None:
    """All step times are equal: it is seen in the arrivals alone. What was not injected is computing."""
    busy, injected = even(n), np.zeros((n, COUNT))
    injected[1] = 0.2
    slow = explain(rounds(tmp_path / "injected.h5", busy + injected, injected=injected))
    assert named(slow) == [(1, "injected")]
    equal = explain(rounds(tmp_path / "equal.h5", busy))
    assert if_(slow, "without", rank=1) == pytest.approx(equal.run.attrs["wall_s"])
    assert slow.culprits[0].share == pytest.approx(1 - equal.run.attrs["wall_s"] / slow.run.attrs["wall_s"], abs=0.02)
    assert [line["rounds"] for line in slow.path] == [0, COUNT, *[0] * (n - 2)]
    assert named(explain(rounds(tmp_path / "computed.h5", busy + injected))) == [(1, "compute")]


def test_two_slow_ranks_are_both_named(tmp_path: Path) -> None:
    busy = even(8)
    busy[[2, 5]] += 0.05 + np.random.default_rng(9).exponential(0.001, (2, COUNT))
    assert {rank for rank, _ in named(explain(rounds(tmp_path / "two.h5", busy)))} == {2, 5}


def test_delays_of_all_in_turn_are_nobodys(tmp_path: Path) -> None:
    injected = np.where(np.random.default_rng(3).random((4, COUNT)) < 0.1, 0.18, 0.0)
    found = explain(rounds(tmp_path / "random.h5", even() + injected, injected=injected))
    assert named(found) == [(None, "injected")]
    assert named(explain(paces(tmp_path / "turns.h5", [0.05] * 4, injected=0.03))) == [(None, "injected")]


def test_a_slow_link_is_named_where_its_bytes_take_the_time(tmp_path: Path) -> None:
    """A link that was measured slow, and cost nothing, is no culprit; nor are slow transfers over equal links."""
    rates = [1e8, 1e8, 1e6, 1e8]
    slow = rounds(tmp_path / "slow.h5", even(), transfer=0.05, rates=rates, nbytes=50_000)
    found = explain(slow)
    assert named(found) == [(2, "link")]
    assert found.culprits[0].share == pytest.approx(0.7, abs=0.1)
    assert if_(found, "twice") == pytest.approx(found.run.attrs["wall_s"] - COUNT * 0.025)
    assert not explain(rounds(tmp_path / "idle.h5", even(), transfer=0.05, rates=rates, nbytes=1000)).culprits
    equal = rounds(tmp_path / "equal.h5", even(), transfer=0.05, rates=[1e6] * 4, nbytes=50_000)
    assert not explain(equal).culprits
    transfer = np.where(np.arange(COUNT) % 4, 0.07, 0.01)  # a quarter of the messages were faster than the link
    assert not explain(rounds(tmp_path / "busy.h5", even(), transfer, rates=rates, nbytes=50_000)).culprits


def test_a_slow_worker_of_an_asynchronous_run_costs_its_own_gradients(tmp_path: Path) -> None:
    found = explain(paces(tmp_path / "slow.h5", [0.02, 0.2, 0.02, 0.02], injected=[0, 0.18, 0, 0]))
    assert named(found) == [(1, "injected")]
    assert found.culprits[0].share == pytest.approx(1 - 3.1 / 4, abs=0.01)
    assert if_(found, "without", rank=1) == pytest.approx(10 * 3.1 / 4, rel=0.01)
    assert named(explain(paces(tmp_path / "computes.h5", [0.02, 0.2, 0.02, 0.02]))) == [(1, "compute")]


def test_what_a_slow_worker_is_about_at_the_end_goes_with_its_delay(tmp_path: Path) -> None:
    """310 gradients in 2 s, and a last one of the slow worker that nobody shares: without the delay 200 per second."""
    late = {"injected": [0, 0.18, 0, 0], "seconds": 2, "wall_s": 2.2}
    found = explain(paces(tmp_path / "slow.h5", [0.02, 0.2, 0.02, 0.02], **late))
    assert if_(found, "without", rank=1) == pytest.approx(310 / 200, rel=0.01)


def test_a_worker_behind_a_slow_link_waits(tmp_path: Path) -> None:
    made = paces(tmp_path / "far.h5", [0.02, 0.02, 0.09], waits=[0.001, 0.001, 0.07], serving=0.0002)
    assert named(explain(made)) == [(2, "link")]


@pytest.mark.parametrize(
    ("serving", "rates", "nbytes", "cause"),
    [
        (0.0066, None, 1000, ["server"]),
        (0.0002, [1e6] * 4, 6500, ["link"]),
        (0.0002, [1e8] * 3 + [1e6], 2500, ["link"]),
        (0.0002, [1e6] * 4, 2500, []),
    ],
)
def test_a_server_that_all_wait_for(tmp_path: Path, serving: float, rates: Any, nbytes: int, cause: list[str]) -> None:
    """At work all the time, its link full, or neither: then waiting alone accuses nobody."""
    made = paces(tmp_path / "server.h5", [0.02] * 3, waits=0.012, serving=serving, rates=rates, nbytes=nbytes)
    found = explain(made)
    assert named(found) == [(3, each) for each in cause]
    assert if_(found, "waiting") == pytest.approx(10 * 0.008 / 0.02, rel=0.02)


def test_who_waits_longest_at_a_server_is_not_to_blame_for_it(tmp_path: Path) -> None:
    made = paces(tmp_path / "server.h5", [0.02, 0.02, 0.03], waits=[0.012, 0.012, 0.022], serving=0.0076)
    assert named(explain(made)) == [(3, "server")]


def test_a_slow_link_that_no_gradient_waits_for_costs_exchanges(tmp_path: Path) -> None:
    ring = [(r, (r + d) % 4) for r, d in itertools.product(range(4), (1, -1))]
    lasted = [(r, peer, 0.03 if 2 in (r, peer) else 0.001) for r, peer in ring * 20]
    made = paces(tmp_path / "link.h5", [0.02] * 4, exchanges=lasted, rates=[1e8, 1e8, 1e6, 1e8])
    (culprit,) = explain(made).culprits
    assert (culprit.rank, culprit.cause, culprit.of) == (2, "link", "exchanges")
    assert culprit.share > 0.9
    by_peer = {(line["rank"], line["peer"]): line["median_s"] for line in explain(made).exchanges}
    assert by_peer[1, 2] == pytest.approx(0.03)
    assert by_peer[1, 0] == pytest.approx(0.001)


def test_a_server_bounds_what_faster_workers_bring(tmp_path: Path) -> None:
    """Three workers of 20 ms and one of 200 at a server that needs 6 ms: without its delay the server is the limit."""
    made = paces(tmp_path / "s.h5", [0.02, 0.02, 0.02, 0.2], injected=[0, 0, 0, 0.18], serving=0.006)
    assert if_(explain(made), "without", rank=3) == pytest.approx(1550 * 0.006, rel=0.03)


@pytest.mark.parametrize("rule", ["arrival", "early", "meeting"])
def test_when_neighbours_have_sent_is_found_out(tmp_path: Path, rule: str) -> None:
    """The rounds of a ring by each rule, with a slow rank: taken again with its times, they take theirs."""
    rng, n, count = np.random.default_rng(2), 6, 40
    busy = rng.gamma(4, 0.005, (n, count))
    busy[3] += 0.05
    peers = np.array([[r, (r - 1) % n, (r + 1) % n] for r in range(n)])
    end, arrivals, ends = np.zeros(n), [], []
    for k in range(count):
        arrive = end + busy[:, k]
        sent = {
            "arrival": arrive[peers],
            "early": end[peers],
            "meeting": np.where(arrive[:, None] <= end[peers], end[peers], arrive[peers]),
        }[rule]
        end = np.maximum(arrive, sent.max(axis=1)) + 0.001
        arrivals.append(arrive)
        ends.append(end)
    path = rounds(tmp_path / "ring.h5", busy)
    with h5py.File(path, "a") as file:
        events = file["events"]
        in_round = np.flatnonzero(events["kind"][()] == 4)
        order = np.lexsort((events["rank"][()][in_round], events["step"][()][in_round]))
        starts, stops = events["t_start_s"][()], events["t_end_s"][()]
        starts[in_round[order]], stops[in_round[order]] = np.ravel(arrivals), np.ravel(ends)
        row = np.argsort(starts, kind="stable")
        for name in events:
            events[name][...] = {"t_start_s": starts, "t_end_s": stops}.get(name, events[name][()])[row]
        file.attrs["config"] = json.dumps({"topology": "ring"})
    found = Rounds.of(Run(path))
    assert found.rule == rule
    assert found.again(found.busy_s, found.transfer_s) == pytest.approx(end.max())
    on_path = found.critical_path()
    assert (on_path == 3).mean() > 0.5 or rule == "early"
    busy_s = sum(found.busy_s[r, k] for k, r in enumerate(on_path) if r >= 0)
    assert busy_s + 0.001 * count == pytest.approx(end.max(), rel=0.05)


def test_words_and_json_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    injected = np.zeros((4, COUNT))
    injected[1] = 0.2
    path = str(rounds(tmp_path / "run.h5", even() + injected, injected=injected))
    assert main(["explain", path]) == 0
    told = capsys.readouterr().out
    assert main(["explain", path, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["culprits"][0]["rank"] == 1
    assert (
        f"rank 1, gradients take longer, by injected delays: {100 * plain['culprits'][0]['share']:.0f} % of the run's"
        in told
    )
    assert all(each["what"].split()[0] in told for each in plain["what_if"])
    assert main(["explain", str(rounds(tmp_path / "even.h5", even()))]) == 0
    assert words.NOBODY in capsys.readouterr().out


def test_what_cannot_be_explained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no attribute"):
        explain(simulate(tmp_path / "old.h5"))
    with pytest.raises(UserError, match="worker 1 has no gradient"):
        explain(paces(tmp_path / "idle.h5", [0.5, 3.0], seconds=2))
