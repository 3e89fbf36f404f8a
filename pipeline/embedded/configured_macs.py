"""Macs of configured sites as a source of the service: real Macs, which send their own events."""

from collections.abc import Callable
from datetime import datetime

from agents.configured_sites import ConfiguredSites
from agents.mdm.queries import QueryOutcome, QuerySender
from agents.site_access import SiteAccess
from pipeline.embedded.service_thread import AcceptedInput
from runtime.logs import Log
from schemas.queries import MacQuery


class ConfiguredMacs:
    """A `MacSource` without events of its own: the MDM servers send those to the gateway.

    `count_query` is as for QuerySender, and is called in the thread of each site.
    """

    def __init__(
        self, sites: ConfiguredSites, count_query: Callable[[QueryOutcome, float], None], log: Log
    ) -> None:
        self._sites = sites
        self._senders = {
            name: QuerySender(queries, sites.query_budgets(name), sites.now, count_query, log)
            for name, queries in sites.queries.items()
        }
        for sender in self._senders.values():
            sender.start()

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

    def is_queried(self, site: str, server: str | None) -> bool:
        """Return True if Macs of this MDM server are queried."""
        budgets = self._sites.query_budgets(site)
        if server is None and len(budgets) == 1:
            return all(budgets.values())
        return server is not None and budgets.get(server, 0) > 0

    def ask(self, query: MacQuery) -> None:
        """Let a query of a live site be sent; it does not wait."""
        self._senders[query.site].ask(query)

    def waiting_queries(self) -> int:
        """Return the number of queries that wait for the budget of their server."""
        return sum(sender.waiting() for sender in self._senders.values())

    def close(self) -> None:
        """Stop sending queries, then close the store of answers and the connections."""
        for sender in self._senders.values():
            sender.stop()
        self._sites.close()
