"""What networks see of their data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import shares
from jobs import Job
from networks import some_of_fashion_mnist
from PIL import Image

from outpace.benchmarks.problems import augmentation


def test_batches_are_augmented_and_what_is_evaluated_is_not(tmp_path: Path) -> None:
    """In training by seed, worker and number of the gradient: as if the augmented images were the samples."""
    text = f"torch:model=lenet5,data={some_of_fashion_mnist(tmp_path, 60, 20)}"
    plain, augmented = (shares(text + more, 2, seed=4)[1] for more in ("", ",augment=crop4+flip"))
    x, g, expected = plain.x0(), np.empty(plain.dim), np.empty(plain.dim)
    assert augmented.loss(x) == plain.loss(x)
    assert augmented.held_out(x) == plain.held_out(x)
    augmented.gradient(x, None, g)
    plain.gradient(x, None, expected)
    np.testing.assert_array_equal(g, expected)
    batch = np.array([3, 9, 20])
    for augmented.calls in (0, 7):
        augmented.gradient(x, batch, g)
        seen = augmentation.parse("crop4+flip", "")(plain.train.records[batch], 4, 1, augmented.calls)
        (other,) = shares(text, 2, seed=4)[1:]
        other.train.records[batch] = seen
        other.gradient(x, batch, expected)
        np.testing.assert_array_equal(g, expected)


@pytest.mark.parametrize("program", ["d_psgd", "ad_psgd"])
def test_a_damaged_image_ends_the_run_with_its_name_and_its_rank(
    start: Callable[..., Job], tmp_path: Path, program: str
) -> None:
    """Rank 1 alone comes upon it, in mid-run, while the others wait for it or do not."""
    rng = np.random.default_rng(0)
    for name in (*(f"train/{label}/{j}.png" for label in "ab" for j in range(8)), "test/a/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(tmp_path / name)
    damaged = tmp_path / "train/b/5.png"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    flags = ["--problem", f"torch:model=lenet5,data=folder:{tmp_path},side=32", "--split", "labels:classes=1"]
    code, _, err = start(program, 2, *flags, "--epochs", "50", "--batch-size", "1", outpace=True).end()
    assert code == 2
    assert f"rank 1: --problem torch: cannot read {damaged}: it is damaged, or no image" in err.splitlines()
    assert "Traceback" not in err
