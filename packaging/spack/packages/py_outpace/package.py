"""OutPace against the MPI that Spack provides; docs/artefact.md says how it is used, and what was tried."""

from spack.package import default_args, depends_on, license, variant, version
from spack_repo.builtin.build_systems.python import PythonPackage


class PyOutpace(PythonPackage):
    """An MPI benchmark suite for distributed SGD on machines whose workers do not all run at one pace."""

    license("Apache-2.0")

    version("0.1.0")  # from a checkout: spack dev-build

    variant("parquet", default=False, description="Tables of runs as Parquet")

    depends_on("python@3.11:", type=("build", "run"))
    depends_on("py-setuptools@77:", type="build")
    depends_on("mpi", type=("build", "run"))

    with default_args(type=("build", "run")):
        depends_on("py-numpy@2:")
        depends_on("py-mpi4py@4.1.1:4")
        depends_on("py-h5py@3.12:")
        depends_on("py-numba@0.61:")
        depends_on("py-matplotlib@3.9:")
        depends_on("py-tyro@0.9.18:")
        depends_on("py-rich@14:")
        depends_on("py-scikit-learn@1.5:")
        depends_on("py-scipy@1.13:")
        depends_on("py-jinja2@3.1:")
        depends_on("py-shtab@1.7:")
        depends_on("py-pyarrow@17:", when="+parquet")
