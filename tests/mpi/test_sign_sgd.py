"""What only the vote promises: plain sums of signs, exact bytes, ties, momentum of each worker's own, adversaries."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from harness import CheckedComm, Rounds, execute, share, shares
from mpi4py import MPI
from reference import sign_sgd as sign_sgd_form

from outpace.algorithms import sign_sgd
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import sign
from outpace.comm.arrays import Wired
from outpace.comm.vote import EXCHANGES

DIMS = (1, 67, 193, 1009)  # none a multiple of 8, of 32 or of a number of workers above 1


@pytest.fixture
def teams(comm: CheckedComm) -> Iterator[Iterator[CheckedComm]]:
    """Communicators of all ranks, of all but one, ..., on the ranks that belong to each."""

    def each() -> Iterator[CheckedComm]:
        for n in range(comm.size, 0, -1):  # all first: they load the compiled kernels at once, not one by one
            part = MPI.Intracomm(comm).Split(int(comm.rank >= n))
            if comm.rank < n:
                team = CheckedComm(part)
                yield team
                team.Free()
            else:
                part.Free()

    return each()


def ballots(n: int, dim: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Signs -1 and +1, shape (n, dim), and the same as words, shape (n, size)."""
    plus = np.random.default_rng([n, dim]).random((n, dim)) < 0.5
    packed = np.zeros((n, 4 * size), np.uint8)
    packed[:, : -(-dim // 8)] = np.packbits(plus, axis=1, bitorder="little")
    return np.where(plus, 1, -1), packed.view(np.uint32)


def bits(words: np.ndarray) -> np.ndarray:
    return np.unpackbits(words.ravel().view(np.uint8), bitorder="little").astype(bool)


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("name", list(EXCHANGES))
def test_exchange_equals_plain_sums(teams: Iterator[CheckedComm], name: str, each: int) -> None:
    """sign(sum(sign)) and sum(sign), for every electorate of one or two ballots each, ties tossed or told; the meter
    against the formulas of comm/vote.py, rank by rank."""
    for team, dim in ((team, dim) for team in teams for dim in DIMS):
        n, rank = team.size, team.rank
        route = EXCHANGES[name](team, dim, np, each)
        size = route.owners * route.words
        signs, words = ballots(n * each, dim, size)
        total = signs.sum(axis=0)
        coins = np.random.default_rng(dim).integers(0, 2**32, size, dtype=np.uint32)
        ballot = Wired((route.owners, each, route.words), np.uint32, np, team)
        for number in range(each):
            ballot.array[:, number] = words[rank * each + number].reshape(route.owners, route.words)
        W, w = -(-dim // 32), -(-dim // (32 * n))
        for planes in (1, 2):
            outcome = Wired((route.owners, planes, route.words), np.uint32, np, team)
            team.meter.reset()
            route.majority(ballot, coins, outcome)
            formula = {
                "sharded": 4 * w * (n - 1) * (each + planes),
                "server": 4 * W * each * (rank > 0) + 4 * W * planes * (rank < n - 1),
                "int8": 2 * (32 * W - (32 * W * (rank + 1) // n - 32 * W * rank // n)),
            }[name]
            assert team.meter.nbytes.sum() == formula == route.sent(ballot.nbytes, outcome.nbytes), (name, n, dim)
            expected = np.where(total == 0, bits(coins)[:dim], total > 0)
            np.testing.assert_array_equal(bits(outcome.array[:, 0])[:dim], expected, err_msg=f"{name} {n} {dim}")
            if planes == 2:
                np.testing.assert_array_equal(bits(outcome.array[:, 1])[:dim], total != 0)
        sums = Wired((route.owners, 32 * route.words), np.int8, np, team)
        team.meter.reset()
        route.sum(ballot, sums)
        formula = {
            "sharded": (4 * each + 32) * w * (n - 1),
            "server": 4 * W * each * (rank > 0) + 32 * W * (rank < n - 1),
            "int8": formula,
        }[name]
        assert team.meter.nbytes.sum() == formula == route.sent(ballot.nbytes, sums.nbytes), (name, n, dim)
        np.testing.assert_array_equal(sums.array.ravel()[:dim], total, err_msg=f"{name} {n} {dim}")


@pytest.mark.parametrize("ties", ["random", "keep"])
@pytest.mark.parametrize("exchange", ["sharded", "server"])
def test_bytes_of_error_feedback(comm: CheckedComm, exchange: str, ties: str) -> None:
    """Signs and a scale to every owner; back comes a sign and a scale, or a float64 per coordinate. Rank by rank, and
    what the trace says of it."""
    dim, steps, n, rank = 67, 3, comm.size, comm.rank
    chunk = 4 * sign.words(dim, n if exchange == "sharded" else 1) + 8  # the scale is 8 bytes
    receivers = {"sharded": (n - 1, n - 1), "server": (int(rank > 0), int(rank < n - 1))}[exchange]
    for vote, back in (("majority", chunk), ("sum", 8 * 8 * (chunk - 8))):
        config = {"variant": "ef-signsgd", "exchange": exchange, "ties": ties, "vote": vote}
        outcome = execute(comm, sign_sgd, share(comm, f"quadratic:dim={dim}"), steps, agreement=1000, **config)
        expected = steps * (receivers[0] * chunk + receivers[1] * back)
        agreement = 2 * (rank < n - 1)  # a byte for the end of the run, reduced over a ring
        assert outcome.sent.sum() - agreement == expected == outcome.events["nbytes"].sum(), config


@pytest.mark.ranks(8)
def test_two_bits_per_coordinate(comm: CheckedComm) -> None:
    """8 workers, models of 10 MiB: exactly 2(n-1)/n bits per coordinate leave every rank in every step."""
    dim = 10 * 2**20 // 4
    outcome = execute(comm, sign_sgd, share(comm, f"quadratic:dim={dim}", "float32"), 2, dtype="float32")
    agreement = 0 if comm.rank == 7 else 2  # bytes for the end of the run: one byte, reduced over a ring
    assert 8 * (outcome.sent.sum() - agreement) == 2 * (2 * 7 * dim // 8)


class Scripted:
    """A problem whose gradient in step k is row k of a table, whatever the model."""

    xp, n_samples, n_total, f_star = np, 1, 1, None

    def __init__(self, gradients: Any) -> None:
        self._gradients = np.array(gradients, dtype=float)
        self.dim = self._gradients.shape[1]

    def x0(self) -> np.ndarray:
        self._rows = iter(self._gradients)
        return np.zeros(self.dim)

    def gradient(self, x: np.ndarray, batch: np.ndarray, out: np.ndarray) -> None:
        out[:] = next(self._rows)


def drive(comm: CheckedComm, problem: Any, steps: int, **config: Any) -> np.ndarray:
    """The program on a scripted problem, with steps of constant length."""
    trace = Trace(comm, Snapshots(0, problem.dim, np.dtype("f8"), per_step=True))
    cfg = sign_sgd.Config(dtype="float64", schedule="constant", **config)
    x: np.ndarray = sign_sgd.run(comm, problem, cfg, Rounds(range(steps)), trace)
    return x


@pytest.mark.ranks(3)
@pytest.mark.parametrize("exchange", list(EXCHANGES))
def test_signum_by_hand(comm: CheckedComm, exchange: str) -> None:
    """Two steps, beta 0.9. m_2 = 0.09 g_1 + 0.1 g_2 is +0.01, +0.01 and -1.9: two pluses to one minus. Momentum of
    signs (-0.01 for all), an averaged momentum and a vote on gradients (negative, both) all turn back."""
    table = [[1.0], [-0.8]] if comm.rank < 2 else [[-10.0], [-10.0]]
    x = drive(comm, Scripted(table), 2, variant="signum", momentum=0.9, step_size=0.25, exchange=exchange)
    np.testing.assert_allclose(x, [-0.5], rtol=0, atol=1e-15)


@pytest.mark.ranks(2, 3, 4, 5, 8)
@pytest.mark.parametrize("exchange", list(EXCHANGES))
def test_one_sign_among_zeros_is_heard(comm: CheckedComm, exchange: str) -> None:
    """Whichever rank has it, at least 0.7 of 20,000 coordinates move by it."""
    dim = 20_000
    signs = np.where(np.arange(dim) % 2, 1.0, -1.0)
    for heard in range(comm.size):
        problem = Scripted([signs * (comm.rank == heard)])
        x = drive(comm, problem, 1, step_size=1.0, exchange=exchange)
        assert (x == -signs).mean() >= 0.7, heard


@pytest.mark.parametrize("vote", ["majority", "sum"])
@pytest.mark.parametrize("ties", ["random", "keep", "plus", "abstain"])
@pytest.mark.parametrize("exchange", list(EXCHANGES))
def test_ballots_with_zeros(comm: CheckedComm, exchange: str, ties: str, vote: str) -> None:
    """A third of the gradients' entries are 0, at different places on every rank: a step is that of the matrix form."""
    tables = np.random.default_rng(23).integers(-1, 2, (comm.size, 3, 1009)).astype(float)
    flags = {"step_size": 1.0, "exchange": exchange, "ties": ties, "vote": vote}
    x = drive(comm, Scripted(tables[comm.rank]), 3, **flags)
    config = sign_sgd.Config(dtype="float64", schedule="constant", **flags)
    X = sign_sgd_form.run([Scripted(table) for table in tables], config, 3)
    np.testing.assert_array_equal(x, X[comm.rank])


@pytest.mark.ranks(2, 3, 9)
@pytest.mark.parametrize("exchange", list(EXCHANGES))
def test_zero_gradients_do_not_drift(comm: CheckedComm, exchange: str) -> None:
    """40,000 coordinates without a gradient for 100 steps. By default they wander, their mean stays (five standard
    deviations); `plus` drifts by every step; `keep` moves none of an even electorate, `abstain` none."""
    dim, steps = 40_000, 100
    problem = Scripted(np.zeros((steps, dim)))
    x = drive(comm, problem, steps, step_size=1.0, exchange=exchange)
    assert abs(x.mean()) < 5 * np.sqrt(steps / dim)
    assert x.std() == pytest.approx(np.sqrt(steps), rel=0.05)
    assert (drive(comm, problem, steps, step_size=1.0, exchange=exchange, ties="plus") == -steps).all()
    assert not drive(comm, problem, steps, step_size=1.0, exchange=exchange, ties="abstain").any()
    if comm.size % 2 == 0:
        assert not drive(comm, problem, steps, step_size=1.0, exchange=exchange, ties="keep").any()


@pytest.mark.parametrize("variant", ["signsgd", "signum", "ef-signsgd", "lion", "sto-sign"])
def test_a_nan_is_no_vote(comm: CheckedComm, variant: str) -> None:
    """One NaN on the last rank: that rank's model is lost, so that the run ends as diverged, and nobody else's."""
    table = np.ones((1, 50))
    if comm.rank == comm.size - 1:
        table[0, 40] = np.nan
    x = drive(comm, Scripted(table), 1, variant=variant)
    if comm.rank == comm.size - 1:
        assert np.isnan(x).all()
    elif variant in ("ef-signsgd", "sto-sign"):  # its scale or bound is none, and goes to the others
        assert np.isnan(x).any()
    else:
        assert np.isfinite(x).all()


@pytest.mark.ranks(3)
def test_stochastic_signs_follow_the_mean(comm: CheckedComm) -> None:
    """Gradients of 1, 1 and -3: their signs go with the two, stochastic ones with the mean. b is 3, and the chances of
    a plus are 2/3, 2/3 and 0: the sum of the signs is -1/3 on average, and the majority is a plus in 4 of 9 cases."""
    dim, steps = 4001, 20
    problem = Scripted(np.full((steps, dim), 1.0 if comm.rank < 2 else -3.0))
    assert (drive(comm, problem, steps, step_size=1.0) == -steps).all()
    for vote, mean in (("sum", 1 / 3), ("majority", 1 / 9)):
        x = drive(comm, problem, steps, step_size=1.0, variant="sto-sign", vote=vote)
        assert x.mean() / steps == pytest.approx(mean, abs=5 / np.sqrt(dim * steps))
    # -3 is beyond a bound of 2: it counts as -2, and the mean is 0.
    x = drive(comm, problem, steps, step_size=1.0, variant="sto-sign", vote="sum", bound=2.0)
    assert x.mean() / steps == pytest.approx(0.0, abs=5 / np.sqrt(dim * steps))


@pytest.mark.ranks(1, 3)
def test_outliers_do_not_make_all_signs_chance(comm: CheckedComm) -> None:
    """Ones, and 100 in one place of the last worker's, whose root mean square is then 1.87: b is 4 times that."""
    dim, steps = 4001, 20
    table = np.ones((steps, dim))
    b = 4 * np.sqrt((100**2 + dim - 1) / dim)
    if comm.rank == comm.size - 1:
        table[:, 7] = 100.0
    x = drive(comm, Scripted(table), steps, step_size=1.0, variant="sto-sign", vote="sum") / (comm.size * steps)
    assert np.delete(x, 7).mean() == pytest.approx(-1 / b, abs=5 / np.sqrt(dim * steps))
    assert x[7] == -1 or comm.size > 1


def test_bytes_of_stochastic_signs(comm: CheckedComm) -> None:
    """The vote, and the common bound's 8 bytes; none of these where it is given."""
    dim, steps, n, rank = 67, 3, comm.size, comm.rank
    vote, shared = 2 * 4 * sign.words(dim, n) * (n - 1), 2 * (8 - (8 * (rank + 1) // n - 8 * rank // n)) * (n > 1)
    agreement = 2 * (rank < n - 1)  # a byte for the end of the run, reduced over a ring
    for bound, each in ((None, vote + shared), (1.0, vote)):
        problem = share(comm, f"quadratic:dim={dim}")
        outcome = execute(comm, sign_sgd, problem, steps, agreement=1000, variant="sto-sign", bound=bound)
        assert outcome.sent.sum() - agreement == steps * each == outcome.events["nbytes"].sum()


@pytest.mark.ranks(4, 9)
@pytest.mark.parametrize("adversaries", ["flip:rank=0", "flip:rank=0+2", "random:rank=1+3"])
def test_adversaries(comm: CheckedComm, adversaries: str) -> None:
    """Liars as in the matrix form: who lies, what each says, and nobody else."""
    problem = "quadratic:dim=1000,condition=1,sigma=1,samples=1e5"
    config: dict[str, Any] = {"batch_size": 1, "step_size": 0.01, "schedule": "constant", "adversaries": adversaries}
    mine, everyone = share(comm, problem), shares(problem, comm.size)
    x = execute(comm, sign_sgd, mine, 50, **config).x
    X = sign_sgd_form.run(everyone, sign_sgd.Config(**config, dtype="float64"), 50)
    np.testing.assert_allclose(x, X[comm.rank], rtol=0, atol=1e-12)


@pytest.mark.ranks(9)
def test_fault_tolerance(comm: CheckedComm) -> None:
    """9 workers, unit noise: with 3 of them flipping their signs the loss falls tenfold, with 5 it grows."""
    problem = share(comm, "quadratic:dim=1000,condition=1,sigma=1,samples=1e5")
    start = problem.loss(problem.x0())
    config: dict[str, Any] = {"batch_size": 1, "step_size": 0.02, "schedule": "constant"}
    x = execute(comm, sign_sgd, problem, 150, adversaries="flip:rank=0+4+8", **config).x
    assert problem.loss(x) < start / 10
    x = execute(comm, sign_sgd, problem, 150, adversaries="flip:rank=0+2+4+6+8", **config).x
    assert problem.loss(x) > 2 * start
