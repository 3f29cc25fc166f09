"""Credentials of a remote: where they are looked for, and never in a URL, log, error or repr.

1. KACAS_REMOTE_<NAME>_ACCESS_KEY_ID, _SECRET_ACCESS_KEY, _SESSION_TOKEN (and the other keys, in the same way)
2. ~/.config/kacas/credentials.toml, 0600: a section [<name>] with the same keys in lower case
3. s3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; then ~/.aws/credentials and ~/.aws/config, $AWS_PROFILE
4. what the cloud's client finds by itself: GOOGLE_* and gcloud's, AZURE_*, the role of a machine or container
"""

from __future__ import annotations

import configparser
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kacas.errors import InvalidSettingError
from kacas.settings import environment_of, user_file
from kacas_remote.configuration import RemoteConfiguration

_S3 = ("access_key_id", "secret_access_key", "session_token")
KEYS = {
    "s3": _S3,
    "gs": ("service_account_path",),
    "az": ("account_name", "account_key", "sas_token"),
}
_MOST = 1 << 20  # bytes of a file with credentials
_UNCLEAN = "has a line end, a blank or a letter that it cannot have; was it read from a file, with the end of its line?"


def credentials_of(remote: RemoteConfiguration, environment: Mapping[str, str] | None = None) -> dict[str, str] | None:
    """Key → value, as the client of the remote's cloud calls them. None: what that client finds by itself.

    Raises InvalidSettingError, which quotes no secret.
    """
    env = environment_of(environment)
    keys = KEYS.get(remote.scheme, ())
    if not keys:
        return None
    if remote.anonymous:
        return {"skip_signature": "true"}
    found = _of_environment(remote, keys, env) or _of_file(remote, keys, user_file("credentials.toml", env))
    if found is None and remote.scheme == "s3":
        found = _of_aws(remote, env)
    return found


def region_of(remote: RemoteConfiguration, environment: Mapping[str, str] | None = None) -> str | None:
    """The region to ask in: the remote's own, else that of the environment or profile for Amazon's S3. None: the usual one.

    Raises InvalidSettingError.
    """
    env = environment_of(environment)
    region: str | None = remote.region
    if not region and remote.scheme == "s3" and not remote.endpoint:
        region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or _aws_profile(remote, env).get("region")
    if region and not _is_clean(region):
        raise InvalidSettingError(f"the region of remote {remote.name}, {region[:80]!r}, {_UNCLEAN}")
    return region or None


def variable(remote_name: str, key: str) -> str:
    """The environment variable of one key.

    >>> variable("lab-2", "access_key_id")
    'KACAS_REMOTE_LAB_2_ACCESS_KEY_ID'
    """
    return f"KACAS_REMOTE_{remote_name}_{key}".upper().replace("-", "_")


def _of_environment(
    remote: RemoteConfiguration, keys: tuple[str, ...], env: Mapping[str, str]
) -> dict[str, str] | None:
    found = {key: env[variable(remote.name, key)] for key in keys if env.get(variable(remote.name, key))}
    return _whole(found, f"the environment of remote {remote.name}", lambda key: variable(remote.name, key))


def _of_file(remote: RemoteConfiguration, keys: tuple[str, ...], path: Path) -> dict[str, str] | None:
    table = _read_private(path).get(remote.name)
    if table is None:
        return None
    where = f"{path}: [{remote.name}]"
    if not isinstance(table, dict):
        raise InvalidSettingError(f"{where} must be a table")
    for key, value in table.items():
        if key not in keys:
            raise InvalidSettingError(f"{where}: {key[:80]!r} is not known here; known are {', '.join(keys)}")
        if not isinstance(value, str) or not value:
            raise InvalidSettingError(f"{where}: {key} must be text")
    return _whole(dict(table), where, str)


