"""A checked view of a foreign dict: a valid field is returned, an invalid one becomes a problem.

An invalid field loses only that field, not the report. This module parses the forms that sources
of devices share (versions, serial numbers, times); it depends on no source.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from pipeline.ingest.redaction import hides_document
from pipeline.ingest.translation import PayloadError
from schemas.dead_letters import DeadLetterCode
from schemas.ids import (
    SerialField,
    SiteField,
    UdidField,
    clean_text,
    is_real_serial,
    is_real_udid,
)
from schemas.macos import Build, OSVersion, parse_build, parse_os_version, version_with_build

# More problems of one payload do not help a reader, and a hostile payload could have millions.
MAX_PROBLEMS: Final = 20

# Go's zero time is in year 1, and a Mac with a flat clock battery starts near 1970: both mean that
# the time is unknown.
_FIRST_YEAR: Final = 2001
_LAST_YEAR: Final = 2100
_RFC3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?\d{0,12}(Z|[+-]\d\d:\d\d)", re.ASCII
)
_EXTRA: Final = re.compile(r"\(?([A-Za-z])\)?", re.ASCII)
_UDID: Final = TypeAdapter[str](UdidField)
_SERIAL: Final = TypeAdapter[str](SerialField)
_SITE: Final = TypeAdapter[str](SiteField)


class Problems:
    """Errors in parts of one payload, in order. Only the first MAX_PROBLEMS are kept."""

    def __init__(self) -> None:
        self.found: list[PayloadError] = []

    def add(self, code: DeadLetterCode, detail: str, where: str) -> None:
        """Record one PayloadError; with MAX_PROBLEMS recorded, it is dropped. Raises nothing."""
        if len(self.found) < MAX_PROBLEMS:
            self.found.append(PayloadError(code, detail, where))

    def add_all(self, errors: Iterable[PayloadError], where: str = "") -> None:
        """Record these errors like `add`, each with `where` before its own path."""
        for error in errors:
            self.add(error.code, error.detail, where + error.where)


class Fields:
    """A view of a foreign dict. Absent, null, blank and invalid fields are all read as None.

    An invalid field raises nothing. It is added to `problems`, with its path: `where` followed by
    the field's name. `group` gives an empty view and `groups` no views instead of None. `name in
    fields` is True for a field that is present and not null, valid or not.
    """

    def __init__(self, values: Mapping[Any, Any], where: str, problems: Problems) -> None:
        self.values = values
        self.where = where
        self.problems = problems

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def bad_shape(self, name: str, detail: str) -> None:
        """Record the problem `bad_shape`: this field has the wrong type."""
        self.problems.add(DeadLetterCode.BAD_SHAPE, detail, self.where + name)

    def bad_value(self, name: str, detail: str) -> None:
        """Record the problem `bad_value`: this field has a value that is not allowed."""
        self.problems.add(DeadLetterCode.BAD_VALUE, detail, self.where + name)

    def text(self, *names: str) -> str | None:
        """Return the first of these fields that is valid and not blank; None if there is none.

        Unprintable characters are removed, the text is cut to 1,024 characters, and surrounding
        space is removed. The fields are read in the given order, up to the one that is returned. A
        field read that is not text is recorded as a problem, as is a text that seems to contain a
        document in base64: it could contain a secret.
        """
        for name in names:
            value = self.values.get(name)
            if value is None:
                continue
            if not isinstance(value, str):
                self.bad_shape(name, "not a string")
                continue
            cleaned = clean_text(value).strip()
            if hides_document(cleaned):
                self.bad_value(name, "the text contains a document in base64")
            elif cleaned:
                return cleaned
        return None

    def flag(self, name: str) -> bool | None:
        """Return a boolean field; None if it is absent, null, or not a boolean.

        A field that is not a boolean is recorded as a problem and raises nothing.
        """
        value = self.values.get(name)
        if value is None or isinstance(value, bool):
            return value
        self.bad_shape(name, "not a boolean")
        return None

    def number(self, name: str) -> float | None:
        """Return a number field as a float; None if it is absent, null or invalid.

        An invalid field is recorded as a problem and raises nothing: a number written as text, a
        boolean, NaN, or a number beyond 1e15 in either direction.
        """
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.bad_shape(name, "not a number")
            return None
        if abs(value) > 1e15 or math.isnan(value):
            self.bad_value(name, "number out of range")
            return None
        return float(value)

    def count(self, name: str) -> int | None:
        """Return a whole number from 0 to 2^31 - 1; None if it is absent, null or invalid.

        An invalid field (text, a boolean, a fraction, a number out of range) is recorded as a
        problem and raises nothing.
        """
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            self.bad_shape(name, "not a whole number")
            return None
        if not 0 <= value < 2**31:
            self.bad_value(name, "number out of range")
            return None
        return value

    def version(self, name: str) -> OSVersion | None:
        """Return a macOS version; None if it is absent, null, blank or invalid.

        An invalid field is recorded as a problem and raises nothing.
        """
        text = self.text(name)
        try:
            return parse_os_version(text) if text else None
        except ValueError as error:
            self.bad_value(name, str(error))
            return None

    def build(self, name: str) -> Build | None:
        """Return a macOS build; None if it is absent, null, blank or invalid.

        An invalid field is recorded as a problem and raises nothing.
        """
        text = self.text(name)
        try:
            return parse_build(text) if text else None
        except ValueError as error:
            self.bad_value(name, str(error))
            return None

    def system(
        self, version: str, build: str, parts: OSVersion | None = None
    ) -> tuple[OSVersion | None, Build | None]:
        """Return the version and the build of one system, from the fields of these names.

        `parts` is the version that separate fields for its parts give, or None. Where statements
        contradict each other the build decides: programs built with an older SDK are given 16.x
        for 26.x and 10.16 for 11.x, and joins put the kernel's version in the system's place. Of
        the two versions the one in the build's train is returned, and 16.x with a build of macOS
        26 is 26.x. Otherwise the version is None and the problem `bad_value` is recorded for the
        field `version`. A field that is absent or blank is None; an invalid one also is a problem.
        """
        stated, found = self.version(version), self.build(build)
        if stated is not None and parts == stated._replace(patch=0, supplement=""):
            parts = None  # sources leave out the patch
        versions = {one for one in (stated, parts) if one is not None}
        if not versions:
            return None, found
        existing = {version_with_build(one, found) for one in versions} - {None}
        if len(existing) == 1:
            return existing.pop(), found
        texts = " or ".join(str(one) for one in dict.fromkeys((stated, parts)) if one is not None)
        if existing:
            self.bad_value(version, f"two versions: {texts}")
        elif found is None:
            self.bad_value(version, f"macOS has no version {texts}")
        else:
            self.bad_value(version, f"the version {texts} contradicts the build {found}")
        return None, found

    def version_of_parts(self, *names: str) -> OSVersion | None:
        """Return the version in the fields of its major, minor and patch, in this order.

        Each is a whole number, or text of digits. None without a valid major and minor; an absent
        or blank patch is 0. No field is recorded as a problem for its value.
        """
        major, minor, patch = (str(self.values.get(name, "")).strip() for name in names)
        if not all(one.isascii() and one.isdigit() and len(one) <= 3 for one in (major, minor)):
            return None
        known = patch.isascii() and patch.isdigit() and len(patch) <= 3
        found = OSVersion(int(major), int(minor), int(patch) if known else 0)
        return found if found.major >= 10 else None

    def supplement(self, name: str) -> str | None:
        """Return the letter of a background security improvement, in lower case.

        Sources write it as `(a)` or `a`. None if the field is absent, null, blank or invalid. An
        invalid field is recorded as a problem and raises nothing.
        """
        text = self.text(name)
        if text is None:
            return None
        match = _EXTRA.fullmatch(text)
        if match is None:
            self.bad_value(name, "not the letter of a supplement")
            return None
        return match[1].lower()

    def udid(self, name: str) -> str | None:
        """Return a UDID or an enrollment id in upper case; None if it is absent, blank or invalid.

        An invalid field is recorded as a problem and raises nothing. A placeholder, such as
        `string` or a UUID of zeros, gives None without a problem.
        """
        text = self.text(name)
        if text is None or not is_real_udid(text):
            return None
        return self._checked(name, _UDID, "not a device identifier")

    def serial(self, name: str) -> str | None:
        """Return a serial number in upper case; None if it is absent, blank or invalid.

        An invalid field is recorded as a problem and raises nothing. A placeholder, such as `0` or
        `string`, gives None without a problem.
        """
        text = self.text(name)
        if text is None or not is_real_serial(text):
            return None
        return self._checked(name, _SERIAL, "not a serial number")

    def site(self, name: str) -> str | None:
        """Return the name of a site; None if it is absent, null, blank or invalid.

        A valid name has 1 to 63 lower-case letters, digits and inner hyphens. An invalid field is
        recorded as a problem and raises nothing.
        """
        return self._checked(name, _SITE, "not a site's name")

    def _checked(self, name: str, adapter: TypeAdapter[str], detail: str) -> str | None:
        """Return the text as `adapter` validates it; None if it is absent, blank or invalid.

        A text that `adapter` refuses is recorded as the problem `bad_value` with this detail. A
        field that is not text, or seems to contain a document in base64, is a problem with another
        detail.
        """
        text = self.text(name)
        try:
            return adapter.validate_python(text) if text else None
        except ValidationError:
            self.bad_value(name, detail)
            return None

    def instant(self, name: str) -> datetime | None:
        """Return an RFC 3339 time as UTC, cut to microseconds; None if it is absent or invalid.

        A blank field and a time before 2001 give None without a problem. Other text, another type
        and a year after 2100 are recorded as a problem and give None.
        """
        text = self.text(name)
        if text is None:
            return None
        match = _RFC3339.fullmatch(text)
        try:
            if match is None:
                raise ValueError("not an RFC 3339 time")
            whole, fraction, zone = match.groups(default="")
            found = datetime.fromisoformat(f"{whole}{fraction}{zone}")
            if found.year < _FIRST_YEAR:
                return None
            if found.year > _LAST_YEAR:
                raise ValueError("year out of range")
            return found.astimezone(UTC)
        except (ValueError, OverflowError):
            self.bad_value(name, "not an RFC 3339 time")
            return None

    def group(self, name: str) -> "Fields":
        """Return a view of the dict in this field, which records into the same problems.

        The view is empty if the field is absent, null or not a dict. A field that is not a dict is
        recorded as a problem and raises nothing.
        """
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            self.bad_shape(name, "not a dictionary")
            value = None
        return Fields(value or {}, f"{self.where}{name}.", self.problems)

    def groups(self, name: str, at_most: int) -> Iterator["Fields"]:
        """Yield a view of each dict in the list of this field, in order.

        Nothing is yielded if the field is absent, null or not a list. Only the first `at_most`
        items are read, and an item that is not a dict is skipped. A longer list, a field that is
        not a list, and an item that is not a dict are recorded as problems and raise nothing.
        """
        value = self.values.get(name)
        if value is None:
            return
        if not isinstance(value, list):
            self.bad_shape(name, "not a list")
            return
        if len(value) > at_most:
            self.problems.add(
                DeadLetterCode.TOO_LARGE, f"over {at_most} entries", self.where + name
            )
        for index, item in enumerate(value[:at_most]):
            location = f"{name}[{index}]"
            if isinstance(item, dict):
                yield Fields(item, f"{self.where}{location}.", self.problems)
            else:
                self.bad_shape(location, "not a dictionary")


def from_epoch(seconds: float) -> datetime | None:
    """Return the UTC time of seconds since 1970; None for a time before 2001 or after 2099."""
    if not 978_307_200 <= seconds < 4_102_444_800:
        return None
    return datetime.fromtimestamp(seconds, UTC)
