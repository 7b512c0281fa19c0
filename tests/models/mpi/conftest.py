"""As for the other tests under mpiexec."""

from mpi.conftest import (
    comm,
    pytest_internalerror,
    pytest_pyfunc_call,
    pytest_runtest_setup,
    pytest_sessionstart,
)

__all__ = ["comm", "pytest_internalerror", "pytest_pyfunc_call", "pytest_runtest_setup", "pytest_sessionstart"]
