"""Hides credentials in text that people see: errors, log lines, artifacts.

A URL may carry a user and a password, and the text of an error of a library may carry the URL.
"""

from __future__ import annotations

import re

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
