"""Every error a user can meet: one line that says what was found, what was expected, and what to do."""


class CellxlateError(Exception):
    """A condition that is reported to the user in one line.

    Attributes
    ----------
    exit_code : int
        What the command line returns for it.
    """

    exit_code = 2


class InputError(CellxlateError):
    """A file or an array cannot be used as it is: missing, damaged, or of an unsupported kind."""


class OptionError(CellxlateError):
    """An option is outside what makes sense, or options contradict each other."""


class OutputError(CellxlateError):
    """An output cannot be written: it exists already, or its folder cannot hold it."""


class ModelError(CellxlateError):
    """A model folder is incomplete, damaged, or from another version."""


class TrainingError(CellxlateError):
    """Training ran and stopped because going on would not give a useful model."""

    exit_code = 1


class PromiseError(CellxlateError):
    """A written file differs from its input at a pixel that attention did not select."""

    exit_code = 1


class ClusterError(CellxlateError):
    """Bands failed on every try, or the cluster was lost. What is done is kept and can be resumed."""

    exit_code = 1
