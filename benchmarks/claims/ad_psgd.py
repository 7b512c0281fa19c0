"""AD-PSGD (Lian, Zhang, Zhang, Liu: Asynchronous Decentralized Parallel SGD, ICML 2018, arXiv:1710.06952): what its
models converge to, and what its workers send. Its pace is in `pace`."""

from typing import Final

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.claims.claim import Claim, Grade, Kind, Repetition, Scale, Table, Threshold
from outpace.benchmarks.claims.statistics import slope
from outpace.benchmarks.problems.problem import Setting
from outpace.benchmarks.problems.quadratic import Quadratic, Spec
from outpace.benchmarks.trace.run import Run, exchanges_per_gradient

GROUP: Final = "AD-PSGD"
SOURCE: Final = "Lian et al., ICML 2018, arXiv:1710.06952"
COMPUTE_S: Final = 0.005  # slept, so that workers may share cores
SLOWED: Final = "fixed:rank=0,factor=10"
UNEQUAL: Final = "quadratic:dim=200,condition=1,zeta=1"


def _on_digits(scale: Scale) -> Table:
    return {
        "programs": ["ad_psgd", "allreduce_sgd"],
        "workers": scale.n(4),
        "flags": {"problem": "digits", "epochs": scale.of(40, 10), "step-size": 0.2},
        "case": [{"compute-time": COMPUTE_S, "batch-size": 16}],
    }


def _beside_one_worker(scale: Scale) -> Table:
    table = _on_digits(scale)
    if (n := table["workers"]) > 1:
        table["case"].append({"workers": 1, "batch-size": 16 * n, "compute-time": 0})
        table["exclude"] = [{"program": "ad_psgd", "workers": 1}]
    return table


def _over_serial(one: Repetition) -> float:
    return one.run("ad_psgd").final_loss() / one.run("allreduce_sgd", 1).final_loss()


def _over_allreduce(one: Repetition) -> float:
    return one.run("ad_psgd").final_loss() / one.run("allreduce_sgd", compute_time=COMPUTE_S).final_loss()


def _exchanges(one: Repetition) -> float:
    """Per gradient, the least of AD-PSGD's runs: where cores are short they cannot keep up, and models drift apart."""
    return min(exchanges_per_gradient(run) or 0.0 for run in one.runs if run.attrs["algorithm"] == "ad_psgd")


def _lengths(scale: Scale) -> list[int]:
    return [512, 2048, 8192][: 2 if scale.quick else 3]


def _noisy(scale: Scale) -> Table:
    """K gradients of all workers together with a step size that falls as 1/sqrt(K)."""
    cases = [{"epochs": K / 1024, "step-size": 6.4 / K**0.5} for K in _lengths(scale)]
    flags = {"problem": "quadratic:dim=100,condition=10,sigma=1", "batch-size": 1, "compute-time": 0.002}
    return {"programs": ["ad_psgd"], "workers": scale.n(4), "flags": flags | {"evaluations": 100}, "case": cases}


def _rate(one: Repetition) -> float:
    lengths = _lengths(one.scale)
    means = [np.mean(one.run(epochs=K / 1024).column("evaluations", "gradient_norm") ** 2) for K in lengths]
    return slope(lengths, [float(mean) for mean in means])


def _traffic_of(program: str) -> Claim:
    def sweep(scale: Scale) -> Table:
        flags = {"problem": "quadratic:dim=25000", "compute-time": 0.02, "time-budget": scale.of(4, 2)}
        return {
            "programs": [program],
            "workers": [2, scale.n(8, quick=4)],
            "flags": flags | {"evaluations": 1, "dtype": "float32"},
        }

    def nbytes(run: Run) -> float:
        """Where cores are short there are fewer exchanges than gradients, which is no merit."""
        return run.busiest_nbytes() / (exchanges_per_gradient(run) or 1.0)

    def exponent(one: Repetition) -> float:
        runs = sorted(one.runs, key=lambda run: int(run.attrs["n_workers"]))
        return slope([run.attrs["n_workers"] for run in runs], [nbytes(run) for run in runs])

    gossip = program == "ad_psgd"
    who = "a worker" if gossip else "the server"
    return Claim(
        id="ad-psgd-traffic" if gossip else "a-psgd-traffic",
        group=GROUP,
        source=f"{SOURCE}, Table 1",
        sentence=f"{'AD-PSGD' if gossip else 'A-PSGD'}'s traffic at the busiest rank, {who}, "
        + ("does not grow with the workers: O(1)." if gossip else "grows with the workers: O(n)."),
        grade=Grade.DERIVED,
        estimator="exponent of n in the bytes through the busiest rank for one gradient and exchange of each worker",
        estimate=exponent,
        threshold=Threshold("a quarter of O(n)'s; chance draws of neighbours add a few per cent", most=0.25)
        if gossip
        else Threshold("the exponent of O(n), give or take a tenth", 0.9, 1.1),
        sweep=sweep,
        repetitions=5 if gossip else 2,
        kind=Kind.RANDOM if gossip else Kind.EXACT,
        long=True,
        figure="steps-rate",
    )


