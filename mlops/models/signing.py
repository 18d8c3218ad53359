"""The signature of a bundle that was registered here, and its key.

The signature is HMAC-SHA256 of the digest. The key never leaves its file, which only its owner
may read. Its holder can sign code, because a signed pickle runs code when it loads.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from mlops.errors import BundleError, BundleUnavailable
from mlops.models.manifest import SIGNATURE, canonical_json

KEY_BYTES = 32
_OTHERS_MAY = stat.S_IRWXO | stat.S_IWGRP


class _Signature(msgspec.Struct):
    algorithm: Literal["hmac-sha256"]
    signature: str


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """The secret of an installation; ``repr`` does not show it."""

    secret: bytes

    def sign(self, digest: str) -> str:
        """The signature of a digest, hex."""
        return hmac.new(self.secret, digest.encode(), hashlib.sha256).hexdigest()

    def write(self, directory: Path, digest: str) -> None:
        """Put the signature into a bundle."""
        text = canonical_json({"algorithm": "hmac-sha256", "signature": self.sign(digest)})
        (directory / SIGNATURE).write_text(text, encoding="utf-8")

    def check(self, directory: Path, digest: str) -> None:
        """Verify the signature in a bundle.

        Raises:
            BundleError: when it is missing or was not made with this key.
        """
        try:
            given = msgspec.json.decode((directory / SIGNATURE).read_bytes(), type=_Signature)
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{directory / SIGNATURE} is not a signature ({error})") from error
        if not hmac.compare_digest(given.signature.encode(), self.sign(digest).encode()):
            raise BundleUnavailable(
                f"bundle {directory} was not signed with this installation's key; it comes from "
                "elsewhere or was altered. Register it here, or share the key file of "
                "MLOPS_BASE_PATH between the machines"
            )


def load_key(path: Path) -> SigningKey:
    """Read the key.

    Raises:
        BundleError: when it is missing, too short, or others may read or change it.
    """
    try:
        secret = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise BundleError(
            f"signing key {path} cannot be read ({error.strerror}); "
            "it is made by the first registration under that base path"
        ) from error
    if mode & _OTHERS_MAY:
        raise BundleError(f"signing key {path} is open to other users; run: chmod 600 {path}")
    if len(secret) < KEY_BYTES:
        raise BundleError(f"signing key {path} has {len(secret)} bytes, {KEY_BYTES} are needed")
    return SigningKey(secret)


def load_or_make_key(path: Path) -> SigningKey:
    """The key of this installation; the first call creates it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        try:
            # The link makes the complete key visible at once, or fails on another process's key.
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return load_key(path)
