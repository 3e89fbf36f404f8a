"""What an advisory feed has said so far: what its next document is compared with."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from schemas.events.advisory import AdvisorySnapshot
from schemas.model import WireModel

FeedSource = Literal["sofa", "gdmf", "kev"]


class FeedState(WireModel):
    """A feed after its newest document. Without one it is as before the first.

    `snapshots` are the last word on everything the feed ever listed and did not take back: an
    entry that a document lacks, or has in an unreadable form, stays as it was. `document_at` dates
    the newest document, where documents of this feed are dated; `listed` counts its entries and
    `document_sha256` names its bytes. `supplements`: whether the feed tells of background
    security improvements. `set_aside` are digests of what could not be used of the newest
    documents, so that each is told once.
    """

    source: FeedSource
    document_sha256: str = ""
    document_at: AwareDatetime | None = None
    listed: Annotated[int, Field(ge=0)] = 0
    has_supplements: bool = False
    snapshots: tuple[AdvisorySnapshot, ...] = ()
    dead_letter_digests: tuple[str, ...] = ()

    @property
    def cves(self) -> frozenset[str]:
        """Every CVE that it named."""
        return frozenset(cve for one in self.snapshots for cve in one.cves)
