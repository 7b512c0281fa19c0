"""Scripts for Slurm and preset sweeps; see README.md here."""
