"""The ways in which foodseg refuses or gives up, each with the exit code that the command line answers with.

`UserError` is a `ValueError`: library code raises it for a user's mistake, with one sentence that says what was found,
where, and what would be right. Exit codes: 0 done, 1 a defect of foodseg, 2 the user's mistake, 3 data refused, 75
worth retrying, 130 interrupted.
"""

EXIT_OUR_FAULT = 1
EXIT_INTERRUPTED = 130


class FoodsegError(Exception):
    """An expected failure: shown as one sentence, without a stack trace."""

    exit_code = EXIT_OUR_FAULT


class UserError(FoodsegError, ValueError):
    """The caller's mistake: a key, a file, a URI. The sentence names it and says what would be right."""

    exit_code = 2


class MissingFile(UserError):
    """There is no such file."""


class Unavailable(UserError):
    """What the configuration needs is not there or does not answer; in the middle of a sweep it may come back."""


class DataRefused(FoodsegError, ValueError):
    """The data is not good enough to continue with, for example more bad records than allowed."""

    exit_code = 3


class RetryLater(FoodsegError):
    """Something outside failed for now (storage, network, a lost cluster): the same command may succeed later."""

    exit_code = 75


class OutOfMemory(RetryLater):
    """A worker was ended for the memory that it took; the same settings will most likely take as much again."""
