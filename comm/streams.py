"""Random streams: what they are for. Every one is `numpy.random.default_rng([PURPOSE, seed, ...])`.

The purpose comes first, so two uses never share numbers, however alike the rest is. Within a purpose the list
has one fixed length, and each of its numbers is below 2^32. NumPy cuts the numbers into words of 32 bits and
pads with zeros: `[5, 1]` is the stream of `[5, 1, 0]`, and `[5, 2**32 + 7, 0]` that of `[5, 7, 1]`. Worker 0
would repeat what all workers share, and worker 0 of a large seed what worker 1 of a small one draws.
"""

from typing import Final

BATCHES: Final = 1  # which samples a gradient uses
DELAYS: Final = 2  # injected straggler delays
NOISE: Final = 3  # gradient noise of made problems
SPLIT: Final = 4  # which samples a worker holds
INIT: Final = 5  # the start x_0
PEERS: Final = 6  # whom a worker averages with
MADE_DATA: Final = 7  # data and coefficients of made problems
GRAPH: Final = 8  # edges of random topologies
TIES: Final = 9  # what a zero and a tied vote become
ADVERSARIES: Final = 10  # signs that adversaries make up
CODEC: Final = 11  # rounding of quantised gradients
GEOMETRY: Final = 12  # order of a pass, probes of the curvature
EPOCHS: Final = 13  # lengths of SVRG's epochs, the same on every rank
SHARED_BATCHES: Final = 14  # samples of a batch that all workers share out among them
LINKS: Final = 15  # when others use the network
NETWORK: Final = 16  # which pairs of many ranks are measured
AUGMENTATION: Final = 17  # how the images of a batch are cropped and mirrored
DROPOUT: Final = 18  # what a network drops, or draws otherwise, in a step
PAIRS: Final = 19  # who averages with whom in a round, the same on every rank
PROJECTION: Final = 20  # where the search for the leading singular vectors begins, the same on every rank
JITTER: Final = 21  # shares of a simulated port
