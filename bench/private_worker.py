"""A process that encrypts and decrypts URIs for bench/private.py: `python -m bench.private_worker kacas`."""

from __future__ import annotations

import time

import kacas
from bench.worker import serve

GROUP = "bench"
_ROOT = "root=" + 32 * "5a"
KINDS = {
    "content": "sha1://{sha1}",
    "content with a label": "sha1://{sha1}?label=spikes.npy",
    "content with a root": f"sha1://{{sha1}}?{_ROOT}",
    "a file in a directory": "sha1dir://{sha1}/probe-1/night/spikes.npy",
    "content, its label hidden": "sha1://{sha1}?label=spikes.npy",
}


class Requests:
    """What a worker does when asked."""

    def version(self) -> dict[str, object]:
        return {"version": f"kacas {kacas.__version__}"}

    def uris(self, kind: str, count: int) -> dict[str, object]:
        """URIs a second, encrypted and decrypted again; the same must come back."""
        plain = [KINDS[kind].format(sha1=f"{number:040x}") for number in range(count)]
        hide = kind.endswith("hidden")
        begun = time.perf_counter()
        sealed = [kacas.encrypt_uri(uri, access_group=GROUP, hide_label=hide) for uri in plain]
        done = time.perf_counter()
        opened = [kacas.decrypt_uri(uri) for uri in sealed]
        ended = time.perf_counter()
        if opened != plain or len(set(sealed)) < count:
            raise AssertionError("other URIs came back than were encrypted")
        return {"encrypted": count / (done - begun), "decrypted": count / (ended - done)}


if __name__ == "__main__":
    serve(Requests())
