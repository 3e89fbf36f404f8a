"""Macs of configured sites as a source of the service: real Macs, which send their own events."""

from datetime import datetime

from agents.configured_sites import ConfiguredSites
from agents.site_access import SiteAccess
from pipeline.embedded.service_thread import AcceptedInput


class ConfiguredMacs:
    """A `MacSource` without events of its own: the MDM servers send those to the gateway."""

    def __init__(self, sites: ConfiguredSites) -> None:
        self._sites = sites

    @property
    def answers(self) -> ConfiguredSites:
        """The store of the answers, which arrive as events."""
        return self._sites

    def advance(self, _: datetime) -> AcceptedInput:
        """Return no events."""
        return AcceptedInput()

    def next_event_at(self) -> datetime | None:
        """Return None: no event is scheduled."""
        return None

    def access(self, site: str) -> SiteAccess | None:
        """Return the access to the Macs of a site; None if the site is in dry run."""
        return self._sites.access(site)

    def close(self) -> None:
        """Close the store of answers and the connections."""
        self._sites.close()
