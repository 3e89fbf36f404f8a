"""Reasons for which the site cache refuses an installer."""

from enum import StrEnum


class RefusalReason(StrEnum):
    """Reason for which an installer was not put into the cache, or not handed out."""

    CORRUPT = "corrupt"
    TOO_LARGE = "too_large"
    UNUSABLE = "unusable"
