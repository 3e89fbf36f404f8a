"""The state of an advisory feed, with which its next document is compared."""

from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field

from schemas.events.advisory import AdvisorySnapshot
from schemas.model import WireModel

FeedSource = Literal["sofa", "gdmf", "kev"]


# Keys of a state that was written before release 0.1.0; its other fields would be lost silently.
PRE_RELEASE_KEYS: Final = frozenset({"said_at", "set_aside", "supplements"})


class FeedState(WireModel):
    """A feed after its newest accepted document; the defaults are the state before the first.

    `snapshots` has the newest snapshot of each entry that the feed has listed and not retracted:
    an entry that a document lacks, or has in an unreadable form, is kept. `document_at` is the
    date inside the newest document (None if the feed has no dates), `reported_at` the time of the
    newest events (None without any), `listed` the number of its entries, `document_sha256` the
    digest of its bytes. `has_supplements` is True once the feed
    has listed background security improvements. `dead_letter_digests` identify the unusable
    parts of the newest documents, so that each becomes a dead letter only once.
    """

    source: FeedSource
    document_sha256: str = ""
    document_at: AwareDatetime | None = None
    reported_at: AwareDatetime | None = None
    listed: Annotated[int, Field(ge=0)] = 0
    has_supplements: bool = False
    snapshots: tuple[AdvisorySnapshot, ...] = ()
    dead_letter_digests: tuple[str, ...] = ()

    @property
    def cves(self) -> frozenset[str]:
        """The CVEs in `cves` of the feed's snapshots; `exploited_cves` are not added."""
        return frozenset(cve for one in self.snapshots for cve in one.cves)
