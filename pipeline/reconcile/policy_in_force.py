"""The policy by which the Macs of a fleet are decided."""

from pipeline.policy.file import read_policy
from pipeline.policy.model import Policy
from pipeline.state.fleet import Fleet


class PolicyInForce:
    """The newest policy of the fleet, or another one in its place."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._parsed: tuple[str, Policy] | None = None
        self._override: tuple[str, Policy] | None = None

    @property
    def policy(self) -> Policy | None:
        """The policy in force, or the one set by `override`; None before the first policy.

        Raises PolicyError if the text in force is not a valid policy.
        """
        if self._override is not None:
            return self._override[1]
        changed = self._fleet.policy
        if changed is None:
            return None
        if self._parsed is None or self._parsed[0] != changed.text:
            self._parsed = (changed.text, read_policy(changed.text))
        return self._parsed[1]

    @property
    def digest(self) -> str | None:
        """The digest of the text of the policy that `policy` returns; None without a policy."""
        if self._override is not None:
            return self._override[0]
        return None if self._fleet.policy is None else self._fleet.policy.digest

    def override(self, digest: str, policy: Policy) -> None:
        """Return this policy from now on, with any policy of the fleet."""
        self._override = (digest, policy)
