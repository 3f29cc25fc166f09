"""One content of each kind in the default store, by plain URIs and by those encrypted for the group `lab`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

import kacas
from kacas_remote.configuration import RemoteConfiguration, change_remotes
from tests.access_group import make_group


class Contents(NamedTuple):
    """URIs of the same things, plain or encrypted. member: of a file in the directory."""

    text: str
    json: str
    npy: str
    pkl: str
    h5: str
    directory: str
    other: str
    member: str

    def encrypted(self) -> Contents:
        return Contents(*(kacas.encrypt_uri(uri, access_group="lab") for uri in self))

    def hides(self, said: str) -> bool:
        """Whether nothing of these plain URIs is in it."""
        return not any(uri.partition("://")[2][:40] in said for uri in self)


def store_contents(directory: Path) -> Contents:
    """Stores them, makes the group, and adds the default remote `bucket`."""
    make_group(directory)
    (directory / "bucket").mkdir()
    change_remotes(lambda _: [RemoteConfiguration("bucket", f"file://{directory}/bucket", default=True)])
    for name, text in (("v1", "first"), ("v2", "second")):
        (directory / name / "day 1").mkdir(parents=True)
        (directory / name / "day 1" / "a.txt").write_text(text)
    with h5py.File(directory / "a.h5", "w") as file:
        file["trace"] = np.arange(10)
    one = kacas.store_dir(directory / "v1")
    return Contents(
        text=kacas.store_text("for us", label="a.txt"),
        json=kacas.store_json({"for": "us"}),
        npy=kacas.store_npy(np.arange(12).reshape(3, 4), label="a.npy"),
        pkl=kacas.store_pkl((1, "two")),
        h5=kacas.store_file(directory / "a.h5"),
        directory=one,
        other=kacas.store_dir(directory / "v2"),
        member=one.replace("?", "/day%201/a.txt?"),
    )
