"""The errors that are the user's to put right."""


class UserError(ValueError):
    """Something the user can put right. Its text is the one line that is printed; the exit code is 2."""


class LocalError(UserError):
    """One that a rank finds alone, in the middle of a run: it ends the job, since no other rank knows of it."""
