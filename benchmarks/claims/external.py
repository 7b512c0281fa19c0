"""Results that others published, or asked for, beside the papers that the programs are of."""

import json
import math
from collections.abc import Callable
from typing import Final

import numpy as np
from scipy import stats

from outpace.benchmarks.claims import katyusha_x
from outpace.benchmarks.claims.claim import EXTERNAL, Claim, Grade, Kind, Repetition, Scale, Table, Threshold
from outpace.benchmarks.claims.statistics import slope
from outpace.comm import sign, topology
from outpace.comm.quantise import Quantiser

LOOKED_UP: Final = "2026-11-29"
KARIMIREDDY: Final = f"Karimireddy et al., ICML 2019, https://arxiv.org/abs/1901.09847, {LOOKED_UP}"
YING: Final = f"Ying et al., NeurIPS 2021, https://arxiv.org/abs/2110.13363, {LOOKED_UP}"
VOGELS: Final = f"Vogels, Hendrikx, Jaggi, JMLR 2023, https://arxiv.org/abs/2301.02151, {LOOKED_UP}"
ROWS: Final = np.array([[1.5, -0.5], [-0.5, 1.5]])
Gradient = Callable[[np.ndarray], np.ndarray]


def descend(x: np.ndarray, gradient: Gradient, steps: int, step: float, feedback: bool, box: float = math.inf) -> float:
    """One worker's steps from x, which they change, by the kernels of `sign_sgd`: signs, or scaled signs with error
    feedback. Kept within [-box, box]. Returns the mean of the sum of x over the second half of the steps."""
    words, coins, memory = np.zeros((1, 1, 1), np.uint32), np.zeros(1, np.uint32), np.zeros_like(x)
    sums = np.empty(steps)
    for k in range(steps):
        g, scale = gradient(x), step
        if feedback:
            scale = sign.feedback_ballot(g, memory, step, coins, 0, words[0, 0])
        else:
            sign.ballot(g, coins, 0, words[0, 0])
        sign.apply(x, words, np.array([scale]), 1.0)
        np.clip(x, -box, box, out=x)
        sums[k] = x.sum()
    return float(sums[steps // 2 :].mean())


def _end(one: Repetition, feedback: bool) -> float:
    """Where x/4 over [-1, 1] is taken to from 0, by gradients that are 4 with chance 1/4, else -1."""
    rng = np.random.default_rng([19, one.seed])
    return descend(np.zeros(1), lambda _: np.where(rng.random(1) < 0.25, 4.0, -1.0), 20_000, 0.01, feedback, box=1)


def _least_squares(one: Repetition, feedback: bool) -> np.ndarray:
    """Where (a_1'x)^2 + (a_2'x)^2, a = +-(1, -1) + (1, 1)/2, is taken to from (1, 1), by one of the two at a time."""
    rng, x = np.random.default_rng([20, one.seed]), np.ones(2)

    def gradient(x: np.ndarray) -> np.ndarray:
        a = ROWS[rng.integers(2)]
        return np.asarray(2 * (a @ x) * a)

    descend(x, gradient, 4000, 0.05, feedback)
    return x


def _log_objective(one: Repetition) -> float:
    return math.log10(max(1e-300, float(((ROWS @ _least_squares(one, feedback=True)) ** 2).sum())))


def _drift(id: str, feedback: bool, threshold: Threshold, sentence: str) -> Claim:
    return Claim(
        id=id,
        group=EXTERNAL,
        source=f"{KARIMIREDDY}, counter-example 1",
        sentence=sentence,
        grade=Grade.DERIVED,
        estimator="mean of x over the second half of 20,000 steps on x/4 in [-1, 1]",
        estimate=lambda one: _end(one, feedback),
        threshold=threshold,
    )


def _qsgd(one: Repetition) -> float:
    """E |Q(v) - v|^2 over the bound min(d/s^2, sqrt(d)/s) |v|^2, the worst of some levels s."""
    rng = np.random.default_rng([21, one.seed])
    v, decoded = rng.standard_normal(1000), np.empty(1000)
    ratios = []
    for s in (1, 4, 16):
        codec = Quantiser(s, False, v, np)
        total = 0.0
        message = np.zeros((1, codec.message_words), np.uint32)
        for _ in range(200):
            codec.encode(v, codec.norm(v), rng, message[0])
            codec.mean(message, decoded)
            total += float(((decoded - v) ** 2).sum())
        ratios.append(total / 200 / (min(1000 / s**2, math.sqrt(1000) / s) * float(v @ v)))
    return max(ratios)


STEP: Final = 0.1
DIM: Final = 1000


def _settled(topologies: list[str], n: int) -> Callable[[Scale], Table]:
    """D-PSGD on f_i = |x - c|^2 / 2 in noise N(0, 1), until it is stationary and longer."""

    def sweep(scale: Scale) -> Table:
        flags = {"problem": f"quadratic:dim={DIM},condition=1,sigma=1", "step-size": STEP, "batch-size": 1}
        flags |= {"dtype": "float64", "evaluations": 100, "topology": topologies, "epochs": 1500 * n / 1024}
        return {"programs": ["d_psgd"], "workers": n, "flags": flags}

    return sweep


def _modes(text: str, n: int) -> np.ndarray:
    """Stationary variance of each mode of W but the mean's, the largest eigenvalue last: x_{k+1} = W x_k - gamma g."""
    eigenvalues = np.linalg.eigvalsh(topology.mixing_matrix(text, n))
    return np.asarray(STEP**2 / (1 - (eigenvalues - STEP) ** 2))


def _consensus(one: Repetition) -> float:
    run = one.runs[0]
    consensus, n = run.column("evaluations", "consensus"), int(run.attrs["n_workers"])
    return float(consensus[len(consensus) // 4 :].mean() / (DIM * _modes("ring", n)[:-1].sum() / n))


GRAPHS: Final = ["ring", "path", "star", "complete", "hypercube", "exponential"]


def effective_neighbours(W: np.ndarray, decay: float) -> float:
    """How many workers average a worker's noise, where what it has falls by sqrt(decay) a step."""
    squares = np.linalg.eigvalsh(W) ** 2
    return float(1 / (1 - decay) / np.mean(squares / (1 - decay * squares)))


def _better_than_the_gap(one: Repetition) -> float:
    """Of two rank correlations with how good the workers' own models are, the one of the effective number of
    neighbours less the one of the spectral gap."""
    error, number, gap = [], [], []
    for text in GRAPHS:
        run = one.run(topology=text)
        W = topology.mixing_matrix(text, int(run.attrs["n_workers"]))
        columns = [run.column("evaluations", name) for name in ("suboptimality", "consensus")]
        above, apart = (float(column[len(column) // 4 :].mean()) for column in columns)
        error.append(above + apart / 2)
        number.append(effective_neighbours(W, (1 - STEP) ** 2))
        gap.append(topology.spectral_gap(W))
    by_number, by_gap = (stats.spearmanr(one, error).statistic for one in (number, gap))
    return float(by_gap - by_number)  # a good graph has small errors, so -1 is perfect


POWERS: Final = (4, 8, 16, 32, 64)


def _gap_of_static_exponential(one: Repetition) -> float:
    """Largest relative distance of the spectral gap from 2/(1 + log2 n)."""
    gaps = [topology.spectral_gap(topology.mixing_matrices("static-exponential", n)[0]) for n in POWERS]
    return max(abs(gap * (1 + math.log2(n)) / 2 - 1) for gap, n in zip(gaps, POWERS, strict=True))


def _one_peer_average(one: Repetition) -> float:
    """Largest distance of the product of log2 n matrices from 11'/n, entry by entry."""

    def distance(n: int) -> float:
        product = np.eye(n)
        for W in topology.mixing_matrices("one-peer", n)[: round(math.log2(n))]:
            product = W @ product
        return float(np.abs(product - 1 / n).max())

    return max(map(distance, POWERS))


def _late_rank(scale: Scale) -> Table:
    flags = {"problem": "quadratic:dim=100", "compute-time": 0.05, "stragglers": "fixed:rank=1,factor=5"}
    return {
        "programs": ["allreduce_sgd"],
        "workers": scale.n(4),
        "flags": flags | {"time-budget": scale.of(4, 2), "evaluations": 1},
    }


def _named(one: Repetition) -> float:
    """Share of the steps in which all others wait 150 ms or more and rank 1 waits least."""
    (run,) = one.runs
    rank, wait_s = run.column("steps", "rank"), run.column("steps", "wait_s")
    n = int(run.attrs["n_workers"])
    steps = min((rank == worker).sum() for worker in range(n))
    waits = np.array([wait_s[rank == worker][:steps] for worker in range(n)])
    others = np.delete(waits, 1, axis=0).min(axis=0)
    return float(((waits.argmin(axis=0) == 1) & (others >= 0.15)).mean())


SLOPE_GAPS: Final = [2e-2, 2e-3, 1e-3]


def _exponent_of_condition(one: Repetition, program: str) -> float:
    runs = [one.run(program, problem=katyusha_x.instance(gap)) for gap in SLOPE_GAPS]
    conditions = [json.loads(run.attrs["constants"])["L"] / gap for run, gap in zip(runs, SLOPE_GAPS, strict=True)]
    return slope(conditions, [run.effort_to(katyusha_x.TARGET) for run in runs])


def _slope_of(program: str, name: str, exponent: float, source: str) -> Claim:
    return Claim(
        id=f"{name}-slope",
        group=EXTERNAL,
        source=source,
        sentence=f"Passes of {'SVRG' if program == 'svrg' else 'Katyusha X'} grow as the condition number to the power "
        f"{exponent:g}.",
        grade=Grade.DERIVED,
        estimator="exponent of L/sigma = 47, 482, 965 in the passes to 1e-8; sums of non-convex functions",
        estimate=lambda one: _exponent_of_condition(one, program),
        threshold=Threshold(
            "the theory's exponent, give or take 0.15 for the passes besides", exponent - 0.15, exponent + 0.15
        ),
        sweep=katyusha_x.to_target(SLOPE_GAPS),
        long=True,
    )


CLAIMS: Final = (
    _drift(
        "sign-wrong-end",
        False,
        Threshold("past half-way to the end", 0.5, 1),
        "signSGD drifts to the wrong end of x/4 over [-1, 1], +1.",
    ),
    _drift(
        "feedback-right-end",
        True,
        Threshold("past half-way to the end", -1, -0.5),
        "With error feedback signSGD goes to the right end of x/4 over [-1, 1], -1.",
    ),
    Claim(
        id="sign-least-squares",
        group=EXTERNAL,
        source=f"{KARIMIREDDY}, a counter-example in least squares",
        sentence="signSGD never leaves the line x_1 + x_2 = 2 of a least-squares problem.",
        grade=Grade.DERIVED,
        estimator="distance of x_1 + x_2 from 2 after 4,000 steps",
        estimate=lambda one: abs(float(_least_squares(one, feedback=False).sum()) - 2),
        threshold=Threshold("rounding", most=1e-9),
        kind=Kind.EXACT,
    ),
    Claim(
        id="feedback-least-squares",
        group=EXTERNAL,
        source=f"{KARIMIREDDY}, a counter-example in least squares",
        sentence="Error feedback solves the same problem: the objective reaches 1e-15.",
        grade=Grade.DERIVED,
        estimator="log10 of the objective after 4,000 steps",
        estimate=_log_objective,
        threshold=Threshold("1e-15", most=-15),
        kind=Kind.EXACT,
    ),
    Claim(
        id="qsgd-variance",
        group=EXTERNAL,
        source=f"Alistarh et al., NeurIPS 2017, https://arxiv.org/abs/1610.02132, {LOOKED_UP}",
        sentence="QSGD's variance is at most min(d/s^2, sqrt(d)/s) |v|^2.",
        grade=Grade.DERIVED,
        estimator="mean of |Q(v) - v|^2 over 200 draws, over the bound, the worst of s = 1, 4, 16; d = 1000",
        estimate=_qsgd,
        threshold=Threshold("it is a bound", most=1),
    ),
    Claim(
        id="d-psgd-consensus",
        group=EXTERNAL,
        source="Lian et al., NeurIPS 2017, https://arxiv.org/abs/1705.09056: the recursion, a linear one here",
        sentence="On a noisy quadratic the models of D-PSGD are as far apart as the closed form of its recursion says.",
        grade=Grade.DERIVED,
        estimator="settled consensus distance over (d/n) sum_j gamma^2 sigma^2 / (1 - (lambda_j - gamma)^2), ring of 4",
        estimate=_consensus,
        threshold=Threshold("equal within a tenth, for a finite run", 0.9, 1.1),
        sweep=_settled(["ring"], 4),
        figure="consensus",
    ),
    Claim(
        id="static-exponential-gap",
        group=EXTERNAL,
        source=YING,
        sentence="The static exponential graph of n workers has a spectral gap of 2/(1 + log2 n).",
        grade=Grade.DERIVED,
        estimator="largest relative distance of the gap from that, n = 4 to 64",
        estimate=_gap_of_static_exponential,
        threshold=Threshold("rounding", most=1e-9),
        kind=Kind.EXACT,
        repetitions=1,
    ),
    Claim(
        id="one-peer-exact",
        group=EXTERNAL,
        source=f"{YING}, abstract",
        sentence="The one-peer exponential graphs average exactly after log2 n steps, for n a power of two.",
        grade=Grade.PAPER,
        estimator="largest distance of the product of their matrices from 11'/n, n = 4 to 64",
        estimate=_one_peer_average,
        threshold=Threshold("rounding", most=1e-12),
        kind=Kind.EXACT,
        repetitions=1,
    ),
    Claim(
        id="effective-neighbours",
        group=EXTERNAL,
        source=VOGELS,
        sentence="The effective number of neighbours ranks graphs better than the spectral gap does.",
        grade=Grade.CHOSEN,
        estimator="its rank correlation with the quality of D-PSGD's local models, less the gap's; six graphs of 8",
        estimate=_better_than_the_gap,
        threshold=Threshold("better by a swap of two neighbours in six ranks or more", least=0.05),
        sweep=_settled(GRAPHS, 8),
        repetitions=3,
        long=True,
    ),
    Claim(
        id="late-rank-is-named",
        group=EXTERNAL,
        source=f"asked of a trace tool in https://github.com/traceopt-ai/traceml/issues/252, {LOOKED_UP}",
        sentence="With 200 ms more on rank 1 all other ranks' communication is as long, and the trace still names "
        "rank 1.",
        grade=Grade.CHOSEN,
        estimator="share of AllReduce-SGD's steps in which the others wait 150 ms or more and rank 1 waits least",
        estimate=_named,
        threshold=Threshold("all but one in ten", least=0.9),
        sweep=_late_rank,
        repetitions=3,
        figure="timeline",
    ),
    _slope_of("svrg", "svrg", 1, f"{katyusha_x.SOURCE}: (N + sqrt(N) L/sigma) log(1/eps) gradients of SVRG"),
    _slope_of(
        "katyusha_x", "katyusha-x", 0.5, f"{katyusha_x.SOURCE}: (N + N^(3/4) sqrt(L/sigma)) log(1/eps) gradients"
    ),
)
