"""SGD with unbiased quantised gradients: QSGD (Alistarh et al., NeurIPS 2017, arXiv:1610.02132) and TernGrad (Wen et
al., NeurIPS 2017, arXiv:1705.07878), the baselines of signSGD.

    x <- x - gamma (1/n) sum_i Q(g_i),   Q(v)_j = (N / s) sign(v_j) l_j,   l_j = floor(s |v_j| / N + u_j)

with u_j uniform on [0, 1), so that E Q(v) = v. QSGD has s = levels and N = |v|_2, or N = max |v_j| with `norm=max`.
TernGrad has s = 1 and N = max |v_j|, or with `shared=1` the greatest N of all workers, its scaler sharing: all levels
are then in one unit.
A worker draws a key per step, of which and of j the u_j are a hash, `comm.sign.toss`: the same on a GPU as on the CPU.
They are multiples of 2^-24, or 2^-32 for float64, which is how far E Q(v) may be off, in units of N / s.

Every worker holds the same model. Each step waits for the slowest of all workers. A message is N and B = 1 + bits(s)
planes of bits, signs first, then l from its lowest bit: with W = ceil(dim / 32) words of 4 bytes a rank sends
(n-1)(4 B W + 4) bytes in an Allgather per step, 8 in place of the last 4 for float64. Every rank decodes all n of them.
A shared N takes an Allreduce of one number of 8 bytes before.

Deviations from the papers:
1. QSGD's levels go out in B bits each, without its Elias code, whose length would differ from rank to rank.
2. One N for the whole gradient; the papers have one per bucket or per layer.
3. TernGrad's clipping of gradients, which makes them biased, is left out.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from mpi4py import MPI

from outpace.benchmarks.config import ProgramConfig
from outpace.benchmarks.program import main
from outpace.comm import schedules, spec, vectors
from outpace.comm.arrays import Wired
from outpace.comm.batches import Batches, Sampling
from outpace.comm.quantise import Quantiser
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import PositiveFloat, PositiveInt, Range, Seed, Switch
from outpace.comm.streams import CODEC


@dataclass(frozen=True, kw_only=True)
class Qsgd:
    levels: Annotated[int, Range(least=1, most=127)] = 7  # s; 2^k - 1 fill their k bits
    norm: Literal["l2", "max"] = "l2"  # N
    shared = 0


@dataclass(frozen=True, kw_only=True)
class TernGrad:
    levels, norm = 1, "max"
    shared: Switch = 0  # 1: N is the greatest of all workers'


CODECS: dict[str, type[Any]] = {"qsgd": Qsgd, "terngrad": TernGrad}


@dataclass(frozen=True)
class Config(ProgramConfig):
    step_size: PositiveFloat = 0.2  # gamma
    schedule: str = "constant"  # SPEC of gamma over the steps: constant, sqrt, step:at=30+60, cosine
    batch_size: PositiveInt = 16  # samples per gradient of one worker
    sampling: Sampling = "replacement"  # how batches are drawn: with replacement, or shuffled passes
    codec: str = "qsgd"  # SPEC of the quantiser: qsgd:levels=7,norm=l2, terngrad:shared=0
    dtype: Literal["float32", "float64"] = "float32"  # of model, gradients and N
    seed: Seed = 0  # of data order, batches, delays and rounding
    title = "Quantized SGD"

    def check(self, n):
        """Raise UserError for a codec or a schedule that there is not."""
        schedules.parse(self.schedule)
        spec.parse(self.codec, CODECS, "--codec")


def run(comm, problem, cfg, budget, trace):
    """One worker; collective over comm. Returns the model x, shape (dim,)."""
    xp = problem.xp
    x = problem.x0()
    g, descend = xp.empty_like(x), vectors.descend.like(x)
    quantiser = spec.parse(cfg.codec, CODECS, "--codec")
    codec, norm = Quantiser(quantiser.levels, quantiser.norm == "max", x, xp), np.empty(1)
    messages = Wired((comm.size, codec.message_words), np.uint32, xp, comm)
    batches = Batches(cfg.sampling, problem.n_samples, cfg.seed, comm.rank)
    rounding = np.random.default_rng([CODEC, cfg.seed, comm.rank])
    gamma = step_sizes(cfg.schedule, cfg.step_size, cfg.steps_per_epoch(problem.n_total, comm.size), budget.total)
    budget.keep(x=x, rounding=rounding, **batches.memory)
    for k in budget:
        batch = batches.draw(cfg.batch_size)
        problem.gradient(x, batch, g)
        norm[0] = codec.norm(g)
        if quantiser.shared:
            with trace.phase("allreduce", nbytes=norm.nbytes):
                comm.Allreduce(MPI.IN_PLACE, norm, MPI.MAX)
        codec.encode(g, norm.item(), rounding, messages.array[comm.rank])
        messages.to_wire(comm.rank)
        with trace.phase("exchange", nbytes=(comm.size - 1) * messages.nbytes // comm.size):
            comm.Allgather(MPI.IN_PLACE, messages.wire)
        codec.mean(messages.from_wire(), g)
        trace.snapshot(x)
        descend(gamma(k), 1, g, x)
        trace.record()
    return x


if __name__ == "__main__":
    main(run, Config)
