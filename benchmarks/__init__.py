"""Everything around a program: flags, problems, stragglers, traces, figures, commands."""
