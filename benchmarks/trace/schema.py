"""The trace schema: what one HDF5 file per run holds (described for readers in docs/trace.md).

The writer, the validator behind `outpace show` and the figures all read this table, so they cannot differ.
"""

from dataclasses import dataclass
from typing import Final

SCHEMA: Final = "outpace/trace"
VERSION: Final = 1

STATUSES: Final = ("complete", "partial", "diverged")
CLAIM_CLASSES: Final = ("measured", "emulated", "simulated")

# Whether a rank that computes this run's gradients serves messages meanwhile (`machine.async_progress`); "none" where
# no message has to be: one rank, or a synchronous program.
PROGRESS: Final = ("wait-free", "progress-limited", "none")
PROGRESS_LOADS: Final = ("gradient", "numpy", "sleep", "gil")  # what the rank does that is asked

# The kinds of /events and their numbers. `inject` is the straggler's injected delay, `wait` is
# for a ticket of the shared budget; time blocked inside a named exchange has the exchange's own kind.
KIND: Final = {  # 6 is free: no program had a use for it
    "compute": 0,
    "inject": 1,
    "wait": 2,
    "exchange": 3,
    "allreduce": 4,
    "vote": 5,
    "push": 7,
    "checkpoint": 8,
}
COMMUNICATION: Final = ("exchange", "allreduce", "vote", "push")
ROUNDS: Final = ("exchange", "allreduce", "vote")  # of which a synchronous program's rounds are made


@dataclass(frozen=True)
class Column:
    """One 1-D column of a group: NumPy dtype, units (UDUNITS words; "1" for a count) and a long name."""

    dtype: str
    units: str
    long_name: str
    optional: bool = False


# group -> column -> description. Columns of a group have equal length and share one dimension scale `row`
# (`worker` in /workers, `rank` in /clock, `coordinate` in /model).
GROUPS: Final[dict[str, dict[str, Column]]] = {
    "evaluations": {
        "t_s": Column("f8", "s", "time since the start of the timed part, on rank 0's clock"),
        "samples": Column("i8", "1", "samples used by all workers together until then"),
        "epoch": Column("f8", "1", "samples / n_total"),
        "loss": Column("f8", "1", "objective at the mean of the local models, or at the servers' model"),
        "gradient_norm": Column("f8", "1", "Euclidean norm of the full gradient there"),
        "gradient_norm_1": Column("f8", "1", "sum of the absolute values of the full gradient there", optional=True),
        "consensus": Column("f8", "1", "(1/n) sum of squared distances of the local models to their mean"),
        "held_out_loss": Column("f8", "1", "mean loss of the held-out samples at the same model", optional=True),
        "accuracy": Column("f8", "1", "share of held-out samples classified correctly", optional=True),
        "suboptimality": Column("f8", "1", "objective minus its known minimum", optional=True),
        "prox_residual": Column("f8", "1", "norm of x - prox(x - gradient), where there is --prox", optional=True),
        "gradients": Column("f8", "1", "gradients of single samples until then / n_total", optional=True),
        "rounds": Column("i8", "1", "rounds of communication until then, of synchronous programs", optional=True),
        "nbytes": Column("i8", "byte", "payload sent by all ranks until then, of synchronous programs", optional=True),
    },
    "workers": {
        "data_share": Column("f8", "1", "share of all samples that the worker holds"),
        "update_share": Column(
            "f8",
            "1",
            "weight in the updates: the worker's share of the applied gradients, or 1/n",
        ),
    },
    "steps": {
        "rank": Column("i4", "1", "worker that computed the gradient"),
        "step": Column("i8", "1", "the worker's own count of gradients, from 0"),
        "t_s": Column(
            "f8", "s", "time at which the gradient was applied or dropped, by the first server where one does it"
        ),
        "compute_s": Column("f8", "s", "time in the gradient, emulated compute time included"),
        "injected_s": Column("f8", "s", "straggler delay injected into the gradient"),
        "wait_s": Column("f8", "s", "time the gradient loop was blocked on other ranks"),
        "staleness": Column("i8", "1", "gradients applied anywhere between the read of the model and the use"),
        "local_writes": Column("i8", "1", "writes to the worker's own model between the read and the use"),
        "samples": Column("i8", "1", "samples in the gradient"),
        "applied": Column("i1", "1", "1 where the gradient was applied, 0 where it was dropped", optional=True),
    },
    "events": {
        "rank": Column("i4", "1", "rank on which it happened"),
        "kind": Column("i1", "1", "what happened, see flag_meanings"),
        "t_start_s": Column("f8", "s", "start"),
        "t_end_s": Column("f8", "s", "end"),
        "step": Column("i8", "1", "the worker's own step at the time"),
        "peer": Column("i4", "1", "the other rank, -1 for none or many"),
        "nbytes": Column("i8", "byte", "payload sent by this rank"),
    },
    "clock": {
        "offset_s": Column("f8", "s", "rank 0's clock minus this rank's, at the start"),
        "drift": Column("f8", "1", "change of the offset per second"),
        "uncertainty_s": Column("f8", "s", "half the shortest round trip of the estimate"),
    },
    "geometry": {
        "t_s": Column("f8", "s", "time of the evaluation"),
        "epoch": Column("f8", "1", "samples / n_total"),
        "gradient_density": Column("f8", "1", "phi(g) of the full gradient, |g|_1^2 / (dim |g|_2^2)"),
        "noise_density": Column("f8", "1", "phi(sigma), sigma the standard deviation of a batch's gradient"),
        "curvature_density": Column("f8", "1", "phi of the Hessian's diagonal, estimated by 16 probes"),
        "snr_p5": Column("f8", "1", "5 % quantile of |g| / sigma over the coordinates with noise"),
        "snr_p25": Column("f8", "1", "25 % quantile"),
        "snr_p50": Column("f8", "1", "median"),
        "snr_p75": Column("f8", "1", "75 % quantile"),
        "snr_p95": Column("f8", "1", "95 % quantile"),
        "snr_above": Column("f8", "1", "share of them above the critical 2/sqrt(3)"),
        "live": Column("f8", "1", "share of the coordinates with noise"),
    },
    "noise": {
        "evaluation": Column("i8", "1", "row of /evaluations"),
        "coordinate": Column("i8", "1", "of the model"),
        "sigma": Column("f8", "1", "standard deviation of a batch's gradient there"),
        "low": Column("f8", "1", "lower edge of a bin of the noise over sigma; the bin is 0.5 wide"),
        "share": Column("f8", "1", "share of the batches whose noise lies in the bin"),
    },
    "network": {
        "a": Column("i4", "1", "lower rank of the pair"),
        "b": Column("i4", "1", "higher rank of the pair"),
        "rtt_s": Column("f8", "s", "shortest round trip of an empty message before the timed part"),
        "bytes_per_s": Column("f8", "byte s-1", "rate of the slower way while both ranks send to each other"),
    },
    "links": {
        "rank": Column("i4", "1", "whose link it is"),
        "t_s": Column("f8", "s", "when it had this rate"),
        "bytes_per_s": Column("f8", "byte s-1", "rate of the link from then on, each way"),
    },
    "model": {"x_mean": Column("f8", "1", "mean of the local models at the end")},
}
OPTIONAL: Final = ("geometry", "noise", "network", "links")  # groups that a trace need not have
SCALES: Final = {"workers": "worker", "clock": "rank", "model": "coordinate"}  # the others: "row"
COUNTS_ONLY: Final = ("row", "coordinate")  # scales that hold no numbers: of long tables these would be half of a file


