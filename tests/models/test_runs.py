"""Whole runs of the model that docs/networks.md shows."""

import importlib.util
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import documents
import numpy as np
import pytest
import torch
from jobs import Job, die, outpace
from networks import some_of_fashion_mnist

from outpace.benchmarks.problems.image_files import MNIST
from outpace.benchmarks.trace import checkpoint
from outpace.benchmarks.trace.inspection import validate
from outpace.benchmarks.trace.run import Run

Start = Callable[..., Job]


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    (source,) = (block for kind, block in documents.FENCE.findall(documents.text_of("docs/networks.md")) if kind)
    assert len(source.split("\n")) - source.count("\n\n") <= 16  # the last one is empty
    (tmp_path / "net.py").write_text(source)
    data = some_of_fashion_mnist(tmp_path, 640, 100)
    return ["--problem", f"torch:model=net.py:Net,loss=smoothed,data={data}", "--step-size", "0.05"]


def finished(job: Job, code: int = 0) -> Run:
    ended, out, err = job.end()
    assert ended == code, out + err
    validate(job.target)
    return Run(job.target)


def test_the_documented_model_is_trained_and_exported(
    start: Start, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded into a module made anew has the accuracy and the loss that the trace ends with."""
    run = finished(start("d_psgd", 2, *flags, "--epochs", "2", "--evaluations", "1", outpace=True))
    assert run.column("evaluations", "held_out_loss")[-1] < run.column("evaluations", "held_out_loss")[0]
    assert sum(np.prod(shape) for shape in run.objects["parameters"].values()) == run.attrs["dim"]
    monkeypatch.chdir(tmp_path)
    done = outpace("show", "--export-model", "run.h5", "-o", "net.pt")
    assert done.returncode == 0, done.stderr
    spec: Any = importlib.util.spec_from_file_location("net", tmp_path / "net.py")
    spec.loader.exec_module(net := importlib.util.module_from_spec(spec))
    model = net.Net().eval()
    raw = (tmp_path / "t10k-images-idx3-ubyte").read_bytes()[16:]
    images = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(100, 1, 28, 28)
    labels = torch.frombuffer(bytearray((tmp_path / "t10k-labels-idx1-ubyte").read_bytes()[8:]), dtype=torch.uint8)
    about = MNIST["fashion-mnist"]
    inputs = (images / 255 - about.mean[0]) / about.std[0]
    with torch.no_grad():
        model(inputs)  # the lazy layer
        model.load_state_dict(torch.load(tmp_path / "net.pt"))
        logits = model(inputs)
        loss = net.smoothed(logits, labels.long())
    assert float(loss) == pytest.approx(run.column("evaluations", "held_out_loss")[-1], rel=1e-5)
    assert (logits.argmax(1) == labels).float().mean() == pytest.approx(run.column("evaluations", "accuracy")[-1])
    (tmp_path / "net.py").write_text((tmp_path / "net.py").read_text() + "\n")
    done = outpace("show", "--export-model", "run.h5", "-o", "other.pt")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "outpace: run.h5: net.py changed since the run, which cannot be exported without it\n"


@pytest.fixture
def restless(flags: list[str], tmp_path: Path) -> list[str]:
    """The flags of runs with dropout, batch normalisation and a buffer that every step changes."""
    source = (tmp_path / "net.py").read_text()
    normed = source.replace("nn.LazyLinear(10)", "nn.utils.parametrizations.spectral_norm(nn.Linear(2304, 10))")
    assert normed != source
    (tmp_path / "net.py").write_text(normed)
    return [*flags, "--epochs", "6", "--compute-time", "0.02", "--evaluations", "2"]


def check_the_same(resumed: Run, whole: Run) -> None:
    """Bit for bit, in the model and its losses."""
    assert resumed.attrs["status"] == "complete"
    for group, name in (("model", "x_mean"), ("evaluations", "loss"), ("evaluations", "held_out_loss")):
        np.testing.assert_array_equal(resumed.column(group, name), whole.column(group, name), err_msg=name)


def test_a_run_repeats_and_goes_on_bit_for_bit(start: Start, restless: list[str]) -> None:
    """Uninterrupted or not."""
    whole = finished(start("allreduce_sgd", 2, *restless, name="whole.h5"))
    job = start("allreduce_sgd", 2, *restless)
    job.wait_until_running(2, 0.5)
    job.process.send_signal(signal.SIGUSR1)
    assert finished(job, 75).attrs["status"] == "partial"
    assert checkpoint.common(job.target, 2) == 1
    check_the_same(finished(start("allreduce_sgd", 2, *restless)), whole)


def test_a_run_that_lost_a_rank_goes_on_bit_for_bit(
    start: Start, restless: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` of one rank, some steps after a checkpoint: what was written is a trace, with the losses of a network
    that is made anew for it, and the same command ends as if nothing had been."""
    monkeypatch.chdir(tmp_path)
    whole = finished(start("d_psgd", 2, *restless, name="whole.h5"))
    flags = [*restless, "--checkpoint-every", "0.4"]
    job = start("d_psgd", 2, *flags)
    pids = job.wait_until_running(2, 0.0)
    while checkpoint.common(job.target, 2) < 2:
        assert job.process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(pids[1], signal.SIGKILL)
    code, _, _ = job.end()
    assert code
    assert die(pids.values(), 10)
    done = outpace("show", "--recover", str(tmp_path))
    assert done.returncode == 0, done.stderr
    validate(job.target)
    recovered = Run(job.target)
    loss = recovered.column("evaluations", "held_out_loss")
    assert recovered.attrs["status"] == "partial"
    assert loss[-1] < loss[0]
    check_the_same(finished(start("d_psgd", 2, *flags)), whole)


def test_bad_input_is_one_line(start: Start) -> None:
    """From one rank for all, and exit code 2."""
    job = start("allreduce_sgd", 2, "--problem", "torch:model=gone.py:net,data=digits", outpace=True)
    code, _, err = job.end()
    assert code == 2
    (line,) = [line for line in err.splitlines() if "--problem" in line and "mpiexec" not in line]
    assert "gone.py: no such file" in line
    assert "Traceback" not in err
