"""URLs that may contain credentials."""

import ipaddress
import re
import urllib.parse

_USER_INFO = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^/\s?#'\"<>@]*@")
_SECRET_PARAMETERS = re.compile(
    r"([?&;#](?:[\w.-]*(?:token|key|secret|signature|password|passwd|credential)|sig|pwd|auth|code|state)=)"
    r"[^&;#\s'\"<>)]+",
    re.IGNORECASE,
)
_REPLACEMENT = r"\1***"


def redact_urls(text: str) -> str:
    """Replaces user names, passwords and the values of secret parameters in the URLs of a text by ``***``."""
    text = _USER_INFO.sub(_REPLACEMENT + "@", text)
    return _SECRET_PARAMETERS.sub(_REPLACEMENT, text)


def has_user_info(url: str) -> bool:
    """Returns whether a URL contains a user name or a password."""
    return _USER_INFO.match(url) is not None


def is_plain_http_to_other_machine(url: str) -> bool:
    """Returns whether what is sent to a URL, e.g. a token, can be read by others on the network."""
    address = urllib.parse.urlsplit(url)
    return address.scheme.lower() == "http" and not _is_loopback(address.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
