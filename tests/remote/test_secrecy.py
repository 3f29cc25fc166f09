"""No private key, no secret of a group and no key made of it is anywhere but where it must be.

Searched as they are, in hex, in base64 and as Python prints them: what commands print, also with --debug and when they fail;
the arguments of all processes; all files; what objects show of themselves; tracebacks with the values of variables.
"""

from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pprint import pformat

import pytest
from rich.pretty import pretty_repr

import kacas
from kacas.errors import KacasError
from kacas.settings import Settings, identity_file
from kacas_remote import identity
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.blobs.sealed import SealedBlobs
from kacas_remote.groups import keys_of
from kacas_remote.groups.edits import NewMember
from kacas_remote.groups.verbs import add_members, create_group, join_group, open_group, remove_members
from kacas_remote.sealing.epoch_keys import EpochKeys
from kacas_remote.sealing.wrapping import UnopenedError, open_ring, seal_ring, unwrap, wrap
from kacas_remote.signing import PrivateKey, new_private_key, publisher_text
from tests.cli.conftest import PROGRAM
from tests.remote.group_keys import FixedKeys
from tests.remote.leaks import Leaks, rendered_error, secrets_of

CONTENT = "what only members of the group may read\n"
LABEL = "patient-12.txt"


class Lab:
    """Ada, the admin, with an identity in her home; Ben, a member, whose keys are in variables; Eve, who was removed."""

    def __init__(self, top: Path) -> None:
        self.top, self.said = top, b""
        self.people = {name: self._environment(name) for name in ("ada", "ben", "eve")}
        self.keys: dict[str, PrivateKey] = {"ada": identity.own_or_new(self.people["ada"]).key}
        for name in ("ben", "eve"):
            key = self.keys[name] = new_private_key()
            self.people[name] |= {"KACAS_CLIENT_ID": bytes(key.verify_key).hex(), "KACAS_PRIVATE_KEY": bytes(key).hex()}
        self.record = f"file:{top / 'lab.group'}"
        others = [NewMember(bytes(self.keys[name].verify_key), name) for name in ("ben", "eve")]
        create_group("lab", at=self.record, others=others, environment=self.people["ada"])
        group = open_group("lab", self.people["ada"])
        remove_members(group, ["eve"], self.people["ada"])
        self.id = f"ag_{group.joined.group_id.hex()}"

    def _environment(self, name: str) -> dict[str, str]:
        home = self.top / name
        home.mkdir()
        return {
            "HOME": str(home),
            "KACAS_OWNER": name,
            "KACAS_DIR": str(home / "store"),
            "KACAS_CACHE_DIR": str(home / "cache"),
            "PATH": os.environ["PATH"],
        }

    def run(self, person: str, *words: str, code: int | None = 0) -> str:
        """A command, of which all that it says is kept. code: its exit code; None for any but 0."""
        done = subprocess.run(
            [*PROGRAM, *words], env=self.people[person], capture_output=True, check=False, timeout=120
        )
        self.said += done.stdout + done.stderr
        assert (done.returncode == code) if code is not None else done.returncode, (
            words,
            done.returncode,
            done.stdout,
            done.stderr,
        )
        return done.stdout.decode().strip()

    def epochs(self) -> list[EpochKeys]:
        return list(keys_of("lab", self.people["ada"]).epochs())

    def leaks(self) -> Leaks:
        secrets = secrets_of(self.epochs())
        for name, key in self.keys.items():
            secrets[f"private key of {name}"] = bytes(key)
            secrets[f"X25519 key of {name}"] = bytes(key.to_curve25519_private_key())
        return Leaks(secrets)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@contextmanager
