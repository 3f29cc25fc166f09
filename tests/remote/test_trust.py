"""Trust: a signature counts if it is good and its publisher is trusted; proofs outlive what was read."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from kacas_remote import identity
from kacas_remote.proofs import Proofs
from kacas_remote.recipe import Head
from kacas_remote.signing import PrivateKey, Signature, public_key, publisher_text, sign, statement
from kacas_remote.trust import (
    Trust,
    add_publisher,
    read_publishers,
    remove_publisher,
    trust_file,
    untrusted,
)
from tests.remote.recipes import SHA1

ANA = PrivateKey(bytes(range(32)))
BEN = PrivateKey(bytes(32))
HEAD = Head(SHA1, b"r" * 32, 100 << 20, 1)


def by(key: PrivateKey, head: Head = HEAD) -> Signature:
    return sign(key, statement(head.sha1, head.root, head.size, head.kind))


def with_signatures(*signatures: Signature) -> Head:
    return Head(HEAD.sha1, HEAD.root, HEAD.size, HEAD.kind, signatures=signatures)


def test_a_recipe_is_vouched_for_by_a_trusted_publisher_until_it_is_removed() -> None:
    head = with_signatures(by(BEN), by(ANA))
    assert Trust.of_user().voucher(head) is None
    add_publisher(trust_file(), "ana", public_key(ANA))
    assert Trust.of_user().voucher(head) == public_key(ANA)
    remove_publisher(trust_file(), "ana")
    assert Trust.of_user().voucher(head) is None


def test_ones_own_signature_is_always_trusted() -> None:
    assert Trust.of_user().own is None
    me = identity.own_or_new()
    assert Trust.of_user().voucher(with_signatures(by(me.key))) == me.public


def test_a_forged_or_swapped_signature_vouches_for_nothing() -> None:
    trust = Trust({public_key(ANA): "ana"})
    good = by(ANA)
    for head in (
        with_signatures(Signature(public_key(ANA), by(BEN).signature)),
        with_signatures(by(ANA, Head(HEAD.sha1, b"x" * 32, HEAD.size, HEAD.kind))),
        Head(b"other" * 4, HEAD.root, HEAD.size, HEAD.kind, signatures=(good,)),
        Head(HEAD.sha1, HEAD.root, HEAD.size + 1, HEAD.kind, signatures=(good,)),
        Head(HEAD.sha1, HEAD.root, HEAD.size, 2, signatures=(good,)),
    ):
        assert trust.voucher(head) is None
    assert trust.voucher(with_signatures(good)) == public_key(ANA)


def test_what_nobody_vouches_for_is_refused_with_the_ways_out() -> None:
    message = str(
        untrusted(with_signatures(by(ANA), Signature(public_key(BEN), bytes(64))), "lab", f"sha1://{SHA1.hex()}")
    )
    assert publisher_text(public_key(ANA)) in message
    assert publisher_text(public_key(BEN)) not in message  # who did not sign it is not proposed
    for way in ("kacas pull sha1://", "kacas trust add", "kacas remote add lab --trusted"):
        assert way in message
    assert "signed by nobody" in str(untrusted(HEAD, "lab", "sha1://…"))


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
