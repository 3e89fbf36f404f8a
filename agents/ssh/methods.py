"""The methods that are built for SSH."""

from typing import Final

from schemas.jobs import Method

SSH_METHODS: Final = frozenset({Method.SOFTWAREUPDATE, Method.PROFILES_RENEW})
