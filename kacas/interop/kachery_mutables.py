"""Moving in: the mutables of kachery-cloud. One that the store has, or had, is never changed: the store's is the newer."""

from __future__ import annotations

import os

from kacas.disk.small_file import read_small
from kacas.errors import (
    DamagedRecordError,
    InvalidKeyError,
    MutableConflictError,
    NewerFormatError,
    UnsupportedDataError,
)
from kacas.interop.import_report import ImportReport
from kacas.interop.kachery_directory import KacheryDirectory, Strange
from kacas.model.mutable import MAX_VALUE_LENGTH, check_key
from kacas.store import Store

_MOST = 4 * MAX_VALUE_LENGTH  # bytes of UTF-8


def import_mutables(store: Store, source: KacheryDirectory, report: ImportReport) -> None:
    """Set those that the store never had. Raises StoreError; what is wrong with the others is in the report."""
    for found in source.mutables():
        if isinstance(found, Strange):
            report.leave_out(found.kind, found.path, found.why)
            continue
        path, key = found
        try:
            _import_one(store, check_key(key), read_small(path, _MOST).decode("utf-8"), report, path)
        except UnicodeDecodeError:
            report.leave_out("mutable", path, "its value is no text in UTF-8")
        except (InvalidKeyError, UnsupportedDataError, DamagedRecordError, NewerFormatError) as exc:
            report.leave_out("mutable", path, str(exc))  # the last two: what the store has under this key
        except OSError as exc:
            if exc.filename != path:
                raise  # the store's trouble
            report.leave_out("unreadable", path, os.strerror(exc.errno or 0))
        except ValueError as exc:
            report.leave_out("mutable", path, str(exc))


def _import_one(store: Store, key: str, value: str, report: ImportReport, path: str) -> None:
    newest = next(store.mutable_history(key), None)
    if newest is None:
        try:
            store.set_mutable(key, value, expect=None)
        except MutableConflictError:  # somebody set it just now
            newest = next(store.mutable_history(key))
        else:
            report.mutables += 1
            return
    if newest.value == value:
        report.mutables_here += 1
    else:
        what = "was deleted" if newest.value is None else "has another value"
        report.leave_out("mutable", path, f"the mutable {key!r} {what} in the store, which was kept")
