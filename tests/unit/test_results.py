"""results/README.md and its scripts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_traces import simulate

from outpace.benchmarks.figures import FIGURES
from outpace.benchmarks.trace import schema

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("script", ["plot_h5py.py", "plot_xarray.py"])
def test_the_plotting_scripts_stand_in_the_readme_and_run(tmp_path, script):
    blocks = re.findall(r"```python\n(.*?)```", (RESULTS / "README.md").read_text(), re.DOTALL)
    assert (RESULTS / script).read_text() in blocks
    out = tmp_path / "out.png"
    command = [sys.executable, "-W", "error", str(RESULTS / script), str(simulate(tmp_path / "run.h5")), str(out)]
    done = subprocess.run(command, env=os.environ | {"MPLBACKEND": "Agg"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 5000


def test_the_readme_describes_every_attribute_and_column():
    text = (RESULTS / "README.md").read_text()
    for name in schema.ATTRIBUTES:
        assert f"`{name}`" in text
    for columns in schema.GROUPS.values():
        for name, column in columns.items():
            assert f"| `{name}` | {column.dtype} | {column.units} | {column.long_name}" in text
    for name in (*schema.STATUSES, *schema.CLAIM_CLASSES, *schema.PROGRESS, *schema.PROGRESS_LOADS, *FIGURES):
        assert f"`{name}`" in text
    for group, table in schema.TABLES.items():
        assert f"`/{group}`" in text
        for name in (*table.columns, *table.scales):
            assert f"`{name}`" in text
    for kind, number in schema.KIND.items():
        assert f"{number} {kind}" in text
