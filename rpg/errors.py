"""The exceptions that a user is meant to see."""


class UserError(Exception):
    """Bad input: one line that names the file or key, what is wrong and what to do.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        """What the message quotes, names of tensors and files, may hold line ends and codes that move the cursor."""
        line = " ".join(message.split())
        super().__init__("".join(one if one.isprintable() else repr(one)[1:-1] for one in line))


class Diverged(UserError):
    """A training whose loss or weights are no longer finite, or have left all bounds."""
