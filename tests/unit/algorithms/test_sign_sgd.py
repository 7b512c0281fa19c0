"""Votes, noise and error feedback of the papers on signSGD, at numbers of ours that were worked out beforehand."""

import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
from harness import CheckedComm, Rounds, execute, shares
from mpi4py import MPI
from reference import Batches
from reference import sign_sgd as sign_sgd_form
from scipy import stats

from outpace.algorithms import allreduce_sgd, sign_sgd
from outpace.benchmarks.conformance.trial import Shown
from outpace.benchmarks.problems import Problem
from outpace.benchmarks.running.plan import make_plan, parse_flags
from outpace.benchmarks.studies.vote_errors import NOISES, SNR, VOTERS, vote_error, vote_errors
from outpace.benchmarks.trace.recorder import Trace
from outpace.benchmarks.trace.snapshots import Snapshots
from outpace.comm import sign
from outpace.comm.errors import UserError
from outpace.comm.vote import EXCHANGES, Coins

COORDINATES = 64_000

# The chance that a gradient in noise has the wrong sign, and the errors of the vote: binomial sums, none of a paper.
WRONG: dict[str, tuple[float, tuple[float, ...]]] = {
    "Gaussian": (stats.norm.cdf(-SNR), (0.382, 0.326, 0.256, 0.173, 0.105, 0.043)),
    "Laplace": (
        stats.laplace.cdf(-SNR, scale=np.sqrt(0.5)),
        (0.327, 0.251, 0.164, 0.080, 0.031, 0.005),
    ),
    "uniform": (0.5 - SNR / np.sqrt(12), (0.413, 0.371, 0.316, 0.246, 0.180, 0.105)),
    "skewed": (0.9, (0.900, 0.972, 0.997, 1.000, 1.000, 1.000)),
}


@pytest.fixture
def alone() -> Any:
    comm = CheckedComm(MPI.COMM_SELF.Dup())
    yield comm
    comm.Free()


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], float]:
    return vote_errors(tmp_path_factory.mktemp("votes"), COORDINATES)


@pytest.mark.parametrize("n", VOTERS)
@pytest.mark.parametrize("noise", WRONG)
def test_vote_error(errors: dict[tuple[str, int], float], noise: str, n: int) -> None:
    """Against the exact binomial sum and the digits worked out beforehand, to five standard deviations."""
    wrong, digits = WRONG[noise]
    exact = stats.binom.sf(n // 2, n, wrong)
    assert digits[VOTERS.index(n)] == pytest.approx(exact, abs=6e-4)
    assert errors[noise, n] == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / COORDINATES) + 1e-4)


def test_a_vote_on_skewed_noise_gets_worse_with_the_workers(errors: dict[tuple[str, int], float]) -> None:
    """Where the sign of the mean gets better, and averages of 30 samples put the vote right."""
    skewed = [errors["skewed", n] for n in VOTERS]
    assert skewed == sorted(skewed)
    draw, shape = NOISES["skewed"], (51, COORDINATES)
    assert (draw(np.random.default_rng(18), shape).mean(axis=0) < 0).mean() < 0.01
    batch = draw(np.random.default_rng(19), (30, COORDINATES)).mean(axis=0, keepdims=True)
    assert vote_error(batch) == pytest.approx(0.042, abs=0.005)


def test_even_electorates_gain_nothing() -> None:
    """n = 4 errs as n = 3 does, ties tossed."""
    rng = np.random.default_rng(20)
    gradients = SNR + rng.standard_normal((4, 500_000))
    coins = rng.integers(0, 2**32, sign.words(500_000), dtype=np.uint32)
    words = np.zeros((4, coins.size), np.uint32)
    for row, ballot in zip(gradients, words, strict=True):
        sign.ballot(row, coins, 0, ballot)
    outcome = np.zeros((1, coins.size), np.uint32)
    sign.tally(words, coins, outcome)
    error = 1.0 - np.unpackbits(outcome.view(np.uint8), bitorder="little")[:500_000].mean()
    assert error == pytest.approx(0.326, abs=5 * np.sqrt(0.22 / 500_000) + 5e-4)