@dataclass(frozen=True)
class Table:
    """A group of arrays over two dimension scales."""

    scales: tuple[str, str]
    columns: dict[str, Column]
    optional: bool = False


TABLES: Final[dict[str, Table]] = {
    "traffic": Table(  # between all ranks, the timed part only
        ("sender", "receiver"),
        {
            "messages": Column("i8", "1", "messages sent"),
            "nbytes": Column("i8", "byte", "payload sent"),
        },
    ),
    "labels": Table(  # where the data has labels, in increasing order
        ("worker", "label"), {"samples": Column("i8", "1", "samples of the label that the worker holds")}, optional=True
    ),
}

ATTRIBUTES: Final[dict[str, type]] = {
    "schema": str,
    "schema_version": int,
    "status": str,
    "algorithm": str,
    "command": str,
    "config": str,  # JSON, all values resolved
    "config_id": str,  # hash of what was asked for, without the output flags
    "problem": str,
    "split": str,
    "stragglers": str,
    "topology": str,
    "backend": str,
    "dtype": str,
    "n_workers": int,
    "dim": int,
    "n_total": int,
    "n_samples": list,  # per worker
    "seed": int,
    "claim_class": str,
    "progress": str,
    "progress_wait_s": list,  # in the order of PROGRESS_LOADS; empty where `progress` is "none"
    "started_utc": str,
    "wall_s": float,
    "outpace_version": str,
    "git_commit": str,
    "mpi_library": str,
    "thread_level": str,
    "hostnames": list,
    "cpu_model": str,
    "cores": int,
    "gpu": str,
    "python_version": str,
    "numpy_version": str,
    "mpi4py_version": str,
    "h5py_version": str,
    "cupy_version": str,
}
LISTS: Final[dict[str, type]] = {"n_samples": int, "progress_wait_s": float, "hostnames": str, "gpus": str}  # of what
NEEDED: Final = (  # without these a run can neither be labelled nor be compared with another one
    "status",
    "algorithm",
    "config",
    "problem",
    "split",
    "stragglers",
    "n_workers",
    "n_total",
    "seed",
    "claim_class",
)
OPTIONAL_ATTRIBUTES: Final[dict[str, type]] = {
    "load": float,  # cores of some rank that other processes kept busy at the start
    "crc32": int,  # of the other root attributes
    "gpus": list,  # per worker, of runs on GPUs: the device's PCI address and UUID
    "backend_choice": str,  # why the run computed where it did, if it was left to it
    "device_messages": str,  # of runs on GPUs: staged in host memory, or direct
    "fabric": str,  # of runs on GPUs: what carries messages of their arrays, mpi or nccl
    "vector_passes": str,  # compiled, or why they are NumPy's; of runs on CPUs
    "glibc_tunables": str,  # what the C library was told of memory, where it was told anything
    "damage": str,  # what recovery found damaged, and left out
    "inputs": str,  # JSON: SHA-256 of every file that the run read, a user's own program among them
    "title": str,  # the program's name for people, or its variant's
    "links": str,  # the links between the ranks; none where it is missing
    "constants": str,  # JSON: what the program took from the problem, and how far its workers' gradients differ
    "parameters": str,  # JSON: the shape of every parameter of a network, by its name, in the model's order
    "machine": str,  # TOML: the machine on which a simulated run was predicted
    "stated_error": str,  # JSON: by how much predictions for that machine have been wrong, by kind of setting
    "answer": str,  # JSON: how far the final model is from what LAPACK finds
}
