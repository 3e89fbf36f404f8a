"""Policy: the operators' rules for sites, windows, deadlines, methods and limits, validated.

`pipeline.policy.file` reads it from YAML and adds line numbers to the errors.
"""

import re
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta, tzinfo
from fnmatch import translate
from functools import cached_property
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from pipeline.policy.blast_radius import BlastRadius, ConfirmedMacs
from pipeline.policy.destructive import DestructiveWork
from runtime.yaml_model import StrictModel
from schemas.activations import MAX_ACTIVATION_NAME
from schemas.decisions import Severity
from schemas.ids import SiteField
from schemas.jobs import Action, Method
from schemas.macos import BuildField, OSVersionField
from schemas.time_zones import TimeZoneName

_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(m|h|d|w)", re.ASCII)
# macOS 16 to 25 never existed.
_LINE: Final = re.compile(r"10\.\d{1,2}|1[1-5]|2[6-9]|[3-9]\d", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_UNIT: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _duration(value: object) -> object:
    """Return the length of text such as `36h`; a timedelta is returned unchanged.

    Raises ValueError for anything else.
    """
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError("a duration is a number and m, h, d or w: 90m, 36h, 14d, 2w")
        try:
            return timedelta(**{_UNIT[match[2]]: float(match[1])})
        except OverflowError:
            raise ValueError("a duration is at most 3650d") from None
    if isinstance(value, timedelta):
        return value
    raise ValueError("a duration is a number and m, h, d or w: 90m, 36h, 14d, 2w")


def _duration_text(value: timedelta) -> str:
    """Return the length as text in minutes, which `_duration` reads: `90m`."""
    minutes = f"{value / timedelta(minutes=1):.9f}".rstrip("0").rstrip(".")
    return f"{minutes}m"


def _line(value: str) -> str:
    """Return a macOS line such as `26` or `10.15` unchanged. Raises ValueError for other text."""
    if _LINE.fullmatch(value) is None:
        raise ValueError(
            'a macOS line is its major version in quotes: "26", "15"; 16 to 25 are none'
        )
    return value


def _server(value: str) -> str:
    """Return a URL or host name unchanged. Raises ValueError for other text."""
    try:
        host = urlsplit(value if "//" in value else f"//{value}").hostname
    except ValueError:
        host = None
    if not host or any(character.isspace() for character in value):
        raise ValueError("an MDM server is a URL or a host name: https://mdm.example.org/")
    return value


def _plain(value: str) -> str:
    """Return the text unchanged.

    Raises ValueError if it is blank, longer than 1,024 characters, or has control characters or
    line separators.
    """
    if len(value) > 1024 or _CONTROL.search(value) or not value.strip():
        raise ValueError("must be 1 to 1,024 characters of text without control characters")
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(_duration_text),
    Field(ge=timedelta(0), le=timedelta(days=3650)),
]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(_plain)]
# Text that people read in a decision or on a terminal.
PlainText = Annotated[str, AfterValidator(_plain)]
Line = Annotated[str, AfterValidator(_line)]
ServerName = Annotated[str, AfterValidator(_server)]


