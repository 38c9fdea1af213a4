"""Secrets: from the environment, else generated once into the data directory with mode 0600."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from proxy.config import Settings
from proxy.errors import ConfigurationError

SHORTEST_CHARACTERS = 16


def secret_key(settings: Settings, environ: Mapping[str, str] | None = None) -> bytes:
    """The key of the digests: `CADUCEUS_SECRET_KEY`, else generated once, for the embedded database only.

    Raises ConfigurationError.
    """
    given = (os.environ if environ is None else environ).get("CADUCEUS_SECRET_KEY")
    if given:
        if len(given) < SHORTEST_CHARACTERS:
            raise ConfigurationError([("CADUCEUS_SECRET_KEY", f"is shorter than {SHORTEST_CHARACTERS} characters")])
        return given.encode()
    if settings.database.url:
        raise ConfigurationError(
            [
                (
                    "CADUCEUS_SECRET_KEY",
                    "must be set, the same on every machine, when database.url is; try `openssl rand -hex 32`",
                )
            ]
        )
    return kept(settings.data_dir, "secret-key").encode()


def kept(data_dir: Path, name: str) -> str:
    """The secret in the file `data_dir/name`, generated where there is none; two processes that start at once agree.

    Raises ConfigurationError for a file that holds no secret.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = data_dir / name
    if not path.exists():
        write_once(path, secrets.token_urlsafe(32))
    secret = path.read_text().strip()
    if len(secret) < SHORTEST_CHARACTERS:
        raise ConfigurationError(
            [(str(path), f"is shorter than {SHORTEST_CHARACTERS} characters; remove it to have one made")]
        )
    return secret


def write_once(path: Path, text: str) -> None:
    """Create `path` with mode 0600 and its whole content in one step; leave a file that another process created."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        owner = path.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:  # root, in a user's data directory
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
