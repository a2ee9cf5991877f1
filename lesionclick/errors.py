"""The errors that end a case, each with the exit code of the process.

Every message says what is wrong, where, what was expected and what was found, because the platform's log is all that
its reader has.
"""


class LesionClickError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = 3


class InputError(LesionClickError):
    """The case is missing, broken or not what the platform promises."""

    exit_code = 1


class ModelError(LesionClickError):
    """The model folder is missing, broken or of an unknown kind."""

    exit_code = 2


class OutOfMemoryError(LesionClickError):
    """The memory suffices neither on the device nor on the CPU."""
