"""Katyusha X: SVRG with one more line between its epochs (Allen-Zhu, ICML 2018, arXiv:1802.03866).

    y_{-1} = y_0 = x_0
    X^s:   x_{k+1} = (3/2 y_k + 1/2 x_k - (1 - tau) y_{k-1}) / (1 + tau),   tau = min{1/2, 1/2 sqrt(m eta sigma)}
    X^w:   x_{k+1} = ((3k + 1) y_k + (k + 1) x_k - (2k - 2) y_{k-1}) / (2k + 4)
           y_{k+1} = SVRG^1ep(x_{k+1})                                            see `svrg`

For objectives f + psi that are sigma-strongly convex (X^s) or convex (X^w), while the f_j of the samples need not be.
With tau = 1/2 X^s is SVRG. Momentum moves the anchors only; inside an epoch there is none.

With `--application` the sum to be minimised changes every `--stage` epochs, and the momentum starts anew:
    pca, svd         leading components of the rows of `svd`, one after the other: shift and invert with deflation
    newton           Newton steps on `logistic` or `libsvm`: each minimises the quadratic model, plus sigma/2 |p|^2
    proximal-point   minimises f(x) + sigma |x - x_s|^2 for the last stage's x_s; f need not be convex

Waits and costs are those of `svrg`. An application adds a full gradient or product, and its Allreduce, per stage.

Deviations from the paper:
1. The extra line is computed as a difference, which leaves y_k untouched, to the bit, where tau = 1/2:
   x_{k+1} = y_k + (1/2 (x_k - y_{k-1}) + (1/2 - tau)(y_k - y_{k-1})) / (1 + tau), and X^w likewise.
2. The applications are the plain forms: a stage has a fixed number of epochs, where the analysis has a schedule of the
   accuracies that stages are solved to.
3. The shift is the Rayleigh quotient of the last stage's v, plus twice its residual, plus the problem's gap.
4. `--epoch-length fixed` is not the paper's; tau takes its m.
"""

from dataclasses import dataclass
from typing import Literal

from outpace.algorithms import svrg
from outpace.algorithms.svrg import Epoch
from outpace.benchmarks.problems import applications
from outpace.benchmarks.program import main
from outpace.comm import prox
from outpace.comm.budget import Stop
from outpace.comm.errors import UserError
from outpace.comm.spec import NonNegativeFloat, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class Config(svrg.Config):
    variant: Literal["s", "w"] = "s"  # for strongly convex objectives, or for convex ones
    sigma: PositiveFloat | None = None  # strong convexity; the problem's without
    application: Literal["none", "pca", "svd", "newton", "proximal-point"] = "none"  # an outer loop, see above
    stage: PositiveInt = 20  # epochs from one sum of the application to the next
    regularisation: NonNegativeFloat | None = None  # sigma of newton (0 if convex) and proximal-point (-mu)

    @property
    def title(self):
        name = {"s": "Katyusha Xˢ", "w": "Katyusha Xʷ"}[self.variant]
        return f"{name}, stratified" if self.sampling == "stratified" else name

    def derive(self, problem):
        if self.application == "none":
            return super().derive(problem)
        applications.check(self, problem)
        return {}  # they change from stage to stage

    def constants(self, problem):
        """As in `svrg`, with sigma and tau. Raises UserError where the variant needs what is not known or not so."""
        base = super().constants(problem)
        sigma = self.sigma
        if sigma is None:
            mu = getattr(problem, "mu", None)
            if mu is not None and mu < 0:
                raise UserError(
                    "--problem: the objective is not convex, which Katyusha X needs; allowed: svrg, or "
                    "--application proximal-point"
                )
            sigma = None if mu is None else mu + prox.parse(self.prox).mu
        if self.variant == "w":
            return Constants(base.m, base.L, base.step_size, sigma, None)
        if not sigma:
            raise UserError("--sigma is needed: this problem does not know its strong convexity; or take --variant w")
        tau = min(0.5, 0.5 * (base.m * base.step_size * sigma) ** 0.5)
        return Constants(base.m, base.L, base.step_size, sigma, tau)


@dataclass(frozen=True)
class Constants(svrg.Constants):
    sigma: float | None  # strong convexity of the objective
    tau: float | None  # of X^s


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns the model y, shape (dim,), or what the application makes of it."""
    task = applications.begin(cfg, problem, comm, trace)
    epoch = Epoch(comm, task.sum, cfg, trace)
    y = task.sum.x0()
    x, y_previous = y.copy(), y.copy()  # x_k, y_{k-1}
    budget.keep(x=x, y=y, y_previous=y_previous, lengths=epoch.lengths, batches=epoch.batches, **task.kept)
    for k in budget:
        j = k % cfg.stage if task.stages else k
        if j == 0:
            task.pose(y)
            x[:] = y_previous[:] = y
            if task.done:
                budget.stop(Stop.DONE)
        constants = cfg.constants(task.sum)
        eta, tau = constants.step_size, constants.tau
        trace.snapshot(task.model(y))
        # x_{k+1} = y_k + a (x_k - y_{k-1}) + c (y_k - y_{k-1})
        a, c = (0.5 / (1 + tau), (0.5 - tau) / (1 + tau)) if cfg.variant == "s" else weights(j)
        x -= y_previous
        x *= a
        y_previous -= y
        y_previous *= -c
        x += y_previous
        x += y
        y_previous[:] = y
        epoch(x, y, eta)
        trace.record()
    return task.model(y)


def weights(k):
    """a and c of X^w"""
    return (k + 1) / (2 * k + 4), (k - 3) / (2 * k + 4)


if __name__ == "__main__":
    main(run, Config)
