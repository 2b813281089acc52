"""The one error that users cause and can mend."""


class InputError(Exception):
    """Bad input: the command line prints it as one line and exits with 2."""
