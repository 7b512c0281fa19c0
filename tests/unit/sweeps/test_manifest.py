"""Manifests."""

import pytest
from small_sweeps import SMALL, described

from outpace.benchmarks.sweeps.description import load
from outpace.benchmarks.sweeps.manifest import manifest
from outpace.comm.errors import UserError


def test_manifest_brings_the_points_back(tmp_path):
    sweep = load(described(tmp_path, SMALL), tmp_path / "a folder")
    path = tmp_path / "m.txt"
    path.write_text(manifest(sweep.points))
    assert load(path).points == sweep.points
    assert load(path).folder == sweep.folder
    with pytest.raises(UserError, match="is a manifest, whose points have their folder"):
        load(path, tmp_path)


def test_a_manifest_that_is_not_whole_is_refused(tmp_path):
    """Cut anywhere, or with a line lost, doubled or changed."""
    text = manifest(load(described(tmp_path, SMALL)).points[:4])
    lines = text.splitlines(keepends=True)
    broken = [text[:cut] for cut in range(len(lines[0]), len(text) - 1, 7)]
    broken += ["".join(lines[:2] + lines[3:]), "".join(lines[:2] + lines[1:]), text.replace("--seed=0", "--seed=1")]
    path = tmp_path / "m.txt"
    for each in broken:
        path.write_text(each)
        with pytest.raises(UserError, match="not a whole manifest"):
            load(path)
