"""What the identity of a pickle depends on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("made, identities", [("set(words)", 2), ("sorted(set(words))", 1)])
def test_the_identity_of_a_set_of_strings_depends_on_the_hash_seed_as_the_docs_say(made: str, identities: int) -> None:
    program = (
        "import hashlib; from kacas.formats.pickles import dumps; words = [str(n) for n in range(100)]; "
        f"print(hashlib.sha1(dumps({made})).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == identities
