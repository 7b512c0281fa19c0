# shellcheck shell=bash
# What the job scripts begin with: the settings of the site, where outpace is, how many tasks the job has.

export OUTPACE_JOBSCRIPTS
# Before `set -eu`, which a site's modules and activation scripts need not bear.
set -a
# shellcheck source=site.env
. "$OUTPACE_JOBSCRIPTS/site.env"
set +a
set -euo pipefail

# The one named, that on the PATH, or that of a virtual environment here or beside the job scripts.
for outpace in ${OUTPACE:+"$OUTPACE"} outpace .venv/bin/outpace "$OUTPACE_JOBSCRIPTS/../.venv/bin/outpace"; do
    if OUTPACE=$(command -v "$outpace"); then
        break
    fi
done
if [ -z "$OUTPACE" ]; then
    echo "outpace is not found in this job; put it on the PATH in $OUTPACE_JOBSCRIPTS/site.env" >&2
    exit 2
fi

# Say how many tasks the job has: with --nodes alone Slurm need not.
count_tasks() {
    if [ -n "${SLURM_NNODES:-}" ] && [ -n "${SLURM_NTASKS_PER_NODE:-}" ]; then
        : "${SLURM_NTASKS:=$((SLURM_NNODES * SLURM_NTASKS_PER_NODE))}"
    fi
    : "${SLURM_NTASKS:?the number of tasks is not known; give sbatch --ntasks, or also --ntasks-per-node}"
    export SLURM_NTASKS
}
