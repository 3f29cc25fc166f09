"""A peer that stops reading or answering is noticed; one that is slow, and goes on, is not ended."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.cloud import SILENCE_S, CloudBlobs
from kacas_remote.blobs.credentials import Credentials
from kacas_remote.blobs.http import HttpBlobs
from kacas_remote.blobs.patience import Patience
from kacas_remote.blobs.retrying import Retrying
from kacas_remote.errors import RemoteUnavailableError

_MIB = 1 << 20
_KEYS = Credentials({"access_key_id": "AK", "secret_access_key": "SK"})
_OK = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 0\r\n\r\n'
_CONTENT = (
    b'HTTP/1.1 200 OK\r\nETag: "1"\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Length: 1048576\r\n\r\n'
)
Peer = Callable[[socket.socket], None]


@contextmanager
def peers(*each: Peer) -> Iterator[str]:
    """The URL of a server whose first connections go to these, one each; the last has all that come later."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        threads: list[threading.Thread] = []

        def serve(peer: Peer, connection: socket.socket) -> None:
            with connection:
                try:
                    peer(connection)
                except OSError:
                    return  # the client went away
                ended.wait(60)

        def accept() -> None:
            number = 0
            while not ended.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                peer = each[min(number, len(each) - 1)]
                number += 1
                threads.append(threading.Thread(target=serve, args=(peer, connection)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            ended.set()
            accepting.join()
            for thread in threads:
                thread.join()


def reads_nothing(connection: socket.socket) -> None:
    pass


def received(connection: socket.socket, most: int) -> bytes:
    piece = connection.recv(most)
    if not piece:
        raise ConnectionError
    return piece


def read_request(connection: socket.socket, pause_s: float = 0.0) -> None:
    got = b""
    while b"\r\n\r\n" not in got:
        got += received(connection, 1)
    [size] = [int(line[15:]) for line in got.split(b"\r\n") if line.lower().startswith(b"content-length:")] or [0]
    while size:
        size -= len(received(connection, min(size, 64 << 10)))
        time.sleep(pause_s)


def answers_nothing(connection: socket.socket) -> None:
    read_request(connection)


def takes_it(connection: socket.socket) -> None:
    while True:
        read_request(connection)
        connection.sendall(_OK)


def takes_it_slowly(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    read_request(connection, pause_s=0.05)
    connection.sendall(_OK)


def gives_half(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(_CONTENT + bytes(_MIB // 2))


def gives_a_byte_now_and_then(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
    for _ in range(40):
        time.sleep(0.1)
        connection.sendall(b"1")


def gives_it_slowly(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(_CONTENT)
    for _ in range(16):
        time.sleep(0.25)
        connection.sendall(bytes(64 << 10))


def s3(url: str, silence_s: float, slowest_bytes_s: float = 4 * _MIB) -> CloudBlobs:
    return CloudBlobs(
        "s3", "bucket", endpoint=url, credentials=_KEYS, silence_s=silence_s, slowest_bytes_s=slowest_bytes_s
    )


@pytest.mark.parametrize("peer", [reads_nothing, answers_nothing])
@pytest.mark.parametrize("size", [1000, 16 * _MIB])
def test_an_upload_to_a_peer_that_stalls_is_tried_again_with_another_connection(peer: Peer, size: int) -> None:
    with peers(peer, takes_it) as url:
        blobs = Retrying(s3(url, silence_s=0.5), total_s=1)
        assert blobs.put_if_absent("a", bytes(size))
        blobs.close()


@pytest.mark.parametrize("peer", [reads_nothing, answers_nothing])
def test_a_part_of_an_upload_that_stalls_is_tried_again(peer: Peer) -> None:
    def begins(connection: socket.socket) -> None:
        read_request(connection)
        body = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        connection.shutdown(socket.SHUT_RDWR)

    def ends(connection: socket.socket) -> None:
        read_request(connection)
        body = b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)

    def takes_one(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(_OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        connection.shutdown(socket.SHUT_RDWR)

    with peers(begins, peer, takes_one, ends) as url:
        blobs = s3(url, silence_s=0.5, slowest_bytes_s=64 * _MIB)
        blobs.put_parts("a", iter([bytes(8 * _MIB)]), size=8 * _MIB)
        blobs.close()


@pytest.mark.parametrize("peer", [reads_nothing, answers_nothing, gives_half])
@pytest.mark.parametrize("opened", [s3, HttpBlobs])
def test_a_download_from_a_peer_that_stalls_is_given_up(peer: Peer, opened: Callable[..., BlobStore]) -> None:
    with peers(peer) as url:
        blobs = opened(url, silence_s=0.5)
        with pytest.raises(RemoteUnavailableError):
            blobs.get("a", 2 * _MIB)
        with pytest.raises(RemoteUnavailableError):
            blobs.get_ranges("a", [(0, _MIB)])
        blobs.close()


def test_a_web_server_that_gives_a_byte_now_and_then_is_given_up() -> None:
    with peers(gives_a_byte_now_and_then) as url:
        blobs = HttpBlobs(url, silence_s=0.5)
        with pytest.raises(RemoteUnavailableError, match="no answer in time"):
            blobs.get("a", 40)
        with pytest.raises(RemoteUnavailableError, match="no answer in time"):
            blobs.get_ranges("a", [(0, 40)])
        blobs.close()


def test_who_was_stopped_meanwhile_goes_on_with_what_came() -> None:
    begun, stopped = threading.Event(), threading.Event()

    def gives_it_in_two_parts(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + b"1" * 10)
        begun.set()
        stopped.wait(60)
        connection.sendall(b"2" * 10)

    program = (
        "import sys; from kacas_remote.blobs.http import HttpBlobs; print(HttpBlobs(sys.argv[1], 2.0).get('a', 20))"
    )
    with (
        peers(gives_it_in_two_parts) as url,
        subprocess.Popen([sys.executable, "-c", program, url], stdout=subprocess.PIPE, text=True) as reader,
    ):
        assert begun.wait(60)
        time.sleep(0.5)  # most likely it has read the first part by then
        reader.send_signal(signal.SIGSTOP)
        stopped.set()
        time.sleep(2.5)  # more than a silence may last
        reader.send_signal(signal.SIGCONT)
        out, _ = reader.communicate(timeout=60)
    assert out == f"{b'1' * 10 + b'2' * 10}\n"


@pytest.mark.parametrize("opened", [s3, HttpBlobs])
def test_a_slow_download_is_not_ended(opened: Callable[..., BlobStore]) -> None:
    """It takes longer than the silence that it may have."""
    with peers(gives_it_slowly) as url:
        blobs = opened(url, silence_s=3)
        assert blobs.get("a", 2 * _MIB) == bytes(_MIB)
        blobs.close()


def test_a_slow_upload_is_not_ended() -> None:
    with peers(takes_it_slowly) as url:
        blobs = s3(url, silence_s=1, slowest_bytes_s=_MIB // 8)
        start_s = time.monotonic()
        assert blobs.put_if_absent("a", bytes(4 * _MIB))
        assert time.monotonic() - start_s > 2  # the silence is over by then
        blobs.close()


def test_a_pack_at_100_kib_a_second_has_time_and_a_stall_is_noticed_in_minutes() -> None:
    patience = Patience(SILENCE_S)
    assert 32 * 1024 / 100 < patience.upload_s(32 * _MIB) < 7 * 60
    assert patience.upload_s(_MIB) < 75


def test_an_upload_that_had_too_little_time_gets_more_and_a_fast_one_takes_it_back() -> None:
    patience = Patience(60, 1 * _MIB)
    first_s = patience.upload_s(32 * _MIB)
    patience.was_too_short(first_s, 32 * _MIB)
    patience.was_too_short(first_s, 32 * _MIB)  # another thread, at the same time
    assert patience.upload_s(32 * _MIB) == 2 * first_s
    for _ in range(5):
        patience.was_too_short(patience.upload_s(32 * _MIB), 32 * _MIB)
    assert patience.upload_s(32 * _MIB) == 4 * first_s
    patience.took(first_s * 3, 32 * _MIB)
    assert patience.upload_s(32 * _MIB) == 4 * first_s
    patience.took(first_s / 8, 32 * _MIB)
    assert patience.upload_s(32 * _MIB) == first_s
