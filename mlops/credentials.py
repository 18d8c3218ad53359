"""Hides credentials in text that people see: errors, log lines, artifacts.

A URL may carry a user and a password, and the text of an error of a library may carry the URL.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

HIDDEN = "***"

# A password may hold any character; a user without one holds no slash, so that an @ in the path of
# a URL hides nothing.
_IN_AUTHORITY = re.compile(r"""(?<=://)[^\s"<>/:]*(?::[^\s"<>]*)?@""")
_IN_QUERY = re.compile(
    r"""([?&][\w.-]*(?:password|passwd|pwd|secret|token|api_?key|access_?key)[\w.-]*=)[^&\s"<>]+""",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """The text with every URL's user, password and secret parameters replaced by ``***``.

    >>> without_credentials("no answer from http://ann:se/cr@et@mlflow:5000/api?token=abc")
    'no answer from http://***@mlflow:5000/api?token=***'
    """
    if "://" not in text:
        return text
    return _IN_QUERY.sub(rf"\1{HIDDEN}", _IN_AUTHORITY.sub(f"{HIDDEN}@", text))


def split_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """The URL without user and password, and these, decoded; None where it has none.

    Clients put the URL that they are given into errors and lines, so they get the first part.

    >>> split_login("http://ann:a%40b@mlflow:5000/x")
    ('http://mlflow:5000/x', ('ann', 'a@b'))
    """
    parts = urlsplit(url)
    if parts.username is None:
        return url, None
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return address, (unquote(parts.username), unquote(parts.password or ""))
