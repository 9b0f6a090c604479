"""The errors a user can meet: each is one sentence with the value, the limit and the way out."""


class MicrogptError(Exception):
    """Base of every error raised on purpose; the command line prints it and exits with 1."""

    exit_code = 1


class UsageError(MicrogptError, ValueError):
    """A flag, argument or setting that cannot be honoured; the command line exits with 2."""

    exit_code = 2


class DataError(MicrogptError, ValueError):
    """Text, a tokenizer file, a shard or a dataset that is not what it should be."""


class CheckpointError(MicrogptError):
    """A run folder or checkpoint that is torn, foreign, missing or in use."""


class TrainingError(MicrogptError):
    """Training that cannot go on, such as a loss that is no number."""


class MissingExtraError(MicrogptError, ImportError):
    """A command that needs a package which the tokenizer-only installation leaves out."""
