"""Where the time of each worker's steps went: python plot_xarray.py TRACE.h5 OUT.png"""

import sys

import matplotlib.pyplot as plt
import xarray as xr

trace, out = sys.argv[1:]
run = xr.open_dataset(trace, engine="h5netcdf").attrs
steps = xr.open_dataset(trace, group="steps", engine="h5netcdf").load()
means = steps[["compute_s", "injected_s", "wait_s"]].groupby(steps["rank"]).mean()

means.to_dataframe().plot.bar(stacked=True, rot=0)
plt.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
plt.title("{algorithm}, stragglers {stragglers}\n{problem}, {n_workers} workers, {claim_class}".format(**run))
plt.xlabel("rank")
plt.ylabel("mean time of a step (s)")
plt.savefig(out, bbox_inches="tight")