def _read_private(path: Path) -> dict[str, Any]:
    """Raises InvalidSettingError, also if others could read the file, or have written it."""
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.geteuid():
                raise InvalidSettingError(f"{path} belongs to another user: not read. Make one of your own")
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise InvalidSettingError(
                    f"{path} holds secrets, and others may read or write it: not read. Run: chmod 600 {path}"
                )
            data = file.read(_MOST)
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise InvalidSettingError(f"{path} cannot be read: {exc.strerror}; mend that, or move it away") from exc
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        # Its words, and the chain of causes, could quote a secret.
        raise InvalidSettingError(
            f'{path} is not TOML; correct it: [NAME], then lines such as access_key_id = "…"'
        ) from None


def _of_aws(remote: RemoteConfiguration, env: Mapping[str, str]) -> dict[str, str] | None:
    if not remote.profile:
        found = {key: env[f"AWS_{key.upper()}"] for key in _S3 if env.get(f"AWS_{key.upper()}")}
        if known := _whole(found, "the environment", lambda key: f"AWS_{key.upper()}"):
            return known
    profile = _profile_name(remote, env)
    values = _aws_profile(remote, env)
    known = _whole(
        {key: values[f"aws_{key}"] for key in _S3 if values.get(f"aws_{key}")},
        f"profile {profile} of ~/.aws",
        lambda key: f"aws_{key}",
    )
    if known is None and (values.keys() & {"sso_session", "sso_start_url", "credential_process", "role_arn"}):
        raise InvalidSettingError(
            f"profile {profile} of ~/.aws has no keys but says where they come from (a login, a role, a program), which kacas "
            f'does not follow; run: eval "$(aws configure export-credentials --profile {profile} --format env)"'
        )
    if known is None and not values and (remote.profile or env.get("AWS_PROFILE")):
        raise InvalidSettingError(
            f"there is no profile {profile!r} in ~/.aws/credentials or ~/.aws/config; see: aws configure"
        )
    return known


def _profile_name(remote: RemoteConfiguration, env: Mapping[str, str]) -> str:
    return remote.profile or env.get("AWS_PROFILE") or "default"


def _aws_profile(remote: RemoteConfiguration, env: Mapping[str, str]) -> dict[str, str]:
    """What both files say of the profile; the credentials file comes first, as for Amazon's own programs."""
    home = Path(env.get("HOME") or Path.home())
    name = _profile_name(remote, env)
    config = Path(env.get("AWS_CONFIG_FILE") or home / ".aws" / "config").expanduser()
    credentials = Path(env.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws" / "credentials").expanduser()
    section = name if name == "default" else f"profile {name}"
    return _ini_section(config, section) | _ini_section(credentials, name)


def _ini_section(path: Path, section: str) -> dict[str, str]:
    # default_section: theirs is an ordinary one. No interpolation: secrets hold %.
    parser = configparser.ConfigParser(interpolation=None, default_section="", strict=False)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_string(file.read(_MOST))
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise InvalidSettingError(
            f"{path} cannot be read: {exc.strerror}; mend that, or set AWS_ACCESS_KEY_ID"
        ) from exc
    except (configparser.Error, ValueError):
        raise InvalidSettingError(
            f"{path} is not what Amazon's programs write; correct it, or see: aws configure"
        ) from None
    return dict(parser[section]) if parser.has_section(section) else {}


def _whole(found: dict[str, str], where: str, spelled: Any) -> dict[str, str] | None:
    """The same; None if nothing is found. Half of a pair is a mistake that no service would explain; and a line end makes the
    client panic."""
    if not found:
        return None
    for key, value in found.items():
        if key != "service_account_path" and not _is_clean(value):
            raise InvalidSettingError(f"{where}: {spelled(key)} {_UNCLEAN}")
    for key, partner in (("access_key_id", "secret_access_key"), ("secret_access_key", "access_key_id")):
        if key in found and partner not in found:
            raise InvalidSettingError(f"{where} has {spelled(key)} but no {spelled(partner)}; set both")
    if "session_token" in found and "access_key_id" not in found:
        if where == "the environment":
            return None  # a token alone belongs to keys that are elsewhere, or is left over
        raise InvalidSettingError(f"{where} has {spelled('session_token')} but no {spelled('access_key_id')}; set both")
    return found


def _is_clean(value: str) -> bool:
    """Whether it can go into a header."""
    return value.isascii() and value.isprintable() and " " not in value
