"""The table of sources, and every list that follows from it.

A source is a system whose payloads Drydock translates: a feed about Apple's releases, or a system
that reports on Macs. Its name is SOURCE of `drydock ingest`, the last part of an HTTP path, and a
part of its settings' names. Senders of events in Drydock's own form have no row: their events are
not translated.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from pipeline.ingest import gdmf, jamf, kev, micromdm, munki, nanomdm, osquery, sofa
from pipeline.ingest.feed_diff import DiffFeed, translate_since
from pipeline.ingest.mdm_webhook import WEBHOOK_FIELDS
from pipeline.ingest.payload_retention import PayloadFields
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import Translation
from schemas.events import advisory, checkin
from schemas.events.inventory import InventoryReported, InventorySource
from schemas.feeds import FeedSource
from schemas.model import WireModel

# The settings with the secrets of senders of events in Drydock's own form.
EVENTS_SECRET: Final = "events_secret"
ADVISORIES_SECRET: Final = "advisories_secret"
ADMIN_SECRET: Final = "admin_secret"


class Translator(Protocol):
    """The function that translates one whole payload. Pure; it raises nothing for any bytes."""

    def __call__(
        self, raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor
    ) -> Translation:
        """Return the events and dead letters of this payload.

        `origin` is the payload's source for a reader of its dead letters, such as a file's path. An
        event without a time of its own is dated `received_at`.
        """


class LineTranslator(Protocol):
    """The function that translates a file line by line, with one line in memory at a time.

    It reads the next line only when the caller asks for the next translation, so that the caller
    can number the lines.
    """

    def __call__(
        self, lines: Iterable[bytes], *, origin: str, received_at: datetime, redactor: Redactor
    ) -> Iterator[Translation]:
        """Yield one translation for each line that is not blank, in order.

        The origin of a dead letter is `origin:N`, where N counts all lines from 1.
        """


# The fields that a source may state, beside `source`, by the class of an event's data.
PermittedFields = Mapping[type[WireModel], frozenset[str]]


@dataclass(frozen=True, slots=True)
class Feed:
    """A public document about releases or exploited CVEs. It is polled, or posted to /v1/feeds.

    `diff` finds the news in a document.
    """

    name: FeedSource
    diff: DiffFeed
    permitted_fields: PermittedFields

    @property
    def secret(self) -> str:
        """The setting with the secret of a sender that posts documents or events of the feed."""
        return f"{self.name}_secret"


@dataclass(frozen=True, slots=True)
class DeviceSource:
    """A system that reports on Macs, by webhook or in files.

    - `reports_as`: the `source` of its inventory reports
    - `read_fields`: the fields of its payloads that are kept with their values
    - `translate_lines`: for files with one payload on each line, which may have any size
    - `hmac_key`: the setting with the key of its requests' HMAC; None if it signs no requests. If
      the setting has a value, every request must be signed, and `secret` is not used.
    """

    name: str
    reports_as: InventorySource
    translate: Translator
    permitted_fields: PermittedFields
    read_fields: PayloadFields
    translate_lines: LineTranslator | None = None
    hmac_key: str | None = None

    @property
    def secret(self) -> str:
        """The setting with the secret that the source sends with each request."""
        return f"{self.name}_secret"


_RELEASE_FIELDS: Final = frozenset(
    {"os_line", "os_version", "builds", "released_at", "expires_at", "device_ids"}
)
_SOFA_FIELDS: Final = _RELEASE_FIELDS | {"cves", "exploited_cves", "severity", "url"}
_MDM_FIELDS: Final[PermittedFields] = {
    InventoryReported: frozenset(
        {"udid", "serial", "enrollment_id", "site", "mdm_server", "mdm_enrolled"}
        | {"os_version", "build", "model", "device_id", "hostname", "apple_silicon"}
        | {"supervised", "user_approved", "ade_enrolled", "filevault", "system_volume_sealed"}
        | {"free_disk_gb", "battery_percent", "profiles", "identity_expires_at"}
    ),
    # Check-ins and status reports come from an MDM server only.
    checkin.MdmAuthenticated: frozenset(checkin.MdmAuthenticated.model_fields),
    checkin.MdmTokenUpdated: frozenset(checkin.MdmTokenUpdated.model_fields),
    checkin.MdmCheckedOut: frozenset(checkin.MdmCheckedOut.model_fields),
    checkin.MdmCommandReported: frozenset(checkin.MdmCommandReported.model_fields),
    checkin.BootstrapTokenSet: frozenset(checkin.BootstrapTokenSet.model_fields),
    checkin.DdmStatusReported: frozenset(checkin.DdmStatusReported.model_fields),
}

# First the feeds, then the sources of devices.
SOURCES: Final[tuple[Feed | DeviceSource, ...]] = (
    Feed(
        "sofa",
        sofa.diff,
        {
            advisory.AdvisoryPublished: _SOFA_FIELDS,
            advisory.AdvisorySeverityRaised: _SOFA_FIELDS,
            advisory.AdvisoryNarrowed: _SOFA_FIELDS,
            advisory.AdvisoryCorrected: _SOFA_FIELDS,
            advisory.AdvisoryRetracted: _SOFA_FIELDS,
        },
    ),
    Feed(
        "gdmf",
        gdmf.diff,
        {
            advisory.AdvisoryPublished: _RELEASE_FIELDS,
            advisory.AdvisoryNarrowed: _RELEASE_FIELDS,
        },
    ),
    Feed(
        "kev",
        kev.diff,
        {advisory.AdvisorySeverityRaised: frozenset({"cves", "exploited_cves", "kev_due_at"})},
    ),
    DeviceSource(
        "nanomdm",
        "mdm",
        nanomdm.translate,
        _MDM_FIELDS,
        WEBHOOK_FIELDS,
        hmac_key="nanomdm_hmac_key",
    ),
    DeviceSource("micromdm", "mdm", micromdm.translate, _MDM_FIELDS, WEBHOOK_FIELDS),
    DeviceSource(
        "jamf",
        "jamf",
        jamf.translate,
        {InventoryReported: frozenset({"udid", "serial", "os_version", "build", "hostname"})},
        jamf.WEBHOOK_FIELDS,
    ),
    DeviceSource(
        "osquery",
        "osquery",
        osquery.translate,
        {
            InventoryReported: frozenset(
                {"udid", "serial", "os_version", "build", "model", "hostname", "apple_silicon"}
                | {"mdm_enrolled", "mdm_server", "user_approved", "ade_enrolled"}
                | {"free_disk_gb", "battery_percent", "on_ac_power"}
            )
        },
        osquery.DOCUMENT_FIELDS,
        translate_lines=osquery.translate_lines,
    ),
    DeviceSource(
        "munki",
        "munki",
        munki.translate,
        {
            InventoryReported: frozenset(
                {"serial", "os_version", "build", "model", "device_id", "hostname"}
                | {"apple_silicon", "free_disk_gb"}
            )
        },
        munki.REPORT_FIELDS,
    ),
)
FEEDS: Final = tuple(one for one in SOURCES if isinstance(one, Feed))
DEVICE_SOURCES: Final = tuple(one for one in SOURCES if isinstance(one, DeviceSource))

FEED_DIFFS: Final[Mapping[FeedSource, DiffFeed]] = {feed.name: feed.diff for feed in FEEDS}
WEBHOOK_SOURCES: Final = tuple(source.name for source in DEVICE_SOURCES)
HMAC_KEYS: Final[Mapping[str, str]] = {
    source.name: source.hmac_key for source in DEVICE_SOURCES if source.hmac_key is not None
}
# The settings with the secret or key of each sender.
SECRET_SETTINGS: Final = (
    *HMAC_KEYS.values(),
    *(source.secret for source in SOURCES),
    EVENTS_SECRET,
    ADVISORIES_SECRET,
    ADMIN_SECRET,
)


def translator_since(
    source: FeedSource, previous: bytes | None, fixed: frozenset[str] = frozenset()
) -> Translator:
    """Return a translator of a feed's news since `previous`, the bytes of an earlier document.

    Without `previous`, the whole document is news, as it is if `previous` cannot be read; then the
    dead letters of `previous` are in the result too. `fixed` are the CVEs that Apple's releases are
    known to fix; only `kev` uses them. The translator ignores its redactor: feeds are public.
    """
    diff = FEED_DIFFS[source]

    def translator(
        raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor
    ) -> Translation:
        del redactor
        return translate_since(
            diff,
            raw,
            previous,
            source=source,
            origin=origin,
            received_at=received_at,
            fixed=fixed,
        )

    return translator


TRANSLATORS: Final[Mapping[str, Translator]] = {
    **{feed.name: translator_since(feed.name, None) for feed in FEEDS},
    **{source.name: source.translate for source in DEVICE_SOURCES},
}
READ_FIELDS: Final[Mapping[str, PayloadFields]] = {
    source.name: source.read_fields for source in DEVICE_SOURCES
}
LINE_TRANSLATORS: Final[Mapping[str, LineTranslator]] = {
    source.name: source.translate_lines
    for source in DEVICE_SOURCES
    if source.translate_lines is not None
}


def line_translator(translate: Translator) -> LineTranslator:
    """Return a translator of lines, which yields `translate` of each line as one payload.

    Blank lines are skipped. The origin of a line is `origin:N`, where N counts all lines from 1.
    """

    def translator(
        lines: Iterable[bytes], *, origin: str, received_at: datetime, redactor: Redactor
    ) -> Iterator[Translation]:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield translate(
                    line, origin=f"{origin}:{number}", received_at=received_at, redactor=redactor
                )

    return translator
