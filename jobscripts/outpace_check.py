"""A check for sites that use ReFrame: the programs run here, their traces are whole, and their rates are recorded.

    reframe -C SITE.py -c jobscripts/outpace_check.py -r
    reframe -C SITE.py -c jobscripts/outpace_check.py -r -S num_tasks=64 -S stragglers=fixed:rank=0,factor=10

`outpace` must be on the PATH of the environments that the site file defines, and the launchers of its partitions must
fit outpace's MPI: a run refuses a world of another size than was asked for.
"""

import reframe
import reframe.utility.sanity as sn
from reframe.core.builtins import parameter, performance_function, run_after, run_before, sanity_function, variable


@reframe.simple_test
class OutPace(reframe.RunOnlyRegressionTest):
    """One program on images of digits; the loss must fall, or the program states no rate."""

    program = parameter(["allreduce_sgd", "a_psgd", "d_psgd", "ad_psgd"])
    stragglers = variable(str, value="none")
    num_tasks = 4
    valid_systems = ["*"]
    valid_prog_environs = ["*"]
    executable = "python3"
    keep_files = ["run.h5"]
    env_vars = {"PYTHONSAFEPATH": 1, "OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1}

    @run_after("init")
    def name_it(self):
        self.descr = f"OutPace {self.program}, stragglers {self.stragglers}"

    @run_before("run")
    def set_the_flags(self):
        flags = ["--epochs", "10", "--compute-time", "0.002", "--stragglers", self.stragglers]
        module = ["-m", "mpi4py", "-m", f"outpace.algorithms.{self.program}"]
        self.executable_opts = [*module, *flags, "--ranks", str(self.num_tasks), "--out", "run.h5"]
        self.postrun_cmds = ["outpace show run.h5"]

    @sanity_function
    def trace_is_whole(self):
        said = sn.assert_found(rf"{self.program}: loss .*; complete, .*, wrote run\.h5", self.stdout)
        shown = sn.assert_found(rf"program .*\({self.program}\), complete", self.stdout)
        return sn.all([said, shown])

    @performance_function("samples/s")
    def rate(self):
        return sn.extractsingle(r", (\S+) samples/s;", self.stdout, 1, float)