def _slow_one(scale: Scale) -> Table:
    flags = {"problem": UNEQUAL, "step-size": 0.02, "compute-time": 0.01, "time-budget": scale.of(6, 4)}
    return {
        "programs": ["ad_psgd"],
        "workers": scale.n(4),
        "flags": flags | {"stragglers": SLOWED, "evaluations": 100, "dtype": "float64"},
    }


def _fixed_point(one: Repetition) -> float:
    """Curvatures are 1, so at x the objective is |x - mean c_i|^2 / 2 above its minimum."""
    (run,) = one.runs
    n, seed = int(run.attrs["n_workers"]), int(run.attrs["seed"])
    setting = Setting(MPI.COMM_SELF, range(n), n, "iid", seed, "float64", np)
    spec = Spec(dim=200, condition=1.0, zeta=1.0)
    minima = np.array([Quadratic(spec, setting, worker, 1).c for worker in range(n)])
    expected = run.column("workers", "update_share") @ minima - minima.mean(axis=0)
    settled = run.column("evaluations", "t_s") > run.attrs["wall_s"] / 2
    return float(2 * run.column("evaluations", "suboptimality")[settled].mean() / (expected @ expected))


CLAIMS: Final = (
    Claim(
        id="ad-psgd-epochs",
        group=GROUP,
        source=f"{SOURCE}, abstract",
        sentence="Per epoch AD-PSGD converges like AllReduce-SGD.",
        grade=Grade.CHOSEN,
        estimator="final loss over AllReduce-SGD's with the same seed; digits, perceptron",
        estimate=_over_allreduce,
        threshold=Threshold("alike within a tenth; workers that never average end 1.5 times as high", 0.9, 1.1),
        kind=Kind.TIMING,
        control=_exchanges,
        sweep=_on_digits,
        repetitions=7,
        figure="loss-epochs",
    ),
    Claim(
        id="ad-psgd-epochs-sgd",
        group=GROUP,
        source=f"{SOURCE}, abstract",
        sentence="Per epoch AD-PSGD converges like SGD on one worker.",
        grade=Grade.CHOSEN,
        estimator="final loss over that of one worker with n times the batch, same seed; digits, perceptron",
        estimate=_over_serial,
        threshold=Threshold("alike within a tenth, as above", 0.9, 1.1),
        kind=Kind.TIMING,
        control=_exchanges,
        sweep=_beside_one_worker,
        repetitions=7,
    ),
    Claim(
        id="ad-psgd-rate",
        group=GROUP,
        source=f"{SOURCE}, abstract: O(1/sqrt(K))",
        sentence="AD-PSGD's mean squared gradient falls as 1/sqrt(K) in its K gradients, or faster.",
        grade=Grade.PAPER,
        estimator="exponent of K in the mean over the run of |grad f|^2, step size c/sqrt(K); noisy quadratic",
        estimate=_rate,
        threshold=Threshold("-1/2, give or take a tenth for the finite K", most=-0.4),
        kind=Kind.TIMING,
        control=_exchanges,
        sweep=_noisy,
        long=True,
    ),
    Claim(
        id="ad-psgd-fixed-point",
        group=GROUP,
        source=SOURCE,
        sentence="With workers of unequal speed and data AD-PSGD goes to the minimum weighted by their speeds, "
        "not to that of the mean.",
        grade=Grade.DERIVED,
        estimator="squared distance of the mean model to the unweighted minimum, over that of the weighted minimum",
        estimate=_fixed_point,
        threshold=Threshold(
            "1 is the weighted minimum, 0 the unweighted; staleness and finite steps blur a fifth", 0.8, 1.2
        ),
        kind=Kind.TIMING,
        control=_exchanges,
        sweep=_slow_one,
    ),
    _traffic_of("ad_psgd"),
    _traffic_of("a_psgd"),
)
