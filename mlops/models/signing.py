"""The signature of a bundle that was registered here, and its key.

The signature is HMAC-SHA256 of the digest. The key never leaves its file, which only its owner
may read. Its holder can sign code, because a signed pickle runs code when it loads.

The store keeps the fingerprint of the key, so that a process with another key does not start. In a
rotation it keeps two, and the next key lies beside the current one (``bundle.key.next``).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from mlops.errors import BundleError, KeyMismatch
from mlops.models.manifest import SIGNATURE, canonical_json, naming_read_errors

KEY_BYTES = 32
_OTHERS_MAY = stat.S_IRWXO | stat.S_IWGRP


class _Signature(msgspec.Struct):
    algorithm: Literal["hmac-sha256"]
    signature: str


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """The secret of an installation; ``repr`` does not show it.

    Args:
        accepted: Other secrets whose signatures count as well, during a rotation.
    """

    secret: bytes
    accepted: tuple[bytes, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Names the key without telling it, hex."""
        return _hmac(self.secret, "fingerprint of a signing key")

    def sign(self, digest: str) -> str:
        """The signature of a digest, hex."""
        return _hmac(self.secret, digest)

    def write(self, directory: Path, digest: str) -> None:
        """Put the signature into a bundle, whole: another process may be reading the bundle."""
        text = canonical_json({"algorithm": "hmac-sha256", "signature": self.sign(digest)})
        fresh = directory.with_name(f"{directory.name}.{SIGNATURE}.{os.getpid()}")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(directory / SIGNATURE)

    def check(self, directory: Path, digest: str) -> None:
        """Verify the signature in a bundle.

        Raises:
            KeyMismatch: when it was not made with this key, or an accepted one.
            BundleError: when there is no signature.
        """
        try:
            with naming_read_errors(directory):
                given = msgspec.json.decode((directory / SIGNATURE).read_bytes(), type=_Signature)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{directory / SIGNATURE} is not a signature ({error})") from error
        signature = given.signature.encode()
        secrets_to_try = (self.secret, *self.accepted)
        if not any(
            hmac.compare_digest(signature, _hmac(secret, digest).encode())
            for secret in secrets_to_try
        ):
            raise KeyMismatch(
                f"bundle {directory} was not signed with this installation's key; it comes from "
                "elsewhere or was altered. Register it here, or share the key file of "
                "MLOPS_BASE_PATH between the machines"
            )

    def of_fingerprints(self, known: Collection[str]) -> SigningKey | None:
        """The same key without secrets that are not among ``known``; None where none is left."""
        every = [SigningKey(secret) for secret in (self.secret, *self.accepted)]
        kept = [key for key in every if key.fingerprint in known]
        return SigningKey(kept[0].secret, tuple(key.secret for key in kept[1:])) if kept else None


def _hmac(secret: bytes, text: str) -> str:
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def next_key_file(path: Path) -> Path:
    """Where the key lies that a rotation goes over to."""
    return path.with_name(f"{path.name}.next")


def load_key(path: Path) -> SigningKey:
    """Read the key, and in a rotation the next one, whose signatures count as well.

    Raises:
        KeyMismatch: when it is missing, too short, or others may read or change it.
    """
    following = next_key_file(path)
    accepted = (read_secret(following),) if following.exists() else ()
    return SigningKey(read_secret(path), accepted)


def read_secret(path: Path) -> bytes:
    try:
        secret = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise KeyMismatch(
            f"signing key {path} cannot be read ({error.strerror}); copy keys/bundle.key from the "
            f"base path of the machine that registered the first version, with mode 0600: "
            f"install -m 600 bundle.key {path}"
        ) from error
    if mode & _OTHERS_MAY:
        raise KeyMismatch(f"signing key {path} is open to other users; run: chmod 600 {path}")
    if len(secret) < KEY_BYTES:
        raise KeyMismatch(f"signing key {path} has {len(secret)} bytes, {KEY_BYTES} are needed")
    return secret


def load_or_make_key(path: Path) -> SigningKey:
    """The key of this installation; the first call creates it."""
    make_key_file(path)
    return load_key(path)


def make_key_file(path: Path) -> None:
    """Make a new key there, for its owner alone, unless a key is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = _write_beside(path, secrets.token_bytes(KEY_BYTES))
        try:
            # The link makes the complete key visible at once, or fails on another process's key.
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()


def install_key(path: Path, secret: bytes) -> None:
    """Put a copied key there, for its owner alone; another key that was there is kept beside it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = _write_beside(path, secret)
    if path.exists() and path.read_bytes() != secret:
        path.rename(path.with_name(f"{path.name}.{SigningKey(path.read_bytes()).fingerprint[:12]}"))
    fresh.replace(path)


def _write_beside(path: Path, secret: bytes) -> Path:
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(secret)
    return fresh