@pytest.mark.parametrize("ties", ["random", "keep"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
def test_one_sign_among_zeros_is_heard(n: int, ties: str) -> None:
    """Whoever has it, of 20,000 coordinates at least 0.7 move by it; with `keep` and even n half of them, and the rest
    stay. Zeros alone make a fair sign (five standard deviations), or with `keep` and even n no move."""
    dim, stay = 20_000, ties == "keep" and n % 2 == 0

    def moves(G: np.ndarray) -> np.ndarray:
        outcome, words = np.zeros((2, sign.words(dim)), np.uint32), np.zeros((n, sign.words(dim)), np.uint32)
        for rank, (g, ballot) in enumerate(zip(G, words, strict=True)):
            coins = Coins(ties, np.random.default_rng(22), rank, n, sign.words(dim), np)
            coins.toss()
            sign.ballot(g, coins.zeros, *coins.turns, ballot)
        sign.tally(words, coins.ties, outcome)
        plus, decided = np.unpackbits(outcome.view(np.uint8), axis=1, bitorder="little")[:, :dim].astype(bool)
        move: np.ndarray = np.where(plus, 1, -1) * (decided | (ties == "random"))
        return move

    for heard in range(n):
        G = np.zeros((n, dim))
        G[heard] = np.where(np.arange(dim) % 2, 1.0, -1.0)
        agreed = (moves(G) * G[heard]).astype(int)
        assert (agreed > 0).mean() >= (0.45 if stay else 0.7)
        assert not stay or (agreed >= 0).all()
    zeros = moves(np.zeros((n, dim)))
    assert (zeros == 0).all() if stay else (zeros != 0).all()
    assert abs(zeros.mean()) < 5 / np.sqrt(dim)


def test_set_up_calls_every_kernel_of_a_step(alone: CheckedComm, monkeypatch: pytest.MonkeyPatch) -> None:
    """With arguments of the same types, so that none is compiled in the timed part: whatever the flags."""
    calls: set[tuple[Any, ...]] = set()
    at_set_up: set[tuple[Any, ...]] = set()

    def noted(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.add((name, *(numba.typeof(each) for each in arguments)))
            return kernel(*arguments)

        return call

    def steps() -> Iterator[int]:
        at_set_up.update(calls)
        calls.clear()
        yield from range(3)

    names = ("toss", "ballot", "momentum_ballot", "feedback_ballot", "stochastic_ballot", "tally", "count", "decide")
    names += ("mean", "apply")
    kernels = SimpleNamespace(**{name: noted(name, getattr(sign, name)) for name in names})
    monkeypatch.setattr(sign, "kernels", lambda xp: kernels)
    seen = set()
    choices = {
        "variant": sign_sgd.VARIANTS,
        "vote": ("majority", "sum", "none"),
        "exchange": EXCHANGES,
        "ties": ("random", "keep", "plus", "abstain"),
        "adversaries": ("none", "random:rank=0"),
        "dtype": ("float32", "float64"),
    }
    for chosen in itertools.product(*choices.values()):
        cfg = sign_sgd.Config(**dict(zip(choices, chosen, strict=True)), warm_up=True)
        try:
            cfg.check(1)
        except UserError:
            continue
        (problem,) = shares("quadratic:dim=100", 1, dtype=cfg.dtype)
        calls.clear()
        at_set_up.clear()
        trace = Trace(alone, Snapshots(0, problem.dim, np.dtype(cfg.dtype), per_step=True))
        sign_sgd.run(alone, problem, cfg, Rounds(steps()), trace)
        assert calls <= at_set_up, cfg
        seen |= {name for name, *_ in calls}
    assert seen == set(names)


@pytest.mark.parametrize("config", [{"exchange": "int8"}, {"vote": "sum"}])
def test_sums_of_signs_fit_a_byte(config: dict[str, Any]) -> None:
    """Refused before anything starts, by a sweep too."""
    sign_sgd.Config(**config).check(127)
    with pytest.raises(UserError, match="128 workers"):
        sign_sgd.Config(**config).check(128)


def test_sparse_noise(alone: CheckedComm) -> None:
    """Means of 20 repeats: signSGD is below 2 after 300 steps, SGD above 20, at the step sizes of the paper."""
    losses = {}
    for name, program, config in (
        ("SGD", allreduce_sgd, {"step_size": 1e-3}),
        ("signSGD", sign_sgd, {"step_size": 1e-2, "schedule": "constant"}),
    ):
        problems = [shares("sparse-noise:dim=100", 1, seed=seed)[0] for seed in range(20)]
        ends = [
            execute(alone, program, problem, 300, batch_size=1, seed=seed, **config).x
            for seed, problem in enumerate(problems)
        ]
        losses[name] = np.mean([problem.loss(x) for problem, x in zip(problems, ends, strict=True)])
    assert losses["signSGD"] < 2
    assert losses["SGD"] > 20
    assert losses["SGD"] == pytest.approx(28.6, rel=0.2)  # the exact expectation


def mean_norm(comm: CheckedComm, problem: Any, steps: int, **config: Any) -> float:
    """The mean of |g|_1 over the models of a run on sparse-noise, where g is x."""
    models = execute(comm, sign_sgd, problem, steps, recorder=Shown, **config).models
    return float(np.mean([np.abs(x).sum() for x in models]))


def test_theorem_1(alone: CheckedComm) -> None:
    """n_k = K and delta = 1/sqrt(|L|_1 K): the bound of arXiv:1802.04434 holds, and 4 K steps halve the gradient."""
    dim, sigma = 10, 30.0
    (problem,) = shares(f"sparse-noise:dim={dim},sigma={sigma},samples=1e5", 1)
    norms = {}
    for K in (16, 64, 256, 1024):
        delta = 1 / np.sqrt(dim * K)
        norms[K] = mean_norm(alone, problem, K, batch_size=K, step_size=delta, schedule="constant")
        bound = np.sqrt(dim) * (problem.loss(problem.x0()) + 0.5) + 2 * sigma
        assert norms[K] <= bound / np.sqrt(K)
    assert norms[1024] == pytest.approx(norms[256] / 2, rel=0.1)


@pytest.mark.parametrize("variant", ["signsgd", "signum"])
def test_growing_batches_keep_the_noise_below_the_step(alone: CheckedComm, variant: str) -> None:
    (problem,) = shares("sparse-noise:dim=10,sigma=30,samples=1e5", 1)
    config = {"variant": variant, "warm_up": True, "batch_size": 1, "step_size": 0.3}
    growing, constant = (mean_norm(alone, problem, 1024, batches=name, **config) for name in ("growing", "constant"))
    assert growing < 0.75 * constant


def test_growing_batches_use_the_epochs_that_were_asked() -> None:
    """Two workers with 2, 4, 6, ... samples use 2 (2 + ... + 2 K): 220 in 10 steps, 924 in 21."""
    for epochs, steps in ((1, 10), (4.2, 21)):
        flags = ["--batches", "growing", "--batch-size", "2", "--epochs", str(epochs)]
        plan = make_plan("sign_sgd", *parse_flags("sign_sgd", sign_sgd.Config, flags), 2)
        assert plan.steps(220) == steps
        assert plan.config.steps_in(epochs, 220, 2) == pytest.approx(steps)
        assert 2 * sum(map(plan.config.samples, range(steps))) == pytest.approx(220 * epochs)


@pytest.mark.parametrize(
    ("liars", "worked_out"), [(0, 0.75), (4, 1.1), (8, 1.9), (10, 3.7), (12, 25.0), (13, 142.0), (14, 3500.0)]
)
def test_loss_against_sign_flippers(liars: int, worked_out: float) -> None:
    """27 workers, 1,000 dimensions, unit noise, 400 steps of 0.01, in matrix form; start, noise and losses are ours."""
    adversaries = f"flip:rank={'+'.join(map(str, range(liars)))}" if liars else "none"
    everyone = shares("quadratic:dim=1000,condition=1,sigma=1,samples=1e6", 27, seed=1)
    config = {"batch_size": 1, "step_size": 0.01, "schedule": "constant", "adversaries": adversaries, "seed": 1}
    X = sign_sgd_form.run(everyone, sign_sgd.Config(**config, dtype="float64"), 400)
    assert everyone[0].loss(X[0]) == pytest.approx(worked_out, rel=0.1)


class Valley(Problem):
    """f = 0.1 |x1 + x2| + |x1 - x2|, by a subgradient: its signs are always (+1, -1) or (-1, +1)."""

    xp, dim, n_samples, n_total, f_star = np, 2, 1, 1, 0.0

    def x0(self) -> np.ndarray:
        return np.array([1.0, 1.0])

    def loss(self, x: np.ndarray) -> float:
        return float(0.1 * abs(x[0] + x[1]) + abs(x[0] - x[1]))

    def gradient(self, x: np.ndarray, batch: Any, out: np.ndarray) -> None:
        along = 0.1 if x[0] + x[1] > 0 else -0.1
        across = 1.0 if x[0] - x[1] > 0 else -1.0
        out[:] = along + across, along - across


@pytest.mark.parametrize("vote", ["majority", "sum", "none"])
def test_error_feedback_leaves_the_valley(alone: CheckedComm, vote: str) -> None:
    """An example as in arXiv:1901.09847: x1 + x2 never moves under signSGD; error feedback drives it to 0."""
    config = {"batch_size": 1, "step_size": 0.01, "schedule": "constant", "vote": vote}
    stuck = execute(alone, sign_sgd, Valley(), 2000, **config).x
    assert stuck.sum() == pytest.approx(2.0, abs=1e-9)
    x = execute(alone, sign_sgd, Valley(), 2000, variant="ef-signsgd", **config).x
    assert abs(x.sum()) < 0.1


@pytest.mark.parametrize("vote", ["majority", "none"])
def test_one_worker_is_lion(alone: CheckedComm, vote: str) -> None:
    """As in the paper on Lion (arXiv:2302.06675): the signs are of the interpolation, the momentum is another one, and
    the weights decay apart from both."""
    config = {"variant": "lion", "vote": vote, "step_size": 0.05, "schedule": "constant", "weight_decay": 0.1}
    (problem,) = shares("quadratic:dim=100,sigma=0.3", 1)
    batches = Batches([problem], sign_sgd.Config(**config))
    theta, m = problem.x0(), np.zeros(problem.dim)
    for _ in range(60):
        g = batches.gradient(0, theta)
        c = 0.9 * m + 0.1 * g
        m = 0.99 * m + 0.01 * g
        theta = theta - 0.05 * (np.sign(c) + 0.1 * theta)
    x = execute(alone, sign_sgd, problem, 60, **config).x
    np.testing.assert_allclose(x, theta, rtol=0, atol=1e-12)


def test_warm_up() -> None:
    """C(beta) as in the paper, for 0.9, and as worked out from its definition."""
    assert [sign_sgd.warm_up_steps(beta) for beta in (0.5, 0.7, 0.9, 0.95, 0.99)] == [1, 1, 54, 132, 894]
