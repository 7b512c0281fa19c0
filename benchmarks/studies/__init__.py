"""The launches, the table and the figures behind a claim about several programs, one file each."""
