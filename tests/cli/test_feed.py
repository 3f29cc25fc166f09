"""`kacas feed`: a log that scripts append to and follow."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM, Runner


@pytest.fixture
def uri(kacas: Runner) -> str:
    (line,) = kacas("feed", "create").lines
    return line


def test_what_is_appended_is_printed_in_order(kacas: Runner, uri: str) -> None:
    assert kacas("feed", "read", uri).out == b""
    assert kacas("feed", "append", uri, '{"a": 1}', '{"a": "é"}').code == 0
    assert kacas("feed", "append", "--json", uri, '{"a": 3}').object == {"position": 2}
    assert kacas("feed", "read", uri).objects == [{"a": 1}, {"a": "é"}, {"a": 3}]
    assert kacas("feed", "read", "--json", uri, "--from", "1", "-n", "1").objects == [
        {"position": 1, "message": {"a": "é"}}
    ]


def test_lines_of_stdin_are_messages(kacas: Runner, uri: str) -> None:
    lines = b"".join(b'{"n": %d}\n' % n for n in range(3000)) + b'\n{"n": 3000}'
    assert kacas("feed", "append", uri, "-", stdin=lines).code == 0
    assert [message["n"] for message in kacas("feed", "read", uri).objects] == list(range(3001))


def test_a_line_that_is_not_utf_8_is_refused_and_not_altered(kacas: Runner, uri: str) -> None:
    answer = kacas("feed", "append", uri, "-", stdin=b'{"name": "caf\xe9"}\n')
    assert answer.code == 2
    assert "not UTF-8" in answer.error
    assert kacas("feed", "read", uri).out == b""


@pytest.mark.parametrize("message", ["no json", "[1]", "3", '{"a": NaN}', ""])
def test_what_is_no_json_object_is_refused_and_nothing_appended(kacas: Runner, uri: str, message: str) -> None:
    answer = kacas("feed", "append", uri, '{"good": 1}', message)
    assert answer.code == 2
    assert answer.error
    assert kacas("feed", "read", uri).out == b""


def test_what_is_not_there_or_no_uri_is_told(kacas: Runner, uri: str) -> None:
    answer = kacas("feed", "read", "kachery-feed://" + 32 * "0")
    assert answer.code == 3
    assert "there is no feed" in answer.error
    for wrong in ("sha1://" + 40 * "0", uri.upper(), uri + "x", uri + "\n", "kachery-feed://../../x"):
        assert kacas("feed", "read", wrong).code == 2


def test_follow_ends_when_nothing_came_for_long_enough_or_enough_did(kacas: Runner, uri: str) -> None:
    kacas("feed", "append", uri, '{"a": 1}', '{"a": 2}')
    assert kacas("feed", "follow", uri, "--timeout", "0.05").objects == [{"a": 1}, {"a": 2}]
    assert kacas("feed", "follow", uri, "-n", "1").objects == [{"a": 1}]
    assert kacas("feed", "follow", uri, "--new", "--timeout", "0.05").out == b""
    assert kacas("feed", "follow", uri, "--new", "--from", "3").code == 2


def test_follow_prints_what_comes_at_once(kacas: Runner, uri: str, tmp_path: Path) -> None:
    with subprocess.Popen([*PROGRAM, "feed", "follow", uri], stdout=subprocess.PIPE) as follower:
        assert follower.stdout
        for number in range(3):
            kacas("feed", "append", uri, json.dumps({"n": number}))
            assert json.loads(follower.stdout.readline()) == {"n": number}
        follower.terminate()
        assert follower.wait(30) == 143


def test_follow_ends_soon_when_its_reader_is_gone(kacas: Runner, uri: str) -> None:
    kacas("feed", "append", uri, '{"a": 1}')
    with subprocess.Popen(
        [*PROGRAM, "feed", "follow", uri], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as follower:
        assert follower.stdout
        assert follower.stderr
        assert json.loads(follower.stdout.readline()) == {"a": 1}
        follower.stdout.close()
        try:
            assert follower.wait(30) == 141  # no further message comes
        finally:
            follower.kill()
        assert follower.stderr.read() == b""


@pytest.mark.parametrize("stdout", ["> out", ">&-", "| cat > out"])
def test_follow_waits_where_its_output_cannot_go_away(kacas: Runner, uri: str, tmp_path: Path, stdout: str) -> None:
    kacas("feed", "append", uri, '{"a": 1}')
    line = f"set -o pipefail; {shlex.join(PROGRAM)} feed follow {uri} --timeout 0.3 {stdout}"
    begun = time.monotonic()
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert time.monotonic() - begun >= 0.3


def test_an_altered_message_is_exit_code_5_and_names_the_file(kacas: Runner, uri: str, tmp_path: Path) -> None:
    kacas("feed", "append", uri, '{"a": 1}')
    path = tmp_path / "store" / "feeds" / uri[-32:] / "2"
    os.chmod(path, 0o644)
    path.write_bytes(path.read_bytes().replace(b'{"a":1}', b'{"a":7}'))
    answer = kacas("feed", "read", uri)
    assert answer.code == 5
    assert str(path) in answer.error
