"""What ends a command in another way than success, and is no fault of the code."""


class InputError(Exception):
    """Bad input: the command line prints it as one line and exits with 2."""


class Interrupted(Exception):
    """A signal stopped a run after its state was saved: the command line says where, and exits with 75.

    75 is EX_TEMPFAIL of sysexits.h: the same command, run again, goes on.
    """
