"""Running the command: in this process where only its answer counts, as a real program where the process does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from kacas.cli.main import commands
from kacas.cli.running import run


@dataclass(frozen=True)
class Answer:
    """What a command line gave back. out, err: bytes."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def error(self) -> str:
        """The one line on stderr; it must be one."""
        text = self.err.decode()
        assert text.count("\n") == 1, text
        assert text.startswith("kacas: error: "), text
        return text.removeprefix("kacas: error: ").rstrip("\n")

    @property
    def objects(self) -> list[dict[str, Any]]:
        """stdout as JSON, one object per line."""
        found = [json.loads(line) for line in self.lines]
        assert all(isinstance(value, dict) for value in found)
        return found

    @property
    def object(self) -> dict[str, Any]:
        (value,) = self.objects
        return value


class Runner(Protocol):
    def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> Answer: ...


PROGRAM = [sys.executable, "-m", "kacas.cli.main"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is not the user's, and the store is the default one, at tmp_path/store."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KACAS_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("KACAS_OWNER", "alice")


@pytest.fixture
def kacas(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Runner:
    """The command, run in this process: fast."""

    def call(*arguments: str | Path, stdin: bytes = b"") -> Answer:
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
            code = run(commands, [os.fspath(argument) for argument in arguments])
        return Answer(code, *capfdbinary.readouterr())

    return call


@pytest.fixture
def program() -> Runner:
    """The command, run as a program of its own."""

    def call(*arguments: str | Path, stdin: bytes = b"") -> Answer:
        done = subprocess.run([*PROGRAM, *arguments], input=stdin, capture_output=True, timeout=60, check=False)
        return Answer(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """The file whose identity the documentation names."""
    path = tmp_path / "notes.txt"
    path.write_bytes(b"test-content\n")
    return path


@pytest.fixture
def notes_uri(kacas: Runner, notes: Path) -> str:
    """That file, stored."""
    return kacas("store", notes).text.strip()


def packs(store: Path) -> list[Path]:
    return sorted((store / "packs").glob("*.pack"))


def flip_byte(path: Path, offset: int) -> None:
    """Damage a file; packs are read-only."""
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x40]))
