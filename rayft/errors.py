"""Errors that a user can fix: what was wrong, what to do."""


class RayftError(Exception):
    """Base of every error that a user can fix.

    Keeps both arguments, so that it pickles between Ray processes.

    Args:
        problem: The value received and what is allowed.
        fix: The remedy, as an instruction.
    """

    exit_code = 2

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)

    def __str__(self) -> str:
        problem, fix = self.args
        return f"{problem}\n  fix: {fix}"


class ConfigError(RayftError):
    """The configuration file, or an override of it, is wrong."""


class DataError(RayftError):
    """The dataset cannot be read, or cannot be trained on."""


class ModelError(RayftError):
    """The backbone, its weights, the head or the freeze depth is wrong."""


class StorageError(RayftError):
    """The storage cannot be read or written, or holds something unexpected."""


class ClusterError(RayftError):
    """The Ray cluster cannot be reached, or cannot hold the run."""


class PackageError(RayftError):
    """A model package is damaged, or is not one."""


class RegistryError(RayftError):
    """The registry lacks what was asked for, or refuses what would break it."""


class ExportError(RayftError):
    """A package cannot be written in the format, or to the place, that was asked for."""


class TrackingError(RayftError):
    """A place that should hear of the run cannot be reached, or refuses."""


class RunFailed(RayftError):
    """The input was fine, yet the run did not finish."""

    exit_code = 1


class RunInterrupted(RayftError):
    """The run was asked to stop; it left a checkpoint."""

    exit_code = 130
