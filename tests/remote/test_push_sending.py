"""Sending packs: the service has something to do soon, and what has arrived is told while the rest is on its way."""

from __future__ import annotations

import threading

import pytest

from kacas.model.digest import PayloadKind, chunk_digest
from kacas.model.pack_format import PayloadHeader
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.layout import pack_key
from kacas_remote.push.packs import PACK_SIZE, PackBuilder
from kacas_remote.push.sending import IN_FLIGHT, Sender


def pack_of(sender: Sender, data: bytes) -> PackBuilder:
    pack = PackBuilder(sender.buffer(), bytes(16), sender.pack_size)
    pack.write(PayloadHeader(PayloadKind.CHUNK, 0, len(data), len(data), chunk_digest(data)), data)
    return pack


def test_of_many_packs_the_first_is_small_and_of_few_none_is() -> None:
    with Sender(MemoryBlobs(), size=PACK_SIZE) as sender:
        assert sender.pack_size == PACK_SIZE
    with Sender(MemoryBlobs(), size=IN_FLIGHT * PACK_SIZE) as sender:
        assert sender.pack_size < PACK_SIZE
        sender.send(pack_of(sender, b"first"))
        assert sender.pack_size == PACK_SIZE
        while sender.next_landed():
            pass


class OneWaits(MemoryBlobs):
    """One pack does not arrive before it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = ""
        self.let = threading.Event()

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        if key == self.waits:
            assert self.let.wait(60)
        return super().put_if_absent(key, data)


def test_what_has_arrived_is_told_before_the_rest_has() -> None:
    blobs = OneWaits()
    with Sender(blobs) as sender:
        slow, quick = pack_of(sender, b"slow"), pack_of(sender, b"quick")
        blobs.waits = pack_key(slow.pack_id)
        sender.send(slow)
        sender.send(quick)
        assert [pack.pack_id for pack in sender.next_landed()] == [quick.pack_id]
        blobs.let.set()
        assert [pack.pack_id for pack in sender.next_landed()] == [slow.pack_id]
        assert sender.next_landed() == []


def test_why_a_pack_did_not_arrive_is_told_to_who_waits_for_it() -> None:
    class Refuses(MemoryBlobs):
        def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
            raise ConnectionError("away")

    with Sender(Refuses()) as sender:
        sender.send(pack_of(sender, b"never"))
        with pytest.raises(ConnectionError, match="away"):
            sender.next_landed()
