"""Addresses from which a feed may be read: HTTPS, or HTTP of this computer.

Over plain HTTP everyone between the feed and Drydock can write the feed.
"""

from urllib.parse import urlsplit

from runtime.listening import Listen


def is_url(location: str) -> bool:
    """Return True if the location is a URL; otherwise it is the path of a file."""
    return location.startswith(("https://", "http://"))


def is_http_of_this_computer(url: str) -> bool:
    """Return True for an http:// URL whose host is a loopback address or `localhost`."""
    parts = urlsplit(url)
    return parts.scheme == "http" and Listen(parts.hostname or "", 0).is_loopback


def problem_of(location: str) -> str | None:
    """Return the reason for which no feed is read from this location; None if it may be."""
    if not location.startswith("http://") or is_http_of_this_computer(location):
        return None
    return f"{location} is not HTTPS: everyone on the way could change the feed"
