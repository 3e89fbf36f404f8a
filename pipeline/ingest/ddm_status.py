"""Translation of a declarative status report into the data of an event.

Format: github.com/apple/device-management, declarative/status and
declarative/protocol/statusreport.yaml.
"""

import json
from typing import Any, Final

from pipeline.ingest.foreign_fields import Fields, Problems
from pipeline.ingest.mdm_enrollment import refuse_other_products
from pipeline.ingest.payload_retention import ReadFields, values
from schemas.dead_letters import MAX_KEPT_BYTES, DeadLetterCode
from schemas.macos import running_system

MAX_STATUS_ERRORS: Final = 64


# The fields that `read_status` reads.
STATUS_ITEMS: Final[ReadFields] = {
    "device": {
        "identifier": values("serial-number"),
        "model": values("family", "identifier"),
        "operating-system": {
            **values("family", "version", "build-version"),
            "supplemental": values("extra-version", "build-version"),
        },
    },
    "softwareupdate": {
        **values("device-id", "install-state"),
        "pending-version": values("os-version", "build-version"),
        "failure-reason": values("count", "reason", "timestamp"),
        "install-reason": values("declaration-id"),
    },
}
# For people: Apple's names and codes. The texts can repeat a configuration with its secrets.
STATUS_ERRORS: Final[ReadFields] = {"StatusItem": None, "Reasons": values("Code")}
STATUS_REPORT: Final[ReadFields] = {
    "FullReport": None,
    "StatusItems": STATUS_ITEMS,
    "Errors": STATUS_ERRORS,
}


def read_status(report: Fields) -> dict[str, Any]:
    """Return the fields of a DdmStatusReported, without the enrollment's fields and without None.

    Status reports are incremental: a field that the report does not name is left out, as is a blank
    or an invalid one. An invalid field is recorded as a problem. `device.identifier.udid` is not
    used: it is the provisioning UDID, which differs from the UDID of MDM. `errors` has the first
    MAX_STATUS_ERRORS errors. `status_items` and `errors` are as sent, with their secrets; either is
    left out, with a problem, if it is over MAX_KEPT_BYTES.
    Raises PayloadError `not_a_mac` for another Apple product.
    """
    items = report.group("StatusItems")
    errors = [error.values for error in report.groups("Errors", MAX_STATUS_ERRORS)]
    device, update = items.group("device"), items.group("softwareupdate")
    system, model = device.group("operating-system"), device.group("model")
    refuse_other_products(model.text("family"))
    refuse_other_products(system.text("family"))
    refuse_other_products(model.text("identifier"))
    supplemental = system.group("supplemental")
    version, build = running_system(
        *system.system("version", "build-version"),
        supplemental.supplement("extra-version"),
        supplemental.build("build-version"),
    )
    pending, failure = update.group("pending-version"), update.group("failure-reason")
    pending_version, pending_build = pending.system("os-version", "build-version")
    found = {
        "full": report.flag("FullReport"),
        "serial": device.group("identifier").serial("serial-number"),
        "os_version": version,
        "build": build,
        "model": model.text("identifier"),
        "device_id": update.text("device-id"),
        "install_state": update.text("install-state"),
        "pending_version": pending_version,
        "pending_build": pending_build,
        "failure_count": failure.count("count"),
        "failure_reason": failure.text("reason"),
        "failure_at": failure.instant("timestamp"),
        "declaration_id": update.group("install-reason").text("declaration-id"),
        "status_items": _bounded_part(items.values, items.where, report.problems),
        "errors": _bounded_part(errors, report.where + "Errors", report.problems),
    }
    return {name: value for name, value in found.items() if value is not None}


def _bounded_part(part: Any, where: str, problems: Problems) -> Any:
    """Return this part of the report; None, with the problem `too_large`, over MAX_KEPT_BYTES."""
    if len(json.dumps(part)) > MAX_KEPT_BYTES:
        detail = f"more than {MAX_KEPT_BYTES} bytes: this part is not kept"
        problems.add(DeadLetterCode.TOO_LARGE, detail, where)
        return None
    return part
