"""The exceptions that a user is meant to see."""


class UserError(Exception):
    """Bad input: one line that names the file or key, what is wrong and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class Diverged(UserError):
    """A training whose loss or weights are no longer finite, or have left all bounds."""
