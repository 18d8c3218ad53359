"""Requests that may be repeated: a key that the caller chose, kept with what the request made.

The key is written by the very insert that it protects, so no crash parts the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlops.errors import RequestKeyReused

MOST_KEY = 200


@dataclass(frozen=True, slots=True)
class RequestKey:
    """The name of a request.

    Args:
        key: Chosen by the caller; up to `MOST_KEY` characters.
        digest: SHA-256 of what the request asks for, in hex; a repeat has the same.
    """

    key: str
    digest: str

    def check_repeat(self, made: str, digest: str | None) -> None:
        """Refuse another request under the key of the one that made a row.

        Args:
            made: What the first request made.
            digest: The digest that is stored with it; None where the first request had none.

        Raises:
            RequestKeyReused: when the two differ.
        """
        if digest is not None and digest != self.digest:
            raise RequestKeyReused(
                f"the key {self.key!r} belongs to another request, which made {made}; give this "
                "request a key of its own, or send what the first one sent"
            )


def columns_of(request: RequestKey | None) -> dict[str, str]:
    """The two columns of the row that a request makes; none without a key."""
    if request is None:
        return {}
    return {"request_key": request.key, "request_digest": request.digest}