def arguments_of_all_processes() -> Iterator[set[bytes]]:
    """What stands in /proc/*/cmdline meanwhile, looked at all the time."""
    seen: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes())
                except OSError:
                    continue  # it has ended

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def test_what_is_searched_for_is_found(lab: Lab, tmp_path: Path) -> None:
    leaks = lab.leaks()
    (secret,) = {one.secret for one in lab.epochs() if one.epoch == 2}
    for text in (
        secret.hex(),
        repr(secret),
        str(list(secret)),
        secret.hex().upper(),
        f"a {b64encode(secret).decode()}",
    ):
        assert leaks.found_in(text) == ["secret of epoch 2"]
    for front in (b"", b"1", b"12"):
        assert leaks.found_in(b64encode(front + secret + b"behind")) == ["secret of epoch 2"]
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(b"front" + secret + b"behind")
    assert leaks.found_below(tmp_path) == [("secret of epoch 2", str(tmp_path / "below" / "file"))]
    assert leaks.found_in(identity_file(lab.people["ada"]).read_bytes()) == ["private key of ada"]


def test_no_command_prints_keeps_or_hands_on_what_is_secret(lab: Lab) -> None:
    note = lab.top / LABEL
    note.write_text(CONTENT)
    bucket = lab.top / "bucket"
    bucket.mkdir(exist_ok=True)
    with arguments_of_all_processes() as arguments:
        uri = lab.run("ada", "store", str(note))
        lab.run("ada", "group", "show", "lab", "--json")
        lab.run("ada", "group", "log", "lab", "--debug")
        lab.run("ada", "remote", "add", "private", f"file://{bucket}", "--private", "lab", "--debug")
        lab.run("ada", "push", "--to", "private", uri, "--debug")
        lab.run("ada", "remote", "show", "private", "--json")
        lab.run("ada", "remote", "verify", "private", "--deep")
        lab.run("ben", "group", "join", "lab", lab.id, "--at", lab.record)
        lab.run("ben", "remote", "add", "private", f"file://{bucket}", "--private", "lab")
        lab.run("ben", "init")
        assert lab.run("ben", "cat", uri.partition("?")[0]) == CONTENT.strip()
        secret_uri = lab.run("ada", "encrypt-uri", uri, "--group", "lab", "--hide-label")
        assert lab.run("ben", "decrypt-uri", secret_uri, "--debug") == uri
        lab.run("ada", "identity", "show")
        lab.run("ada", "identity", "export", str(lab.top / "exported.toml"), "--debug")
        lab.run("ada", "config", "--json")
        # What goes wrong:
        lab.run("ada", "identity", "create", "--debug", code=None)
        lab.run("ben", "identity", "import", str(note), "--debug", code=None)
        lab.run("ada", "identity", "export", str(lab.top / "exported.toml"), "--debug", code=None)
        lab.run("eve", "group", "join", "lab", lab.id, "--at", lab.record)
        lab.run("eve", "decrypt-uri", secret_uri, "--debug", code=15)
        lab.run("eve", "remote", "add", "private", f"file://{bucket}", "--private", "lab", "--debug")
        lab.run("eve", "remote", "verify", "private", "--debug", code=15)
        lab.run("ben", "group", "remove-member", "lab", "ada", "--debug", code=15)
        lab.run("ada", "group", "remove-member", "lab", "nobody", "--debug", code=None)
        lab.run("ada", "group", "show", "other", "--debug", code=None)
        lab.run("ben", "group", "add-member", "lab", bytes(32).hex(), "--debug", code=None)
        for path in bucket.rglob("*"):
            if path.is_file() and path.name != "kacas-remote.json":
                path.chmod(0o600)
                path.write_bytes(bytes(len(path.read_bytes())))
        lab.run("ben", "cat", "--debug", "sha1://" + "0" * 40, code=None)
        lab.run("ada", "remote", "verify", "private", "--deep", "--debug", code=None)
        whole = (lab.top / "lab.group").read_bytes()
        (lab.top / "lab.group").write_bytes(whole.replace(b'"epoch":2', b'"epoch":3'))
        lab.run("ben", "group", "show", "lab", "--debug", code=None)
        lab.run("ada", "push", "--to", "private", uri, "--debug", code=None)
        (lab.top / "lab.group").write_bytes(whole)
    leaks = lab.leaks()
    assert b"Traceback" in lab.said
    assert leaks.found_in(lab.said) == []
    assert arguments
    assert leaks.found_in(b"\n".join(arguments)) == []
    kept = [identity_file(lab.people["ada"]), lab.top / "exported.toml"]
    assert all(leaks.found_in(path.read_bytes()) == ["private key of ada"] for path in kept)
    assert leaks.found_below(lab.top, but=kept) == []


