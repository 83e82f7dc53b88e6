"""The errors a user may meet. Each message says what was wrong, where, and what to do."""


class LlamaOnnxError(Exception):
    """Base of every error this project raises on purpose; the command line prints it in one line and exits 1."""


class ModelDirectoryError(LlamaOnnxError):
    """A model directory (or the checkpoint to be exported) is missing, incomplete, damaged or not understood."""


class PoolTooSmallError(LlamaOnnxError):
    """The memory budget cannot hold what must be in memory at one time."""


class RequestError(LlamaOnnxError):
    """A prompt, an option or a sampling parameter cannot be used."""


class MissingDependencyError(LlamaOnnxError):
    """An optional package that the request needs is not installed."""


class ModelStateError(LlamaOnnxError):
    """A model is closed, is being used by another thread, or was loaded before this process was forked."""
