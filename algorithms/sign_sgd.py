"""signSGD and Signum with majority vote (Bernstein et al., ICML 2018, arXiv:1802.04434, Algorithms 1 to 3; ICLR 2019,
arXiv:1810.05291, Algorithm 1), signSGD with error feedback (Karimireddy et al., arXiv:1901.09847), Distributed Lion
(Liu et al., NeurIPS 2024, arXiv:2404.00438) and stochastic signs (Jin et al., arXiv:2002.10940).

    signsgd      s_i = sign(g_i)
    signum       m_i <- beta m_i + (1 - beta) g_i,  s_i = sign(m_i);  m_i is never averaged
    lion         s_i = sign(beta1 m_i + (1 - beta1) g_i),  m_i <- beta2 m_i + (1 - beta2) g_i
    sto-sign     s_i is +1 with the chance 1/2 + g_i / (2 b), else -1, so that E s_i = g_i / b
    majority     x <- (1 - gamma lambda) x - gamma sign(sum_i s_i)
    sum          x <- (1 - gamma lambda) x - gamma sum_i s_i

    ef-signsgd   p_i = gamma g_i + e_i,  d_i = (|p_i|_1 / dim) sign(p_i),  e_i <- p_i - d_i
    sum          x <- (1 - gamma lambda) x - (1/n) sum_i d_i
    majority     the mean of the d_i is compressed as p_i is, with an error memory where it is formed: one bit both
                 ways (DoubleSqueeze, Tang et al., arXiv:1905.05957)

With `--vote none` the gradients are averaged in full precision and every worker takes the step of one worker alone:
the sign of the mean, which is no vote. gamma is the step size, over sqrt(k + 1) in step k by default. Where the weight
decay is coupled, g_i is the gradient plus lambda x, and x does not shrink.

Every worker holds the same model, and each step waits for the slowest of all workers. What a step sends for a majority
is told in `comm/vote.py`: 2(n-1)/n bits per coordinate with the default exchange. A sum comes down as a byte per
coordinate (signsgd, signum) or a float (ef-signsgd), which adds the workers' scales, a float each to all owners of a
chunk, and back from them for a majority. Without a vote, one Allreduce of dim numbers.

Deviations from the papers:
1. What a zero and a tied vote become is open there; here `--ties` says it, see `comm.vote.Coins`. By default both are
   fair signs, a zero's opposite on workers 2i and 2i + 1. With `keep` a second bit per coordinate comes down, but for
   ef-signsgd: a mean of scaled signs is no vote, and where it is zero it takes a sign as with `random`. With `abstain`
   sign(0) = 0, as in the ICML paper's experiments: a second bit goes up and one comes down.
2. By default the chunks of the model have an owner each; `--exchange server` is the papers' one server, which is
   worker 0 here.
3. The scale of ef-signsgd's second compression is of each owner's chunk, not of the whole model.
4. The b of sto-sign is one number: `--bound`, or in each step the greatest |g_ij| of a worker, but at most 4 root mean
   squares of its g_i, of the worker where this is most, for which an Allreduce of 8 bytes comes first; the paper leaves
   a b per coordinate to be chosen, above all |g_ij|. What is beyond b has the sign that it has: few coordinates, which
   without the cut would make the signs of all others chance. A zero is a fair sign, whatever `--ties` says.
5. A worker whose signs would come from a NaN has lost its model, which becomes NaN too and ends the run as diverged.
   Up to the agreed end, within two agreement periods, the others count its ballots, where a NaN votes as a zero does.
   With ef-signsgd its scale is NaN too, and so becomes everybody's model; so it is with sto-sign's common b.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules, sign, vectors
from outpace.comm.adversaries import adversaries, adversary
from outpace.comm.arrays import copy, twin
from outpace.comm.batches import Batches, Sampling
from outpace.comm.errors import UserError
from outpace.comm.outcomes import OUTCOMES
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import Decay, NonNegativeFloat, PositiveFloat, PositiveInt, Seed
from outpace.comm.streams import ADVERSARIES, CODEC, TIES
from outpace.comm.vote import Coins, ballots_each, check_sums_fit

CUT = 4  # root mean squares of a gradient, above which its coordinates are outliers to sto-sign


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat | None = None  # gamma; by default 0.1, 0.1 / n for a sum, and for ef-signsgd 1, as of SGD
    schedule: str = "sqrt"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    batches: Literal["constant", "growing"] = "constant"  # growing: k + 1 times as many samples in step k
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    variant: Literal["signsgd", "signum", "ef-signsgd", "lion", "sto-sign"] = "signsgd"  # a worker's signs, and of what
    vote: Literal["majority", "sum", "none"] = "majority"  # what becomes of the signs
    exchange: Literal["sharded", "server", "int8"] = "sharded"  # how they travel
    ties: Literal["random", "keep", "plus", "abstain"] = "random"  # what a zero and a tied vote become, see Coins
    momentum: Decay = 0.9  # beta, of signum
    warm_up: bool = False  # signum steps by signs of gradients for the first C(beta) steps, as its theory does
    beta1: Decay = 0.9  # of lion, for its signs
    beta2: Decay = 0.99  # of lion, for its momentum
    bound: PositiveFloat | None = None  # b of sto-sign; by default the greatest |g_ij|, outliers cut off
    weight_decay: NonNegativeFloat = 0.0  # lambda
    decay: Literal["decoupled", "coupled"] = "decoupled"  # of x after the vote, or lambda x added to every g_i
    adversaries: str = "none"  # SPEC of workers that lie: flip:rank=0+1 (negated signs), random:rank=0+1
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and momentum
    seed: Seed = 0  # of data order, batches, delays and ties

    by_nccl = True
    younger = MappingProxyType({"beta1": 0.9, "beta2": 0.99, "bound": None})

    @property
    def title(self):
        names = {"signum": "Signum", "ef-signsgd": "EF-signSGD", "lion": "D-Lion", "sto-sign": "sto-signSGD"}
        name = names.get(self.variant, "signSGD")
        return f"{name} without a vote" if self.vote == "none" else name

    def check(self, n):
        """Raise UserError for flags that do not go together, or not with n workers."""
        schedule = schedules.parse(self.schedule)
        if self.batches == "growing" and (schedule.warm_up or isinstance(schedule, schedules.Step)):
            raise UserError(
                f"--schedule {self.schedule} counts epochs, and with --batches growing they differ in steps; "
                "allowed: constant, sqrt, cosine, without warm-up"
            )
        if self.vote == "sum":
            check_sums_fit(n, ballots_each(self.ties), "--vote sum")
        if self.vote == "majority" and self.exchange == "int8":
            check_sums_fit(n, ballots_each(self.ties), "--exchange int8")
        if self.variant == "ef-signsgd" and self.vote != "none" and self.exchange == "int8":
            raise UserError("--exchange int8 sends signs without the scales of ef-signsgd; allowed: sharded, server")
        if self.ties == "abstain" and (self.vote == "none" or self.variant in ("ef-signsgd", "sto-sign")):
            raise UserError(
                "--ties abstain is for votes of signs, which --vote none and ef-signsgd are not, and sto-sign gives a "
                "zero a sign; allowed: random, keep, plus"
            )
        if self.vote == "none" and self.adversaries != "none":
            raise UserError("--adversaries lie about their signs, and --vote none sends none; allowed: majority, sum")
        adversaries(self.adversaries, n)

    def samples(self, k):
        """How many are in a worker's gradient of step k."""
        return self.batch_size * (k + 1) if self.batches == "growing" else self.batch_size

    def steps_in(self, epochs, n_total, n):
        """Steps of n workers in so many epochs."""
        steps = super().steps_in(epochs, n_total, n)  # with batches of batch_size
        return (math.sqrt(1 + 8 * steps) - 1) / 2 if self.batches == "growing" else steps  # K: K (K + 1) / 2 = steps

    def first_step(self, n):
        """The step size of n workers."""
        if self.step_size is not None:
            return self.step_size
        if self.variant == "ef-signsgd":
            return 1.0
        return 0.1 / n if self.vote == "sum" else 0.1


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns the model x, shape (dim,)."""
    xp = problem.xp
    x = problem.x0()
    g = xp.zeros_like(x)
    g_wire = twin(g, comm)
    coupled = cfg.weight_decay if cfg.decay == "coupled" else 0.0
    penalise = vectors.penalise.like(x)
    shrinking = cfg.weight_decay - coupled
    vote = OUTCOMES[cfg.vote, cfg.variant == "ef-signsgd"](cfg.exchange, cfg.ties, comm, x, xp)
    cards = vote.cards
    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    ties, lies = np.random.default_rng([TIES, cfg.seed]), np.random.default_rng([ADVERSARIES, cfg.seed, comm.rank])
    voter = comm.rank if cfg.vote != "none" else 0  # without a vote every worker does what worker 0 does
    coins = Coins(cfg.ties, ties, voter, comm.size, cards.shape[1], xp)
    bound, bounding = np.full(1, cfg.bound or 1.0), cfg.variant == "sto-sign" and cfg.bound is None
    cast, memory = VARIANTS[cfg.variant](cfg, g, xp, voter, bound)
    tamper = adversary(adversaries(cfg.adversaries, comm.size), lies, comm.rank, xp)
    # A toss, and a step of length 0 and no gradient, so that no sign kernel is compiled in the timed part.
    sign.kernels(xp).toss(0, cards[0])
    vote.exchange(coins, cast(0, 0.0, coins, cards))
    vote.update(x, 1.0)

    first, per_epoch = cfg.first_step(comm.size), cfg.steps_per_epoch(problem.n_total, comm.size)
    gamma = step_sizes(cfg.schedule, first, per_epoch, budget.total)
    budget.keep(x=x, **batches.memory, ties=ties, lies=lies, **memory, **vote.memory)
    for k in budget:
        step = gamma(k)
        batch = batches.draw(cfg.samples(k))
        problem.gradient(x, batch, g)
        if coupled:
            penalise(coupled, 1, x, g)
        if cfg.vote == "none":
            copy(g, g_wire)
            with trace.phase("allreduce", nbytes=g.nbytes):
                comm.Allreduce(MPI.IN_PLACE, g_wire)
            copy(g_wire, g)
            g /= comm.size
        if bounding:
            bound[0] = greatest(g)
            with trace.phase("allreduce", nbytes=bound.nbytes):
                comm.Allreduce(MPI.IN_PLACE, bound, MPI.MAX)
        coins.toss()
        scale = cast(k, step, coins, cards)
        for card in cards:
            tamper(card)
        with trace.phase("vote", nbytes=vote.nbytes):
            vote.exchange(coins, scale)
        trace.snapshot(x)
        vote.update(x, 1.0 - step * shrinking)
        if not math.isfinite(scale):
            x.fill(math.nan)
        trace.record()
    return x


# Each variant returns cast(k, step, coins, cards), which writes the signs of its vector onto every ballot and returns
# the length of a step by one sign: NaN, or infinite, where the vector is not finite; and what it remembers, by name.


def signsgd(cfg, g, xp, voter, bound):
    ballot = sign.kernels(xp).ballot

    def cast(k, step, coins, cards):
        nan = [ballot(g, coins.zeros, turn, card) for turn, card in zip(coins.turns, cards, strict=True)]
        return math.nan if any(nan) else step

    return cast, {}


def signum(cfg, g, xp, voter, bound):
    m = xp.zeros_like(g)
    momentum_ballot = sign.kernels(xp).momentum_ballot
    (of_gradient, _), (of_momentum, _) = (signsgd(cfg, v, xp, voter, bound) for v in (g, m))
    warm_up = warm_up_steps(cfg.momentum) if cfg.warm_up else 0

    def cast(k, step, coins, cards):
        if momentum_ballot(g, m, cfg.momentum, coins.zeros, coins.turns[0], cards[0]):
            return math.nan
        if k < warm_up:
            return of_gradient(k, step, coins, cards)
        return step if len(cards) == 1 else of_momentum(k, step, coins, cards)

    return cast, {"m": m}


def ef_signsgd(cfg, g, xp, voter, bound):
    e = xp.zeros_like(g)
    feedback_ballot = sign.kernels(xp).feedback_ballot

    def cast(k, step, coins, cards):
        return feedback_ballot(g, e, step, coins.zeros, *coins.turns, *cards)

    return cast, {"e": e}


def lion(cfg, g, xp, voter, bound):
    m, c = xp.zeros_like(g), xp.empty_like(g)
    momentum_ballot = sign.kernels(xp).momentum_ballot
    of_c, _ = signsgd(cfg, c, xp, voter, bound)
    blend = vectors.blend.like(m)

    def cast(k, step, coins, cards):
        c[:] = m
        if momentum_ballot(g, c, cfg.beta1, coins.zeros, coins.turns[0], cards[0]):
            return math.nan
        blend(cfg.beta2, 1 - cfg.beta2, g, m)
        return step if len(cards) == 1 else of_c(k, step, coins, cards)

    return cast, {"m": m}


def sto_sign(cfg, g, xp, voter, bound):
    seed = int(np.random.default_rng([CODEC, cfg.seed, voter]).integers(2**32))
    stochastic_ballot = sign.kernels(xp).stochastic_ballot

    def cast(k, step, coins, cards):
        b = bound.item() or 1.0  # it is 0 where all gradients are: fair signs
        nan = stochastic_ballot(g, b, int(sign.hashed(k, seed)), cards[0])
        return math.nan if nan or b == math.inf else step

    return cast, {}


VARIANTS = {"signsgd": signsgd, "signum": signum, "ef-signsgd": ef_signsgd, "lion": lion, "sto-sign": sto_sign}


def greatest(g):
    """max |g_j|, but at most `CUT` root mean squares of g; infinite where g is not finite, as a NaN may be lost in a
    maximum over workers."""
    most = float(max(g.max(), -g.min()))
    if not most < math.inf:
        return math.inf
    return min(most, CUT * math.sqrt(float(g.dot(g)) / g.size) or most)  # squares of tiny numbers are 0


def warm_up_steps(beta):
    """C(beta) of Signum's theorem: the least C >= 1 with (C/2) beta^C (1 - beta^2)(C + 1) <= 1 and beta^(C+1) <= 1/2.

    >>> [warm_up_steps(beta) for beta in (0.5, 0.9, 0.95, 0.99)]
    [1, 54, 132, 894]
    """
    steps = 1
    while steps / 2 * beta**steps * (1 - beta**2) * (steps + 1) > 1 or beta ** (steps + 1) > 0.5:
        steps += 1
    return steps


if __name__ == "__main__":
    main(run, Config)
