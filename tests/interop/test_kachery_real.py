"""Moving in from what kachery-cloud itself wrote, where it is installed (`make bench-peers`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kacas import Store
from kacas.disk.identity_file import read_identity
from kacas.interop.kachery_import import import_kachery
from kacas.settings import identity_file

PYTHON = Path(__file__).resolve().parents[2] / ".venv-kachery" / "bin" / "python"

WRITE = """
import json, sys
import numpy as np
import kachery_cloud as kcl

uris = {
    "text": kcl.store_text_local("example text", label="a.txt"),
    "json": kcl.store_json_local({"example": "dict"}),
    "npy": kcl.store_npy_local(np.arange(400_000)),
    "file": kcl.store_file_local(sys.argv[1], label="f.bin"),
    "reference": kcl.store_file_local(sys.argv[2], label="g.bin", reference=True),
    "link": kcl.link_file(sys.argv[2], label="g.bin"),
}
kcl.set_mutable_local("@a/@b/key", uris["text"])
uris["client"] = kcl.get_client_id(generate_if_missing=True)
print(json.dumps(uris))
"""


@pytest.mark.skipif(not PYTHON.exists(), reason="kachery-cloud is not installed here: make bench-peers")
@pytest.mark.parametrize("adopt", ["links", "all", "nothing"])
def test_what_kachery_cloud_wrote_is_read_under_the_uris_that_it_gave(store: Store, tmp_path: Path, adopt: str) -> None:
    stored, linked = tmp_path / "f.bin", tmp_path / "g.bin"
    stored.write_bytes(os.urandom(2_000_000))
    linked.write_bytes(os.urandom(3_000_000))
    place = tmp_path / "kachery-cloud"
    done = subprocess.run(
        [PYTHON, "-c", WRITE, stored, linked],
        env={**os.environ, "KACHERY_CLOUD_DIR": str(place)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    uris: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    report = import_kachery(store, place, adopt=adopt, keys=True)
    assert (report.complete, report.copied + report.linked, report.others) == (True, 5, [])
    assert store.load_text(uris["text"]) == "example text"
    assert store.load_json(uris["json"]) == {"example": "dict"}
    assert (store.load_npy(uris["npy"]) == np.arange(400_000)).all()
    assert store.load_bytes(uris["file"]) == stored.read_bytes()
    assert store.load_bytes(uris["reference"]) == store.load_bytes(uris["link"]) == linked.read_bytes()
    assert store.get_mutable("@a/@b/key") == uris["text"]
    assert report.key_pair == "imported"
    assert read_identity(identity_file()).public == uris["client"]
