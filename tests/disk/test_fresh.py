"""Asking the file server for a file's state; that it answers what is true is tested on NFS."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kacas.disk.fresh import ask_server, fresh_status


def test_on_a_local_disk_the_fresh_state_is_what_fstat_says(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"four")
    fd = os.open(path, os.O_RDONLY)
    try:
        assert fresh_status(fd) == os.fstat(fd)
        path.unlink()
        assert fresh_status(fd).st_nlink == 0
    finally:
        os.close(fd)


def test_what_cannot_be_asked_for_is_an_error(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    ask_server(os.fsencode(link))
    with pytest.raises(FileNotFoundError, match="missing"):
        ask_server(os.fsencode(tmp_path / "missing"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        fresh_status(1 << 20)