SEVERITY_ORDER: Final = (
    Severity.ROUTINE,
    Severity.LOW,
    Severity.MEDIUM,
    Severity.HIGH,
    Severity.CRITICAL,
    Severity.EXPLOITED,
)

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: Final[tuple[Day, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
CLOCK_PATTERN: Final = r"^([01]\d|2[0-3]):[0-5]\d$"
ClockTime = Annotated[str, StringConstraints(pattern=CLOCK_PATTERN)]


class Window(StrictModel):
    """A maintenance window in the site's local time; it may end on the next day.

    `days` are the days on which it starts. `from` equal to `to` is 24 hours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    days: Annotated[tuple[Day, ...], Field(min_length=1)] = DAYS
    start: Annotated[ClockTime, Field(alias="from")]
    end: Annotated[ClockTime, Field(alias="to")]


class Match(StrictModel):
    """A set of Macs: those of which one field matches a glob of its list, in any case.

    A set without globs is empty.
    """

    hostnames: tuple[Glob, ...] = ()
    serials: tuple[Glob, ...] = ()
    udids: tuple[Glob, ...] = ()
    models: tuple[Glob, ...] = ()

    def matches(
        self, *, hostname: str | None, serial: str | None, udid: str, model: str | None
    ) -> bool:
        """Return True if the Mac with these fields is in the set; None matches no glob."""
        values = {"serials": serial, "udids": udid, "hostnames": hostname, "models": model}
        return any(
            (value := values[name]) is not None and pattern.match(value.lower())
            for name, pattern in self._patterns
        )

    @cached_property
    def _patterns(self) -> tuple[tuple[str, re.Pattern[str]], ...]:
        """For each list that is not empty, its name and one regular expression for its globs."""
        lists = ((name, getattr(self, name)) for name in type(self).model_fields)
        return tuple(
            (name, re.compile("|".join(translate(glob.lower()) for glob in globs)))
            for name, globs in lists
            if globs
        )


class Site(StrictModel):
    """One site: time zone, uplink, maintenance windows, limit of open jobs, and its Macs.

    `uplink_mbps` is in megabits per second. `cache`: the site has a content cache, so an installer
    crosses the uplink once. `ssh`: the site's executor can log in to its Macs. Without `windows`
    the policy's windows apply. `confirmed` are Macs that MDM need not confirm.
    `destructive` are the Macs that a job may erase or reinstall; without it, those that the file of
    the live site names (`allow_destructive`).
    """

    time_zone: TimeZoneName
    uplink_mbps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1000.0
    cache: bool = False
    ssh: bool = True
    max_jobs: Annotated[int, Field(ge=1, le=10_000)] = 25
    windows: tuple[Window, ...] | None = None
    match: Match = Match()
    confirmed: ConfirmedMacs = ConfirmedMacs()
    destructive: DestructiveWork | None = None

    @cached_property
    def zone(self) -> ZoneInfo:
        """The site's time zone."""
        return ZoneInfo(self.time_zone)


class BySeverity(StrictModel):
    """One duration for each severity."""

    exploited: Duration
    critical: Duration
    high: Duration
    medium: Duration
    low: Duration
    routine: Duration

    def for_severity(self, severity: Severity) -> timedelta:
        """Return the duration for this severity."""
        value: timedelta = getattr(self, severity)  # a StrEnum: each value is a field's name
        return value


class Deadlines(BySeverity):
    """The time from the release of a fix to its deadline; after it, windows do not hold the job.

    The time begins later if Drydock first knew of the fix later, or of the exploitation for
    `exploited`.
    `kev_due_dates`: CISA's due date for an exploited CVE is the deadline if it is earlier.
    `after_enrollment`: no deadline of a Mac is earlier than this after its last enrollment began.
    `notice_minutes`: after the deadline, a user at the screen gets a notice this long before an
    installation over SSH; before it the user is left alone.
    """

    exploited: Duration = timedelta(days=3)
    critical: Duration = timedelta(days=7)
    high: Duration = timedelta(days=14)
    medium: Duration = timedelta(days=30)
    low: Duration = timedelta(days=30)
    routine: Duration = timedelta(days=45)
    kev_due_dates: bool = True
    after_enrollment: Duration = timedelta(0)
    notice_minutes: Annotated[int, Field(ge=0, le=120)] = 15


class Deferrals(BySeverity):
    """The time for which a release matures before it is sent; zero sends it at once."""

    exploited: Duration = timedelta(0)
    critical: Duration = timedelta(0)
    high: Duration = timedelta(days=2)
    medium: Duration = timedelta(days=5)
    low: Duration = timedelta(days=7)
    routine: Duration = timedelta(days=7)


class Methods(StrictModel):
    """The allowed methods for each action, in order of preference; others are never used.

    Without a method for `restart`, failed updates are followed by a reinstall directly.
    """

    update: tuple[Literal["ddm", "mdm_command", "softwareupdate"], ...] = (
        "ddm",
        "mdm_command",
        "softwareupdate",
    )
    upgrade: tuple[Literal["ddm", "mdm_command", "startosinstall"], ...] = (
        "ddm",
        "startosinstall",
    )
    reinstall: tuple[Literal["startosinstall", "erase_device"], ...] = (
        "startosinstall",
        "erase_device",
    )
    reimage: tuple[Literal["asr"], ...] = ("asr",)
    reenroll: tuple[Literal["profiles_renew", "install_profile"], ...] = ("profiles_renew",)
    restart: tuple[Literal["restart_update_service", "restart_device"], ...] = ("restart_device",)
    activate: tuple[Literal["activation_command"], ...] = ("activation_command",)

    def of(self, action: Action) -> tuple[Method, ...]:
        """Return the methods allowed for an action, in order of preference; may be empty."""
        names: tuple[str, ...] = getattr(self, action.value)
        return tuple(Method(name) for name in names)


class Upgrades(StrictModel):
    """Rules for upgrades to another line.

    `supported_lines`: `auto` is the newest line that has a release and the two before it. `to`:
    Macs whose model can run this line are upgraded to it, even if their own is supported; it also
    limits upgrades off dead lines. `out_of_support`: if false, a dead line alone is no reason for
    an upgrade, and its Macs get a finding.

    `deferral`: the time after the first release of a line before Macs move to it, for every
    severity; then the policy's deferrals apply to its releases. `not_before`: no Mac moves to `to`
    before this date, in the time of its site. `deadline`: the time after which the upgrade to `to`
    no longer waits for a window. It counts from `not_before` or the end of `deferral`, or from the
    time at which Drydock first knew of the line, if that is later. Without it, only a missing fix
    sets a deadline.
    """

    supported_lines: Literal["auto"] | tuple[Line, ...] = "auto"
    out_of_support: bool = True
    to: Line | None = None
    deferral: Duration = timedelta(0)
    not_before: date | None = None
    deadline: Duration | None = None

    @field_validator("not_before", "deadline")
    @classmethod
    def _has_a_line(cls, value: Any, info: ValidationInfo) -> Any:
        """Return the value unchanged. Raises ValueError without `to`, to which it belongs."""
        if value is not None and info.data.get("to", "") is None:
            raise ValueError("needs `to`: the line that Macs are upgraded to")
        return value


class Loans(StrictModel):
    """Rules for returned loan units, which are erased.

    `system`: `same_line` erases with the release of the Mac's own line, `newest` with the newest
    release that its hardware runs. `wait_for_window`: if false, the erase waits for no window.
    `require_ade`: a unit that is not known to enroll by itself afterwards is left to a person.
    """

    system: Literal["same_line", "newest"] = "same_line"
    wait_for_window: bool = False
    require_ade: bool = False


class Mdm(StrictModel):
    """Conditions of a healthy enrollment.

    `server`: the expected MDM server. `silent_after`: MDM is silent if its last contact is more
    than this before the newest inventory report. `identity_renew_before`: the MDM identity
    certificate is renewed this long before its end. `user_enrollment`: owners may enroll personal
    Macs, so that an enrolled Mac unknown to MDM can be one.
    """

    server: ServerName | None = None
    require_user_approved: bool = True
    silent_after: Duration = timedelta(days=7)
    user_enrollment: bool = True
    identity_renew_before: Duration = timedelta(days=21)


class Thresholds(StrictModel):
    """Limits that the rules compare with: disk in GB (10^9 bytes), battery in percent.

    The defaults for disk and battery are those of github.com/Macjutsu/super: 15 GB for an update,
    25 GB plus the installer for an upgrade; battery 20 % on Apple silicon, 50 % on Intel. A Mac
    that was not seen for longer than `stale_after` gets no job. `max_attempts` counts the failed
    jobs for one intent that reached the Mac. An update that failed on the Mac
    `reinstall_after_failures` times, by every method, is replaced by a restart, one more update,
    and a reinstall. A release is held for a model family if its update failed to install on
    `hold_family_after` Macs of it and no Mac of it has the release; None: never. `cool_down` is the
    time after a failed job, doubled with each failure up to `cool_down_max`. A report must confirm
    a job within `job_expires_after` (`reenroll_expires_after` for a re-enrollment), at least 30
    minutes.
    """

    disk_update_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 15.0
    disk_upgrade_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 44.0
    battery_apple_silicon: Annotated[float, Field(ge=0, le=100)] = 20.0
    battery_intel: Annotated[float, Field(ge=0, le=100)] = 50.0
    stale_after: Duration = timedelta(days=14)
    reinstall_after_failures: Annotated[int, Field(ge=1)] = 3
    max_attempts: Annotated[int, Field(ge=1)] = 5
    hold_family_after: Annotated[int, Field(ge=2)] | None = 5
    cool_down: Duration = timedelta(hours=4)
    cool_down_max: Duration = timedelta(days=3)
    job_expires_after: Duration = timedelta(days=3)
    reenroll_expires_after: Duration = timedelta(days=2)


class FollowUp(StrictModel):
    """Points that must be confirmed after a reinstall or a reimage before the Mac is done.

    `activations`: the names of per-device activations that a report must confirm. `over_ssh`: those
    of them that the agent of the site carries out, by the command of this name in its
    configuration; the command's success test confirms them too. `profiles`: the
    identifiers of the configuration profiles that must be on the Mac, as those that permit kernel
    extensions or access to personal data (PPPC); Macs are queried for them over MDM. `compliant`: a
    report must confirm that the Mac is compliant. `bootstrap_token`: one must be escrowed at the
    MDM server, without which no later update is unattended on Apple silicon.
    """

    activations: tuple[PlainText, ...] = ()
    over_ssh: tuple[PlainText, ...] = ()
    profiles: tuple[PlainText, ...] = ()
    compliant: bool = True
    bootstrap_token: bool = False

    @field_validator("over_ssh")
    @classmethod
    def _are_activations(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Return the names unchanged.

        Raises ValueError for one that is no activation, or too long for the intent of a job.
        """
        if any(len(name) > MAX_ACTIVATION_NAME for name in value):
            raise ValueError(f"a name has more than {MAX_ACTIVATION_NAME} characters")
        unknown = [name for name in value if name not in info.data.get("activations", value)]
        if unknown:
            raise ValueError(f"{unknown[0]} is not in `activations`")
        return value


class Approvals(StrictModel):
    """Approvals of erasing jobs. One whose end is later than `lasts_at_most` from now is not used.

    Executors accept at most 31 days from the issue of the job.
    """

    lasts_at_most: Duration = timedelta(days=31)


class Backups(StrictModel):
    """Copies that a Mac must have before destructive work; its executor looks at the Mac.

    `reinstall`: before a reinstall in place; `erase`: before an erase, which no snapshot survives.
    None: none is needed. A copy older than `max_age` does not count. MDM shows no copies, so with
    `erase` a Mac is not erased by `erase_device`.
    """

    reinstall: Literal["snapshot", "time_machine"] | None = None
    erase: Literal["time_machine"] | None = None
    max_age: Annotated[Duration, Field(ge=timedelta(hours=1))] = timedelta(days=1)


class Image(StrictModel):
    """An image from which `asr` may restore a returned loan unit of these models."""

    name: PlainText
    models: Annotated[tuple[Glob, ...], Field(min_length=1)]
    version: OSVersionField
    build: BuildField
    firmware: PlainText


class Firmware(StrictModel):
    """The firmware that Apple's installer of a macOS version puts on some models.

    A Mac that runs the version with other firmware was updated only in part, or by other means.
    """

    models: Annotated[tuple[Glob, ...], Field(min_length=1)]
    version: OSVersionField
    firmware: PlainText


class Exemption(StrictModel):
    """Macs that get no jobs for these actions (empty: all) before the date `until`.

    The date begins at midnight in the time zone of the Mac's site, in UTC without a site. Without
    `until` the exemption has no end. `why` is shown in decisions.
    """

    who: Match
    actions: tuple[Action, ...] = ()
    until: date | None = None
    why: Annotated[PlainText, StringConstraints(min_length=1)]

    def ends_at(self, zone: tzinfo) -> datetime | None:
        """Return the end of the exemption at a site of this time zone; None if it has no end."""
        return None if self.until is None else datetime.combine(self.until, time(), zone)

    def covers(self, action: Action, now: datetime, zone: tzinfo) -> bool:
        """Return True if the exemption applies to this action at `now` (aware).

        `zone` is the time zone of the Mac's site. The Mac is not compared with `who`.
        """
        ends_at = self.ends_at(zone)
        if ends_at is not None and now >= ends_at:
            return False
        return not self.actions or action in self.actions


class Policy(StrictModel):
    """All settings of the operators; each default is the cautious choice.

    `tries` limits the failures of a method at one Mac for one intent: after them the next method of
    the action is used. A method that is not listed has `reinstall_after_failures` of `thresholds`.
    """

    version: Literal[1] = 1
    sites: Annotated[dict[SiteField, Site], Field(min_length=1)]
    default_site: SiteField | None = None
    windows: tuple[Window, ...] = (Window(start="00:00", end="00:00"),)
    deadlines: Deadlines = Deadlines()
    deferrals: Deferrals = Deferrals()
    methods: Methods = Methods()
    upgrades: Upgrades = Upgrades()
    loans: Loans = Loans()
    mdm: Mdm = Mdm()
    thresholds: Thresholds = Thresholds()
    blast_radius: BlastRadius = BlastRadius()
    follow_up: FollowUp = FollowUp()
    approvals: Approvals = Approvals()
    backups: Backups = Backups()
    images: tuple[Image, ...] = ()
    firmware: tuple[Firmware, ...] = ()
    exemptions: tuple[Exemption, ...] = ()
    tries: dict[Method, Annotated[int, Field(ge=1, le=100)]] = Field(default_factory=dict)

    @field_validator("default_site")
    @classmethod
    def _default_site_exists(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Return the name unchanged. Raises ValueError if the policy has no site of this name.

        None is always valid. Nothing is checked if `sites` is invalid.
        """
        sites = info.data.get("sites")
        if value is not None and sites is not None and value not in sites:
            raise ValueError(f"no such site: {value!r}; sites are {', '.join(sites)}")
        return value

    def site_of(
        self,
        *,
        site: str | None,
        hostname: str | None,
        serial: str | None,
        udid: str,
        model: str | None,
        earlier_hostnames: Iterable[str] = (),
    ) -> str | None:
        """Return the name of the Mac's site; None if no site matches and there is no default.

        It is the reported `site` if the policy has it, else the first site that matches, else the
        first one that matches an earlier host name (newest first), else `default_site`. Users
        rename their Macs: a name that matches no site does not move a Mac.
        """
        if site is not None and site in self.sites:
            return site
        for known_as in (hostname, *earlier_hostnames):
            for name, candidate in self.sites.items():
                if candidate.match.matches(
                    hostname=known_as, serial=serial, udid=udid, model=model
                ):
                    return name
        return self.default_site

    @cached_property
    def reads_hostnames(self) -> bool:
        """True if a change of a Mac's host name alone can change its decision."""
        matches = [site.match for site in self.sites.values()] + [
            one.who for one in self.exemptions
        ]
        return any(match.hostnames for match in matches)

    def tries_of(self, method: Method) -> int:
        """Return the number of failures after which the next method is used."""
        return self.tries.get(method, self.thresholds.reinstall_after_failures)

    def windows_of(self, site: str) -> tuple[Window, ...]:
        """Return the site's own windows, or the policy's. Raises KeyError for an unknown site."""
        own = self.sites[site].windows
        return self.windows if own is None else own


def policy_schema() -> dict[str, Any]:
    """Return the JSON Schema of the policy file."""
    return Policy.model_json_schema(by_alias=True)
