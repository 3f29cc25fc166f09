"""Credentials: where they are taken from, in which order, and that they are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from kacas.errors import InvalidSettingError
from kacas_remote.configuration import RemoteConfiguration
from kacas_remote.credentials import credentials_of, region_of

LAB = RemoteConfiguration("lab-2", "s3://bucket")
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "env", "AWS_SECRET_ACCESS_KEY": "env-secret", "AWS_SESSION_TOKEN": "env-token"}
OWN = {"KACAS_REMOTE_LAB_2_ACCESS_KEY_ID": "own", "KACAS_REMOTE_LAB_2_SECRET_ACCESS_KEY": "own-secret"}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}


def private(env: dict[str, str], text: str, mode: int = 0o600) -> Path:
    path = Path(env["XDG_CONFIG_HOME"]) / "kacas" / "credentials.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(mode)
    return path


def aws(env: dict[str, str], name: str, text: str) -> None:
    path = Path(env["HOME"]) / ".aws" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")


SECTION = '[lab-2]\naccess_key_id = "file"\nsecret_access_key = "file-secret"\n'
PROFILES = "[default]\naws_access_key_id = d\naws_secret_access_key = d%s\n[work]\naws_access_key_id=w\naws_secret_access_key=w-s\n"


def key_of(env: dict[str, str], remote: RemoteConfiguration = LAB) -> str | None:
    found = credentials_of(remote, env)
    return found and found["access_key_id"]


def test_the_remotes_own_variables_come_first_then_the_file_the_environment_and_the_profile(
    env: dict[str, str],
) -> None:
    assert credentials_of(LAB, env) is None
    aws(env, "credentials", PROFILES)
    assert credentials_of(LAB, env) == {"access_key_id": "d", "secret_access_key": "d%s"}
    env |= ENVIRONMENT
    assert key_of(env) == "env"
    private(env, SECTION)
    assert credentials_of(LAB, env) == {"access_key_id": "file", "secret_access_key": "file-secret"}
    env |= OWN
    assert credentials_of(LAB, env) == {"access_key_id": "own", "secret_access_key": "own-secret"}


def test_a_profile_is_found_by_the_variable_and_by_the_remote(env: dict[str, str]) -> None:
    aws(env, "credentials", PROFILES)
    aws(env, "config", "[profile work]\nregion = eu-central-1\n[default]\nregion = us-west-2\n")
    assert key_of(env | {"AWS_PROFILE": "work"}) == "w"
    named = RemoteConfiguration("lab", "s3://bucket", profile="work")
    assert key_of(env | ENVIRONMENT, named) == "w"
    assert region_of(named, env) == "eu-central-1"
    assert region_of(LAB, env) == "us-west-2"
    assert region_of(LAB, env | {"AWS_REGION": "x"}) == "x"
    assert region_of(RemoteConfiguration("lab", "s3://b", endpoint="https://h"), env) is None


@pytest.mark.parametrize("line", ["sso_session = s", "credential_process = /bin/x", "role_arn = arn:aws:iam::1:role/r"])
def test_a_profile_whose_keys_come_from_elsewhere_says_which_command_gets_them(env: dict[str, str], line: str) -> None:
    aws(env, "config", f"[profile work]\n{line}\n")
    with pytest.raises(InvalidSettingError, match="aws configure export-credentials --profile work"):
        credentials_of(LAB, env | {"AWS_PROFILE": "work"})


def test_a_profile_that_is_not_there_is_said(env: dict[str, str]) -> None:
    with pytest.raises(InvalidSettingError, match="no profile 'none'"):
        credentials_of(LAB, env | {"AWS_PROFILE": "none"})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o660])
def test_a_file_that_others_may_read_or_write_is_refused_with_the_command_that_mends_it(
    env: dict[str, str], mode: int
) -> None:
    path = private(env, SECTION, mode)
    with pytest.raises(InvalidSettingError, match=f"chmod 600 {path}"):
        credentials_of(LAB, env)


@pytest.mark.parametrize(
    "text",
    [
        "[lab-2]\naccess_key_id = 'hunter2'",
        "[lab-2]\nsecret_access_key = 'hunter2'",
        "[lab-2]\nsession_token = 'hunter2'",
        "[lab-2]\npassword = 'hunter2'",
        "[lab-2]\naccess_key_id = ['hunter2']",
        "lab-2 = 'hunter2'",
        "[lab-2]\naccess_key_id = hunter2",
        "[lab-2]\nsecret_access_key = 'hunter2",
    ],
)
def test_what_is_wrong_in_the_file_is_said_without_a_secret(env: dict[str, str], text: str) -> None:
    path = private(env, text)
    with pytest.raises(InvalidSettingError) as caught:
        credentials_of(LAB, env)
    assert str(path) in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_another_remotes_section_is_none_of_its_business(env: dict[str, str]) -> None:
    private(env, SECTION.replace("lab-2", "lab-3"))
    assert credentials_of(LAB, env) is None


def test_half_a_pair_in_the_environment_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(InvalidSettingError, match="AWS_SECRET_ACCESS_KEY"):
        credentials_of(LAB, env | {"AWS_ACCESS_KEY_ID": "x"})


@pytest.mark.parametrize("bad", ["SECRET\n", "SECRET\r", "SECRET ", "SECRETé", "SEC\0RET"])
@pytest.mark.parametrize("key", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_a_key_that_was_read_with_its_line_end_is_refused_and_not_shown(
    env: dict[str, str], key: str, bad: str
) -> None:
    with pytest.raises(InvalidSettingError, match=f"{key} has a line end, a blank") as caught:
        credentials_of(LAB, env | ENVIRONMENT | {key: bad})
    assert "SEC" not in str(caught.value).replace("SECRET_ACCESS_KEY", "")


def test_a_region_with_a_line_end_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(InvalidSettingError, match="region of remote lab-2"):
        region_of(LAB, env | {"AWS_REGION": "eu-central-1\n"})


def test_a_public_bucket_is_asked_without_credentials(env: dict[str, str]) -> None:
    public = RemoteConfiguration("public", "s3://bucket", anonymous=True)
    assert credentials_of(public, env | ENVIRONMENT) == {"skip_signature": "true"}


def test_the_other_clouds_have_keys_of_their_own(env: dict[str, str]) -> None:
    private(env, "[az]\naccount_name = 'a'\naccount_key = 'k'\n[gs]\nservice_account_path = '/key.json'\n")
    assert credentials_of(RemoteConfiguration("az", "az://c"), env) == {"account_name": "a", "account_key": "k"}
    assert credentials_of(RemoteConfiguration("gs", "gs://b"), env | ENVIRONMENT) == {
        "service_account_path": "/key.json"
    }
    assert credentials_of(RemoteConfiguration("web", "https://h"), env | ENVIRONMENT) is None
