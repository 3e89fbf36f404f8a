"""Translation of rows of osquery's tables to inventory fields (osquery.io/schema).

The table of a row is known by columns that only this table has, else by the query's name: packs
prefix names (`pack_it_os_version`, `pack/Global/os_version`), and operators write their own joins.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from pipeline.ingest.foreign_fields import Fields, Problems
from pipeline.ingest.mdm_enrollment import refuse_other_products
from pipeline.ingest.payload_retention import FieldsBy, ReadFields, values
from pipeline.ingest.translation import PayloadError
from schemas.dead_letters import DeadLetterCode
from schemas.macos import running_system

_OS_VERSION: Final = "os_version"
_SYSTEM_INFO: Final = "system_info"
_NAMES: Final = (_OS_VERSION, _SYSTEM_INFO, "battery", "mounts", "mdm")
_DARWIN: Final = "darwin"
_MAC_MODELS: Final = ("Mac", "iMac", "VirtualMac", "ADP", "Xserve")
_DATA_VOLUME: Final = "/System/Volumes/Data"


def is_known_table(query: str, row: Fields) -> bool:
    """Return True if this row of the query is of a table that Drydock reads.

    `query` is the query's name, with or without the prefix of its pack.
    """
    query = _table_name(query, row)
    return any(belongs(query, row) for belongs, _, _ in _TABLES)


def row_fields(query: str) -> FieldsBy:
    """Return the columns that Drydock reads of a row of the query, by the tables of the row."""

    def select(row: Mapping[str, Any]) -> ReadFields:
        view = Fields(row, "", Problems())
        table = _table_name(query, view)
        read = [columns for belongs, _, columns in _TABLES if belongs(table, view)]
        return values("table_name", *(name for columns in read for name in columns))

    return FieldsBy(select)


def is_table_name(query: str) -> bool:
    """Return True if a query of this name asks for a table that Drydock reads, and no other."""
    return query.endswith(_NAMES)


def _table_name(query: str, row: Fields) -> str:
    """Return the table that the row itself names, else the query's name.

    Queries that join several tables to one list add a column `table_name`
    (github.com/zentralopensource/zentral, contrib/osquery).
    """
    return row.text("table_name") or query


def read_row(query: str, row: Fields) -> dict[str, Any]:
    """Return the fields of a row under InventoryReported's names, and `uuid`.

    A row that joins several tables gives the fields of each; {} for a row of no table that Drydock
    reads. Absent and invalid fields are left out; most invalid ones are recorded as problems.
    `query` is the query's name. Raises PayloadError `not_a_mac` for a row of another operating
    system, vendor or product.
    """
    fields: dict[str, Any] = {}
    query = _table_name(query, row)
    for belongs, read, _ in _TABLES:
        if belongs(query, row):
            fields |= {name: value for name, value in read(row).items() if value is not None}
    return fields


def _has(row: Fields, *columns: str) -> bool:
    """Return True if the row has all of these columns; their values may be empty."""
    return all(column in row.values for column in columns)


def _is_os_version(query: str, row: Fields) -> bool:
    if _has(row, "build", "platform") or _has(row, "build", "major", "minor"):
        return True
    named = query.endswith(_OS_VERSION)
    return named and any(_has(row, column) for column in ("version", "build", "major"))


def _os_version(row: Fields) -> dict[str, Any]:
    """Return `os_version`, `build` and `apple_silicon` of a row of osquery's `os_version`.

    The version is in `version`, or in `major`, `minor` and `patch`. A value is None if it is absent
    or invalid; `apple_silicon` is True or None, never False. A row with neither a version nor a
    build is recorded as a problem. Raises PayloadError `not_a_mac` for a platform other than
    darwin, or, without a platform, for a name that does not start with `mac`. A row without both is
    accepted.
    """
    platform, name = row.text("platform"), row.text("name")
    other = platform != _DARWIN if platform else not (name or "mac").casefold().startswith("mac")
    if other:
        raise PayloadError(
            DeadLetterCode.NOT_A_MAC,
            f"another operating system: {name or platform}",
            row.where + "platform",
        )
    stated = row.system("version", "build", row.version_of_parts("major", "minor", "patch"))
    version, build = running_system(*stated, row.supplement("extra"), None)
    if not any(row.values.get(name) for name in ("version", "build", "major")):
        row.bad_value("version", "the row has no version and no build of macOS")
    return {"os_version": version, "build": build, "apple_silicon": _is_arm(row.text("arch"))}


def _is_system_info(query: str, row: Fields) -> bool:
    if _has(row, "hardware_serial") and (_has(row, "uuid") or _has(row, "hardware_model")):
        return True
    return query.endswith(_SYSTEM_INFO) and (_has(row, "uuid") or _has(row, "hardware_serial"))


def _system_info(row: Fields) -> dict[str, Any]:
    """Return the fields of `system_info`, and its `uuid` in the letter case received.

    One that is absent or invalid is None; `apple_silicon` is True or None, never False. Raises
    PayloadError `not_a_mac` for other Apple products, and for hardware of another vendor unless its
    model starts like that of a Mac.
    """
    vendor, model = row.text("hardware_vendor"), row.text("hardware_model")
    if vendor and "apple" not in vendor.casefold() and not (model or "").startswith(_MAC_MODELS):
        raise PayloadError(
            DeadLetterCode.NOT_A_MAC,
            f"hardware of another vendor: {vendor}",
            row.where + "hardware_vendor",
        )
    refuse_other_products(model)
    return {
        "uuid": row.text("uuid"),
        "serial": row.serial("hardware_serial"),
        "model": model,
        "hostname": row.text("computer_name", "hostname"),
        "apple_silicon": _is_arm(row.text("cpu_type")),
    }


def _is_arm(architecture: str | None) -> bool | None:
    """Return True for arm64 and arm64e, else None, never False.

    Under Rosetta an Apple silicon Mac reports x86_64.
    """
    return True if architecture is not None and architecture.startswith("arm64") else None


def _is_battery(_: str, row: Fields) -> bool:
    return _has(row, "percent_remaining")


def _battery(row: Fields) -> dict[str, Any]:
    percent = _number(row, "percent_remaining", 100)
    power = {"AC Power": True, "Battery Power": False}.get(row.text("state") or "")
    return {"battery_percent": percent, "on_ac_power": power}


def _is_root_mount(_: str, row: Fields) -> bool:
    """Return True for a row of `mounts` about the system volume or the data volume."""
    return _has(row, "path", "blocks_available", "blocks_size") and row.values["path"] in (
        "/",
        _DATA_VOLUME,
    )


def _root_mount(row: Fields) -> dict[str, Any]:
    """Return `free_disk_gb` in GB (10^9 bytes); {} if it is absent, invalid or over 1 PB.

    The system and data volumes share one APFS container, so both report its free space.
    """
    blocks = _number(row, "blocks_available", 1e15)
    size = _number(row, "blocks_size", 1e9)
    if blocks is None or size is None or blocks * size > 1e15:
        return {}
    return {"free_disk_gb": round(blocks * size / 1e9, 3)}


def _is_mdm(_: str, row: Fields) -> bool:
    return _has(row, "enrolled", "installed_from_dep", "user_approved")


def _mdm(row: Fields) -> dict[str, Any]:
    """Return the fields of the `mdm` table; {} if `enrolled` is false, unknown or absent.

    The table is part of github.com/macadmins/osquery-extension. Only `enrolled` = true is used: the
    table is false also if it could not run `profiles`.
    """
    if not _boolean(row, "enrolled"):
        return {}
    return {
        "mdm_enrolled": True,
        "mdm_server": row.text("server_url"),
        "user_approved": _boolean(row, "user_approved"),
        "ade_enrolled": _boolean(row, "installed_from_dep"),
    }


def _boolean(row: Fields, name: str) -> bool | None:
    """Return the boolean of `true`, `1`, `false` or `0` in any case; None for absent or other text.

    No problem is recorded for other text.
    """
    text = (row.text(name) or "").casefold()
    return {"true": True, "1": True, "false": False, "0": False}.get(text)


def _number(row: Fields, name: str, most: float) -> float | None:
    """Return the number from 0 to `most` in this text; None if it is absent, blank or invalid.

    Other text and a number out of range are recorded as problems.
    """
    text = row.text(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        row.bad_value(name, "not a number")
        return None
    if not 0 <= value <= most:
        row.bad_value(name, "number out of range")
        return None
    return value


_Table = tuple[
    Callable[[str, Fields], bool], Callable[[Fields], Mapping[str, Any]], tuple[str, ...]
]
# For each table: which rows belong to it, how they are read, and the columns for both.
_TABLES: Final[tuple[_Table, ...]] = (
    (
        _is_os_version,
        _os_version,
        ("build", "platform", "major", "minor", "patch", "version", "name", "extra", "arch"),
    ),
    (
        _is_system_info,
        _system_info,
        (
            *("hardware_serial", "uuid", "hardware_model", "hardware_vendor"),
            *("computer_name", "hostname", "cpu_type"),
        ),
    ),
    (_is_battery, _battery, ("percent_remaining", "state")),
    (_is_root_mount, _root_mount, ("path", "blocks_available", "blocks_size")),
    (_is_mdm, _mdm, ("enrolled", "installed_from_dep", "user_approved", "server_url")),
)
