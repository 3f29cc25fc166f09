"""What goes wrong with remotes. Each error is what users of kacas and of Python catch already."""

from __future__ import annotations

from kacas.errors import AccessDeniedError, DamagedError, InvalidSettingError, KacasError, NotFoundError, StoreError


class RemoteUnavailableError(StoreError, ConnectionError):
    """The service is not there, or it fails again and again. Nothing is wrong with what is asked of it.

    retry_for_s: how long it is worth trying again. pause_s: how long the service asks to be left alone before.
    """

    def __init__(self, message: str, *, path: str, retry_for_s: float = 120.0, pause_s: float = 0.0) -> None:
        super().__init__(message, path=path)
        self.retry_for_s = retry_for_s
        self.pause_s = pause_s


class RemoteRefusedError(AccessDeniedError):
    """The service does not let us: credentials are missing, wrong or expired, a clock is off, or a permission is missing."""


class InvalidRemoteError(InvalidSettingError):
    """A name, URL or option of a remote that cannot be used."""


class RemoteNotFoundError(InvalidRemoteError):
    """No remote of that name was added, or its bucket is gone."""


class NotSupportedError(StoreError):
    """The service cannot do this: a web server takes no uploads, for example."""


class BlobNotFoundError(NotFoundError):
    """A blob that should be there is not."""


class BlobChangedError(StoreError):
    """A blob is not what it was when it was looked at: somebody replaced it."""


class DamagedRemoteError(DamagedError):
    """What a remote gave is not what it should be: a wrong byte, a lying recipe, a swapped object. It was not used."""


class NotThereError(DamagedRemoteError):
    """What should be in a bucket is in nothing of it that was read."""


class CollectorBusyError(StoreError):
    """Another collector is at work in this remote."""


class UntrustedError(KacasError, PermissionError):
    """A part was asked for of content whose recipe nobody vouches for whom this user trusts."""

    exit_code = 13


class PushError(KacasError, OSError):
    """An upload failed. `uris`: what is safe in the local store, and is sent by `kacas push --pending`."""

    exit_code = 14

    def __init__(self, message: str, *, uris: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.uris = uris


class GroupNotFoundError(InvalidSettingError):
    """No access group of that name or id is known to this user, or its record is not where it was."""


class GroupAccessError(AccessDeniedError):
    """This user is no member of the access group, or not any more, or no admin of it; or it was sealed for another one."""

    exit_code = 15

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message, path=path)


class DamagedGroupError(DamagedError):
    """The record of an access group is not what its admins signed: it was altered, rewritten or rolled back. It was not used."""
