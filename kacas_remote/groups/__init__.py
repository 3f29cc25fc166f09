"""Access groups: who is a member, proved by signed records, and the keys that members have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kacas_remote.sealing.epoch_keys import Keys


def keys_of(group: str, environment: Mapping[str, str] | None = None) -> Keys:
    """The keys that this user has as a member of a group: its name in groups.toml, or ag_<32 hex>.

    Nothing is opened until keys are asked for; then they are kept in the process. Pickled without the keys, by the group's id.
    environment: that of the process by default. Raises GroupNotFoundError, InvalidSettingError.
    """
    from kacas_remote.groups.keys import keys_of as opened

    return opened(group, environment)
