"""Loss against time of one trace: python plot_h5py.py TRACE.h5 OUT.png"""

import sys

import h5py
import matplotlib.pyplot as plt

trace, out = sys.argv[1:]
with h5py.File(trace) as run:
    t_s, loss = run["evaluations/t_s"][:], run["evaluations/loss"][:]
    about = "{algorithm}, stragglers {stragglers}\n{problem}, {n_workers} workers, {claim_class}".format(**run.attrs)

plt.plot(t_s, loss, marker="o")
plt.title(about)
plt.xlabel("time (s)")
plt.ylabel("loss at the mean model")
plt.savefig(out)
