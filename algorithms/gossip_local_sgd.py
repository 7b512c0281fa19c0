"""Gossip local SGD, and NoLoCo (Kolehmainen et al., arXiv:2506.10911): workers train alone, and every H steps each of
them averages with one other, drawn at random. There is no collective.

    every step       x_i <- the local rule's step with grad F_i(x_i; xi_i)
    every H steps    all workers are paired at random; j is i's partner, and phi_i the model that i's round began with
        --outer none       x_i <- (x_i + x_j) / 2
        --outer nesterov   delta_i <- mu delta_i + eta/2 (x_i - phi_i + x_j - phi_j) + omega/2 (phi_j - phi_i)
                           phi_i <- phi_i + delta_i,   x_i <- phi_i

The second is NoLoCo's modified Nesterov step, with mu, eta and omega for its alpha, beta and gamma: the way of the
pair, in place of that of all workers, and a pull towards the pair's mean. Without momentum and with eta = omega = 1
it is the first. The pull and the plain average keep the sum of all models. The local rule is one of
`comm/local_rules.py`, and its moments stay with the worker.

The pairs of all rounds are drawn from a stream that all ranks share, so partners agree without a message. A worker
waits for its partner of the round, through it for that one's partner of the round before, and so on: after some log2
n rounds for everybody. A step k is a local step; what is evaluated is the mean of the x_i.
Cost per H steps: a message of dim numbers, each way at the same time.

Deviations from the papers:
1. A pair sends one vector each, s = eta x + (omega - eta) phi, of which delta_i <- mu delta_i + (s_i + s_j)/2 - omega
   phi_i makes the same step; the paper sends two, phi apart from how far the worker has come.
2. With an odd number of workers one has no partner in a round: it is its own.
3. There is no pipeline of model stages, and so no random routing of samples through it.
4. By default omega is eta, as in the authors' code; eta and mu are those of their experiments.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import bfloat16, schedules
from outpace.comm.batches import Batches, Sampling
from outpace.comm.bfloat16 import Formed, WireDtype, WireFormat
from outpace.comm.local_rules import STEP_SIZES, Rule, local_rule
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import Decay, NonNegativeFloat, PositiveFloat, PositiveInt, Seed
from outpace.comm.streams import PAIRS


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat | None = None  # gamma; by default 0.2, for adam and adamw 0.05; of NoLoCo see derive
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    period: PositiveInt = 8  # H, local steps from one average to the next
    rule: Rule = "sgd"  # of the local steps
    beta1: Decay = 0.9  # decay of the momentum, or of Adam's first moment
    beta2: Decay = 0.999  # decay of Adam's second moment
    weight_decay: NonNegativeFloat = 0.0  # lambda: lambda x joins the gradient; of adamw, decoupled
    outer: Literal["none", "nesterov"] = "none"  # what is done with the pair's average: it is taken, or NoLoCo
    outer_step_size: PositiveFloat = 0.7  # eta
    outer_momentum: Decay = 0.5  # mu
    outer_pull: PositiveFloat | None = None  # omega, towards the pair's mean; by default eta
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and messages
    wire_dtype: WireDtype = "same"  # of vectors in messages: as they are, or halves of float32, rounded at random
    seed: Seed = 0  # of data order, batches, delays, pairs and rounding
    by_nccl = True
    younger = MappingProxyType({"wire_dtype": "same"})

    @property
    def title(self):
        return "NoLoCo" if self.outer == "nesterov" else "Gossip local SGD"

    def check(self, n):
        """Raise UserError for a schedule that there is not, and for messages that are no halves."""
        schedules.parse(self.schedule)
        bfloat16.check(self.wire_dtype, self.dtype)

    def reach(self, n, diameter):
        """Twice log2 n rounds, after which it is rare that somebody has still to wait for somebody."""
        return self.period * max(1, 2 * (n - 1).bit_length())

    def derive(self, problem):
        """gamma and omega, for the trace. In the end an outer rule multiplies steps by eta / (1 - mu): the default
        gamma makes up for that."""
        factor = (1 - self.outer_momentum) / self.outer_step_size if self.outer == "nesterov" else 1
        return {
            "step_size": STEP_SIZES[self.rule] * factor if self.step_size is None else self.step_size,
            "outer_pull": self.outer_step_size if self.outer_pull is None else self.outer_pull,
        }


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns its local model x, shape (dim,)."""
    xp = problem.xp
    step_size, omega = cfg.derive(problem).values()
    eta, mu, omega = (cfg.outer_step_size, cfg.outer_momentum, omega) if cfg.outer == "nesterov" else (1.0, 0.0, 1.0)
    x = problem.x0()
    phi, delta, g = x.copy(), xp.zeros_like(x), xp.empty_like(x)
    form = WireFormat(cfg.wire_dtype, cfg.seed, comm.rank)
    s, r = (Formed(x, form, comm) for _ in range(2))  # what is sent, and received
    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    pairs = np.random.default_rng([PAIRS, cfg.seed])
    gamma = step_sizes(cfg.schedule, step_size, cfg.steps_per_epoch(problem.n_total, comm.size), budget.total)
    update, moments = local_rule(cfg, gamma, x, xp)
    budget.keep(x=x, phi=phi, delta=delta, pairs=pairs, **batches.memory, **moments, **form.memory)
    for k in budget:
        batch = batches.draw(cfg.batch_size)
        problem.gradient(x, batch, g)
        trace.snapshot(x)
        update(x, g, k)
        if (k + 1) % cfg.period == 0:
            xp.multiply(x, eta, out=s.array)
            xp.multiply(phi, omega - eta, out=g)
            s.array += g
            partner = partner_of(comm.rank, comm.size, pairs)
            if partner != comm.rank:
                with trace.phase("exchange", partner, s.nbytes):
                    comm.Sendrecv(s.to_wire(), partner, 0, r.wire, partner, 0)
                s.array += r.from_wire()
                s.array /= 2
            xp.multiply(phi, omega, out=g)
            delta *= mu
            delta += s.array
            delta -= g
            phi += delta
            x[:] = phi
        trace.record()
    return x


def partner_of(rank, n, rng):
    """Whom `rank` is paired with in the next round, each pairing of n ranks being as likely; itself where n is odd and
    nobody is left."""
    order = rng.permutation(n)
    place = int(np.flatnonzero(order == rank)[0])
    return int(order[place ^ 1]) if place ^ 1 < n else rank


if __name__ == "__main__":
    main(run, Config)
