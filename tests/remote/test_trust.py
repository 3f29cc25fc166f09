"""Trust: a signature counts if it is good and its publisher is trusted; proofs outlive what was read."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from kacas.errors import InvalidSettingError
from kacas.settings import identity_file
from kacas_remote.proofs import Proofs
from kacas_remote.recipe import Head
from kacas_remote.signing import Signature, public_key, publisher_text, sign, statement
from kacas_remote.trust import (
    Trust,
    add_publisher,
    own_private_key,
    read_publishers,
    remove_publisher,
    trust_file,
    untrusted,
)
from tests.remote.recipes import SHA1

ANA = bytes(range(32))
HEAD = Head(SHA1, b"r" * 32, 100 << 20, 1)


def by(private_key: bytes, head: Head = HEAD) -> Signature:
    return sign(private_key, statement(head.sha1, head.root, head.size, head.kind))


def with_signatures(*signatures: Signature) -> Head:
    return Head(HEAD.sha1, HEAD.root, HEAD.size, HEAD.kind, signatures=signatures)


def test_a_recipe_is_vouched_for_by_a_trusted_publisher_until_it_is_removed() -> None:
    head = with_signatures(by(bytes(32)), by(ANA))
    assert Trust.of_user().voucher(head) is None
    add_publisher(trust_file(), "ana", public_key(ANA))
    assert Trust.of_user().voucher(head) == public_key(ANA)
    remove_publisher(trust_file(), "ana")
    assert Trust.of_user().voucher(head) is None


def test_ones_own_signature_is_always_trusted() -> None:
    assert Trust.of_user().own is None
    head = with_signatures(by(own_private_key()))
    assert Trust.of_user().voucher(head) == public_key(own_private_key())


def test_a_forged_or_swapped_signature_vouches_for_nothing() -> None:
    trust = Trust({public_key(ANA): "ana"})
    good = by(ANA)
    for head in (
        with_signatures(Signature(public_key(ANA), by(bytes(32)).signature)),
        with_signatures(by(ANA, Head(HEAD.sha1, b"x" * 32, HEAD.size, HEAD.kind))),
        Head(b"other" * 4, HEAD.root, HEAD.size, HEAD.kind, signatures=(good,)),
        Head(HEAD.sha1, HEAD.root, HEAD.size + 1, HEAD.kind, signatures=(good,)),
        Head(HEAD.sha1, HEAD.root, HEAD.size, 2, signatures=(good,)),
    ):
        assert trust.voucher(head) is None
    assert trust.voucher(with_signatures(good)) == public_key(ANA)


def test_what_nobody_vouches_for_is_refused_with_the_ways_out() -> None:
    message = str(untrusted(with_signatures(by(ANA), Signature(public_key(bytes(32)), bytes(64))), "lab"))
    assert publisher_text(public_key(ANA)) in message
    assert publisher_text(public_key(bytes(32))) not in message  # who did not sign it is not proposed
    for way in ("kacas pull sha1://", "kacas trust add", "kacas remote add lab --trusted"):
        assert way in message
    assert "signed by nobody" in str(untrusted(HEAD, "lab"))


def test_a_key_pair_whose_halves_do_not_belong_together_is_refused() -> None:
    own_private_key()
    path = identity_file()
    text = path.read_text()
    path.write_text(text.replace(text.split('public_key = "')[1][:64], "00" * 32))
    with pytest.raises(InvalidSettingError, match="belong together"):
        own_private_key()


def _own_key(results) -> None:  # type: ignore[no-untyped-def]
    results.put(own_private_key())


def test_processes_that_make_the_key_at_once_have_one() -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_own_key, args=(results,)) for _ in range(6)]
    for worker in workers:
        worker.start()
    assert len({results.get(timeout=60) for _ in workers}) == 1
    for worker in workers:
        worker.join()


def _trust(path: Path, number: int) -> None:
    add_publisher(path, f"lab-{number}", bytes([number]) * 32)


def test_publishers_that_processes_add_at_once_are_all_kept(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_trust, args=(tmp_path / "trust.toml", number)) for number in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(read_publishers(tmp_path / "trust.toml")) == 12
    assert (tmp_path / "trust.toml").stat().st_mode & 0o777 == 0o600


def test_a_proof_is_remembered_for_this_root_alone(tmp_path: Path) -> None:
    proofs = Proofs(tmp_path)
    proofs.remember(SHA1, b"r" * 32)
    again = Proofs(tmp_path)
    assert again.has(SHA1, b"r" * 32)
    assert not again.has(SHA1, b"x" * 32)
    assert not again.has(b"x" * 20, b"r" * 32)


def test_a_damaged_cache_never_proves_what_was_not(tmp_path: Path) -> None:
    proofs = Proofs(tmp_path)
    for number in range(50):
        proofs.remember(number.to_bytes(20, "big"), bytes(32))
    proofs.close()
    (path,) = tmp_path.rglob("rows.sqlite")
    whole = path.read_bytes()
    for at in range(0, len(whole), 211):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(whole[:at] + bytes(byte ^ 1 for byte in whole[at : at + 8]) + whole[at + 8 :])
        proofs = Proofs(tmp_path)
        assert not any(proofs.has(number.to_bytes(20, "big"), bytes(32)) for number in range(50, 100))
        assert not any(proofs.has(number.to_bytes(20, "big"), b"\1" * 32) for number in range(50))
        proofs.close()


def _remember(cache: Path, first: int) -> None:
    proofs = Proofs(cache)
    for number in range(first, first + 100):
        proofs.remember(number.to_bytes(20, "big"), bytes(32))


def test_many_processes_remember_in_one_place(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_remember, args=(tmp_path, 100 * number)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    proofs = Proofs(tmp_path)
    assert all(proofs.has(number.to_bytes(20, "big"), bytes(32)) for number in range(600))
