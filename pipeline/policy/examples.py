"""Examples of a policy: Macs and releases in YAML, each with the decision that is expected.

A company tests its policy with them (`drydock policy test`). Reading the files that an example
names is the caller's part.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Final, NamedTuple, Self

from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints, model_validator

from pipeline.policy.model import PlainText
from runtime.located_yaml import Located
from runtime.yaml_model import StrictModel, YamlFileError, read_model
from schemas.decisions import Decision, Reason, Severity, Verdict
from schemas.envelope import AdvisoryPublishedEvent, InventoryEvent
from schemas.events.advisory import AdvisoryPublished, AdvisorySource
from schemas.events.inventory import InventoryReported, InventorySource
from schemas.findings import FindingCode
from schemas.ids import SerialField, SiteField, UdidField
from schemas.jobs import Action, Method
from schemas.macos import BuildField, OSVersionField
from schemas.model import WireModel

_SOURCE: Final = "/policy-example"
_UDID: Final = "00000000-0000-4000-8000-000000000001"

FileName = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
FileNames = tuple[FileName, ...]


class ExamplesError(YamlFileError):
    """The text is no file of examples; `problems` are in the order of their lines."""

    KIND = "file of examples"


class ReportedDevice(InventoryReported):
    """A Mac as one inventory report shows it: the fields of `drydock.inventory.reported.v1`.

    `reported_at` is the time of the report; by default the time of the decision.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    source: InventorySource = "mdm"
    udid: UdidField = _UDID
    reported_at: AwareDatetime | None = None

    def event(self, now: datetime) -> InventoryEvent:
        """Return the report as an event; `now` is the time of the decision."""
        return InventoryEvent(
            id=f"report-{self.udid}",
            source=_SOURCE,
            subject=self.udid,
            time=self.reported_at or now,
            data=InventoryReported(**_values(self, InventoryReported)),
        )


class PublishedRelease(AdvisoryPublished):
    """A release of Apple's: the fields of `drydock.advisory.published.v1`.

    Drydock knows it from `released_at` on.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    source: AdvisorySource = "sofa"
    os_version: OSVersionField
    released_at: AwareDatetime

    def event(self) -> AdvisoryPublishedEvent:
        """Return the release as an event of the time at which it was released."""
        values = _values(self, AdvisoryPublished)
        values["os_line"] = self.os_line or self.os_version.line
        return AdvisoryPublishedEvent(
            id=f"release-{self.os_version}",
            source=_SOURCE,
            subject=f"{self.platform}-{self.os_version}",
            time=self.released_at,
            data=AdvisoryPublished(**values),
        )


def _values(given: WireModel, wire: type[WireModel]) -> dict[str, Any]:
    return {name: getattr(given, name) for name in wire.model_fields}


class Catalogue(StrictModel):
    """The releases that are known: in the file itself, or in files that it names.

    `sofa`, `gdmf`, `kev`: documents of these feeds. `events`: CloudEvents, one on each line.
    """

    releases: tuple[PublishedRelease, ...] = ()
    sofa: FileNames = ()
    gdmf: FileNames = ()
    kev: FileNames = ()
    events: FileNames = ()


class Expected(StrictModel):
    """The fields of a decision that are compared; a field that the file leaves out is not.

    `target` and `build` are those of the decision's target; the order of `findings` is ignored.
    """

    decision: Verdict
    action: Action | None = None
    method: Method | None = None
    target: OSVersionField | None = None
    build: BuildField | None = None
    reason: Reason | None = None
    site: SiteField | None = None
    severity: Severity | None = None
    erases: bool = False
    deadline_at: AwareDatetime | None = None
    next_eligible_at: AwareDatetime | None = None
    findings: tuple[FindingCode, ...] = ()


class Example(StrictModel):
    """One Mac, and the decision expected for it at one time.

    The Mac is `mac`, or one of the Macs in the files `events`, chosen by `serial` or `udid` if they
    have several. `mac` may have a history in `events`.
    """

    name: PlainText
    now: AwareDatetime | None = None
    mac: ReportedDevice | None = None
    events: FileNames = ()
    serial: SerialField | None = None
    udid: UdidField | None = None
    expect: Expected

    @model_validator(mode="after")
    def _has_one_mac(self) -> Self:
        """Return the example unchanged. Raises ValueError if it has no Mac or chooses it twice."""
        if self.mac is None and not self.events:
            raise ValueError("an example needs `mac`, or `events` with a Mac")
        if len([one for one in (self.mac, self.serial, self.udid) if one is not None]) > 1:
            raise ValueError("choose the Mac by one of `mac`, `serial` and `udid`")
        return self


class Examples(StrictModel):
    """A file of examples. `policy` and all other file names are relative to its folder."""

    policy: FileName | None = None
    now: AwareDatetime | None = None
    catalogue: Catalogue = Catalogue()
    examples: Annotated[tuple[Example, ...], Field(min_length=1)]


class Difference(NamedTuple):
    """A field of a decision that is not as expected, both values as text."""

    field: str
    expected: str
    decided: str


def read_examples(text: str) -> tuple[Examples, Located]:
    """Return the examples of a YAML text, and its root, which has the location of each value.

    Raises ExamplesError with the problems of the YAML, or else with those of the examples.
    """
    try:
        return read_model(text, Examples)
    except YamlFileError as error:
        raise ExamplesError(error.problems, error.root) from None


def differences(expected: Expected, decision: Decision) -> Iterator[Difference]:
    """Yield each field that the example states and the decision has otherwise."""
    target = decision.target
    found = {
        **{name: getattr(decision, name, None) for name in Expected.model_fields},
        "target": None if target is None else target.version,
        "build": None if target is None else target.build,
    }
    for name in Expected.model_fields:
        if name in expected.model_fields_set:
            wanted, decided = _comparable(getattr(expected, name)), _comparable(found[name])
            if wanted != decided:
                yield Difference(name, _text(wanted), _text(decided))


def _comparable(value: Any) -> Any:
    """Return the codes of a list in alphabetical order; any other value unchanged."""
    return tuple(sorted(map(str, value))) if type(value) is tuple else value


def _text(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if type(value) is tuple:  # a version is a kind of tuple too
        return ", ".join(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value).lower() if isinstance(value, bool) else str(value)
