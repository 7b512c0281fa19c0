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
from outpace.comm import schedules, sign, spec
from outpace.comm.arrays import Wired, to_host
from outpace.comm.batches import Batches, Sampling
from outpace.comm.schedules import step_sizes
from outpace.comm.spec import PositiveFloat, PositiveInt, Range, Seed, Switch
from outpace.comm.streams import CODEC

BLOCK = 1 << 14  # coordinates that are coded at a time on the CPU, a multiple of 32: no step allocates a vector


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
    g = xp.empty_like(x)
    quantiser = spec.parse(cfg.codec, CODECS, "--codec")
    codec, norm = Codec(quantiser, x, xp), np.empty(1)
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
        g *= gamma(k)
        trace.snapshot(x)
        x -= g
        trace.record()
    return x


class Codec:
    """Vectors like x to messages, shape (message_words,), and back."""

    def __init__(self, quantiser, x, xp):
        self.xp, self.dtype, self.dim = xp, x.dtype, x.size
        self.levels, self.greatest = quantiser.levels, quantiser.norm == "max"
        self.planes = 1 + self.levels.bit_length()
        self.head = x.dtype.itemsize // 4  # words that hold N
        self.message_words = self.head + self.planes * sign.words(self.dim)
        self.block = BLOCK if xp is np else self.dim
        self.hashes = xp.empty(self.dim, dtype=np.uint32)
        self.toss = sign.kernels(xp).toss
        self.toss(0, self.hashes)  # compiles it, which is set-up

    def norm(self, v):
        """N of v; infinite where v is not finite, since a NaN may be lost in a maximum over workers."""
        norm = float(max(v.max(), -v.min()) if self.greatest else self.xp.sqrt(v @ v))
        return norm if norm < np.inf else np.inf

    def encode(self, v, norm, rounding, message):
        """message <- Q(v) with this N, by one number of `rounding`, a NumPy generator. An infinite N makes the decoded
        vector NaN."""
        xp, bits = self.xp, self._bits(message[None])[0]
        message[: self.head] = xp.asarray([norm], dtype=self.dtype).view(np.uint32)
        rate = self.levels / norm if 0 < norm < np.inf else 0.0
        self.toss(int(rounding.integers(2**32)), self.hashes)
        for start in range(0, self.dim, self.block):
            part = v[start : start + self.block]
            level = xp.abs(part)
            level *= rate
            level += self._uniform(self.hashes[start : start + self.block])
            level = xp.fmin(level, self.levels).astype(np.uint8)  # by rounding, s |v| / N may exceed s
            for plane, flags in enumerate([part < 0, *(level & (1 << b) for b in range(self.planes - 1))]):
                packed = xp.packbits(flags, bitorder="little")
                bits[plane, start // 8 : start // 8 + packed.size] = packed

    def mean(self, messages, v):
        """v <- the mean of the decoded messages, shape (n, message_words)."""
        xp, n = self.xp, len(messages)
        norms = to_host(messages[:, : self.head]).copy().view(self.dtype).ravel()
        bits = self._bits(messages)
        v[:] = 0
        for start in range(0, self.dim, self.block):
            part = v[start : start + self.block]
            for norm, planes in zip(norms, bits, strict=True):
                block = planes[:, start // 8 : -(-(start + part.size) // 8)]
                negative, *magnitude = (xp.unpackbits(plane, bitorder="little")[: part.size] for plane in block)
                level = sum(plane << b for b, plane in enumerate(magnitude)).astype(np.int8)
                level *= 1 - 2 * negative.astype(np.int8)
                part += level * self.dtype.type(norm / (self.levels * n))

    def _uniform(self, hashes):
        """Numbers in [0, 1), of as many of a hash's leading bits as a real of this type holds."""
        digits = min(np.finfo(self.dtype).nmant + 1, 32)
        u = (hashes >> (32 - digits)).astype(self.dtype)
        u *= 2.0**-digits
        return u

    def _bits(self, messages):
        """The planes of messages as bytes, shape (n, planes, 4 words)."""
        rows = messages.view(np.uint8)[:, 4 * self.head :]
        return rows.reshape(len(messages), self.planes, -1)


if __name__ == "__main__":
    main(run, Config)
