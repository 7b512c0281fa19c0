"""The one error that is the user's to put right."""


class UserError(ValueError):
    """Something the user can put right. Its text is the one line that is printed; the exit code is 2."""
