"""Many runs: their description, their points on disk, running them here or under Slurm."""