@pytest.fixture
def become(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Be a person of the lab from now on, in this process."""

    def call(name: str, **more: str) -> None:
        for variable in ("KACAS_CLIENT_ID", "KACAS_PRIVATE_KEY"):
            monkeypatch.delenv(variable, raising=False)
        for variable, value in {**lab.people[name], **more}.items():
            monkeypatch.setenv(variable, value)

    return call


def test_half_an_identity_and_a_wrong_one_are_refused_without_being_shown(
    lab: Lab, become: Callable[..., None]
) -> None:
    key, leaks = lab.keys["ben"], lab.leaks()
    public, private = bytes(key.verify_key).hex(), bytes(key).hex()
    for given in (
        {"KACAS_CLIENT_ID": "", "KACAS_PRIVATE_KEY": private},
        {"KACAS_CLIENT_ID": public, "KACAS_PRIVATE_KEY": private[:-2]},
        {"KACAS_CLIENT_ID": private[:-2], "KACAS_PRIVATE_KEY": private},
        {"KACAS_CLIENT_ID": bytes(32).hex(), "KACAS_PRIVATE_KEY": private},
    ):
        become("ben", **given)
        assert leaks.found_in(rendered_error(identity.own, KacasError)) == []
        assert leaks.found_in(rendered_error(lambda: keys_of(lab.id).epochs(), KacasError)) == []
        lab.people["wrong"] = {**lab.people["ben"], **given}
        lab.run("wrong", "group", "create", "another", "--at", lab.record + "2", "--debug", code=None)
    assert leaks.found_in(lab.said) == []


def test_what_goes_wrong_with_boxes_and_rings_shows_no_variable_that_is_secret(lab: Lab) -> None:
    ada, ben = lab.keys["ada"], lab.keys["ben"]
    newest, first = lab.epochs()
    other = EpochKeys(bytes(16), 2, newest.secret)
    box = wrap(newest, bytes(ben.verify_key))
    ring = seal_ring(newest, [first.secret])
    mistakes: list[Callable[[], object]] = [
        lambda: unwrap(box, ada, newest.group_id, 2),
        lambda: unwrap(box[:-1] + b"\0", ben, newest.group_id, 2),
        lambda: unwrap(wrap(other, bytes(ben.verify_key)), ben, newest.group_id, 2),
        lambda: unwrap(box, ben, newest.group_id, 3),
        lambda: unwrap(b"", ben, newest.group_id, 2),
        lambda: open_ring(newest, ring[:-1] + bytes([ring[-1] ^ 1])),
        lambda: open_ring(newest, ring[:-1]),
        lambda: open_ring(EpochKeys(newest.group_id, 2, first.secret), ring),
    ]
    leaks = lab.leaks()
    for mistake in mistakes:
        assert leaks.found_in(rendered_error(mistake, UnopenedError)) == []


def test_what_goes_wrong_with_groups_and_sealed_blobs_shows_no_variable_that_is_secret(
    lab: Lab, become: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    leaks, texts = lab.leaks(), []

    def goes_wrong(mistake: Callable[[], object]) -> None:
        texts.append(rendered_error(mistake, KacasError))
        assert leaks.found_in(texts[-1]) == [], texts[-1]

    become("ben")
    goes_wrong(lambda: keys_of("nothing"))
    join_group("lab", lab.id, at=lab.record)
    goes_wrong(lambda: join_group("other", lab.id, at=lab.record))
    goes_wrong(lambda: create_group("lab"))
    goes_wrong(lambda: remove_members(open_group("lab"), ["ada"]))
    goes_wrong(lambda: add_members(open_group("lab"), [NewMember(bytes(range(32)), "new")]))
    keys, lies = keys_of("lab"), MemoryBlobs()
    blobs = SealedBlobs(lies, keys, miss_s=0)
    blobs.put("packs/00", b"sealed")
    (name,) = [info.key for info in lies.list("") if "/" in info.key]
    sealed = lies.get(name, 1000)
    lies.put(name, sealed[:-1] + bytes([sealed[-1] ^ 1]))
    goes_wrong(lambda: blobs.get("packs/00", 1000))
    goes_wrong(lambda: blobs.get_ranges("packs/00", [(0, 3)]))
    goes_wrong(lambda: blobs.get("packs/01", 1000))
    goes_wrong(lambda: blobs.sign("packs/00", "GET", 60))
    goes_wrong(lambda: blobs.put("x" * 1000, b""))
    goes_wrong(lambda: SealedBlobs(lies, FixedKeys("of others")).get("packs/00", 1000))
    secret_uri = kacas.encrypt_uri("sha1://" + 40 * "5", access_group="lab")
    goes_wrong(lambda: kacas.decrypt_uri(secret_uri.replace("//", "//0")))
    goes_wrong(lambda: kacas.decrypt_uri(secret_uri[:11] + ("1" if secret_uri[11] == "0" else "0") + secret_uri[12:]))
    goes_wrong(lambda: kacas.decrypt_uri(secret_uri.replace(lab.id, "ag_" + 32 * "0")))
    goes_wrong(lambda: kacas.load_text(secret_uri))
    goes_wrong(lambda: kacas.encrypt_uri("sha1://" + 40 * "5", access_group="nothing"))
    become("eve")
    join_group("lab", lab.id, at=lab.record)
    goes_wrong(lambda: keys_of("lab").epochs())
    goes_wrong(lambda: kacas.decrypt_uri(secret_uri))
    whole = (lab.top / "lab.group").read_bytes()
    become("ben", XDG_STATE_HOME=str(lab.top / "new"), XDG_CACHE_HOME=str(lab.top / "new"))
    try:
        for record in (whole[:-10], whole.replace(b'"epoch":2', b'"epoch":3'), b""):
            (lab.top / "lab.group").write_bytes(record)
            goes_wrong(lambda: keys_of("lab").epochs())
    finally:
        (lab.top / "lab.group").write_bytes(whole)
    assert leaks.found_in(caplog.text) == []


def test_nothing_shows_what_is_secret_of_itself_or_is_pickled_with_it(lab: Lab) -> None:
    keys = keys_of("lab", lab.people["ada"])
    found = identity.find(lab.people["ada"])
    settings = Settings.from_environment(lab.people["ada"])
    blobs = SealedBlobs(MemoryBlobs(), keys)
    newest = keys.epochs()[0]
    leaks = lab.leaks()
    shown = [keys, newest, blobs, found, lab.keys["ada"], open_group("lab", lab.people["ada"]), settings]
    for one in shown:
        for text in (repr(one), str(one), f"{one}", f"{one!r}", "%s" % (one,), pformat([one]), pretty_repr(one)):  # noqa: UP031
            assert leaks.found_in(text) == [], type(one)
        inside = getattr(one, "__dict__", {})
        if one is not newest and one is not lab.keys["ada"]:
            assert leaks.found_in(repr(inside)) == [], type(one)
    for one in (newest, lab.keys["ada"]):
        for copied in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="pickled"):
                copied(one)
    assert leaks.found_in(pickle.dumps(keys)) == []


def test_a_public_key_is_what_a_person_is_called_by(lab: Lab) -> None:
    assert publisher_text(bytes(lab.keys["ada"].verify_key)) in repr(lab.keys["ada"])
