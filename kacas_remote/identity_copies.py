"""Copies of an identity: to be kept with passwords, or carried to another machine; and the pair of kachery-cloud."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kacas.disk.identity_file import KeyPair, identity_text, keep_key_pair, pair_in, write_private
from kacas.errors import DestinationError, InvalidSettingError
from kacas.interop.kachery_directory import KacheryDirectory
from kacas.interop.key_pair import PEM_FILES, kachery_key_pair, pem_file
from kacas.settings import identity_file
from kacas_remote.identity import Identity, pair_of, whole


def bring(source: Path, environment: Mapping[str, str] | None = None) -> tuple[Identity, bool]:
    """Make the pair in an exported file, or in kachery-cloud's directory, the user's own; whether it was not before.

    Raises InvalidSettingError, also if there is another identity here: it is never replaced.
    """
    pair = _pair_at(source)
    if pair is None:
        raise InvalidSettingError(
            f"{source} holds no identity: neither is it a file that `kacas identity export` wrote, nor a directory with "
            "public.pem and private.pem"
        )
    key = whole(pair, str(source))
    path = identity_file(environment)
    return Identity(key, str(path)), keep_key_pair(pair, path)


def export(found: Identity, file: Path) -> None:
    """Write it to a new file, 0600, for `bring`. Raises DestinationError."""
    _check_written(file, write_private(file, exported(found)))


def export_pem(found: Identity, directory: Path) -> None:
    """Write it as kachery-cloud keeps it: new files public.pem and private.pem in a directory. Raises DestinationError."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise DestinationError(f"{directory} cannot be made: {exc.strerror}", path=str(directory)) from exc
    for name in PEM_FILES:
        path = directory / name
        _check_written(path, write_private(path, pem_file(name, pair_of(found.key))))


def exported(found: Identity) -> bytes:
    """What `export` writes."""
    return identity_text(pair_of(found.key)).encode()


def _check_written(path: Path, why: str | None) -> None:
    if why is not None:
        raise DestinationError(f"{path} cannot be written: {why}", path=str(path))


def _pair_at(source: Path) -> KeyPair | None:
    """None for what is no identity. Nothing is raised here: a traceback would carry the key about."""
    if not source.is_dir():
        return pair_in(source)
    try:
        return kachery_key_pair(KacheryDirectory(source))
    except (OSError, ValueError):
        return None
