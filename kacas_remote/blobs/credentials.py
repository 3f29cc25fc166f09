"""Credentials of a blob store: kept in this process, never in what is pickled, shown or logged."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

_KEPT: dict[str, dict[str, str]] = {}


class Credentials:
    """A token for what this process (and its forked children) knows. Elsewhere nothing is known by it: then the environment
    of that process decides, as if none had been given."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._token = secrets.token_hex(16) if values else ""
        if values:
            _KEPT[self._token] = dict(values)

    def __reduce__(self) -> tuple[Callable[[str], Credentials], tuple[str]]:
        return _recalled, (self._token,)

    def __repr__(self) -> str:
        return "Credentials(…)"

    def values(self) -> dict[str, str]:
        """Empty if the environment decides."""
        return dict(_KEPT.get(self._token, {}))


def _recalled(token: str) -> Credentials:
    known = Credentials()
    known._token = token
    return known


def all_kept() -> dict[str, dict[str, str]]:
    """For a process that we start, over a pipe that nobody else reads."""
    return {token: dict(values) for token, values in _KEPT.items()}


def keep(kept: Mapping[str, dict[str, str]]) -> None:
    """What `all_kept` gave in the process that started this one."""
    _KEPT.update(kept)
