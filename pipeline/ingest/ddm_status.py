"""Translation of a declarative status report into the data of an event.

Format: github.com/apple/device-management, declarative/status and
declarative/protocol/statusreport.yaml.
"""

import json
from typing import Any, Final

from pipeline.ingest.foreign_fields import Fields, Problems, running_system
from pipeline.ingest.mdm_enrollment import refuse_other_products
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import MAX_KEPT_BYTES
from schemas.dead_letters import DeadLetterCode

MAX_STATUS_ERRORS: Final = 64


def read_status(report: Fields, redactor: Redactor) -> dict[str, Any]:
    """Return the fields of a DdmStatusReported, without the enrollment's fields and without None.

    Status reports are incremental: a field that the report does not name is absent. An empty
    pending version means that no update is pending. `device.identifier.udid` is not used: it is the
    provisioning UDID, which differs from the UDID of MDM. Secrets such as `management.push-token`
    are cut out of `status_items` and `errors`. Raises PayloadError `not_a_mac`.
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
        system.version("version"),
        system.build("build-version"),
        supplemental.supplement("extra-version"),
        supplemental.build("build-version"),
    )
    pending, failure = update.group("pending-version"), update.group("failure-reason")
    found = {
        "full": report.flag("FullReport"),
        "serial": device.group("identifier").serial("serial-number"),
        "os_version": version,
        "build": build,
        "model": model.text("identifier"),
        "device_id": update.text("device-id"),
        "install_state": update.text("install-state"),
        "pending_version": pending.version("os-version"),
        "pending_build": pending.build("build-version"),
        "failure_count": failure.count("count"),
        "failure_reason": failure.text("reason"),
        "failure_at": failure.instant("timestamp"),
        "declaration_id": update.group("install-reason").text("declaration-id"),
        "status_items": _redacted_part(items.values, items.where, report.problems, redactor),
        "errors": _redacted_part(errors, report.where + "Errors", report.problems, redactor),
    }
    return {name: value for name, value in found.items() if value is not None}


def _redacted_part(part: Any, where: str, problems: Problems, redactor: Redactor) -> Any:
    """Return this part of the report without secrets.

    None, with the problem `too_large`, if its JSON is over MAX_KEPT_BYTES.
    """
    if len(json.dumps(part)) > MAX_KEPT_BYTES:
        detail = f"more than {MAX_KEPT_BYTES} bytes: this part is not kept"
        problems.add(DeadLetterCode.TOO_LARGE, detail, where)
        return None
    return redactor.cut(part)
