"""The expected translation of every device payload of the reference data, checked by hand.

A row is the source, the file, and for each event its type (without `drydock.` and `.v1`) with its
data without the device's ids, or for each dead letter its code and path.
"""

from typing import Any

LIVE = "mdm/nanomdm-live/"
COMMAND = "mdm.command_reported"
INVENTORY = "inventory.reported"
STATUS = "mdm.ddm_status_reported"
MAC_15_12: dict[str, Any] = {
    "serial": "C02FAKE00001",
    "os_version": "14.7.1",
    "build": "23H222",
    "model": "Mac15,12",
    "hostname": "fake-mac-01",
}
IMAC: dict[str, Any] = {
    "serial": "C02MT66KFLHH",
    "os_version": "10.12.6",
    "build": "16G2136",
    "model": "iMac14,2",
    "hostname": "Fruit",
}
MACBOOK: dict[str, Any] = {
    "serial": "C04W00D3HTD0",
    "os_version": "10.13.6",
    "build": "17G65",
    "model": "MacBookPro14,3",
    "hostname": "HostName",
}
IDLE = [(COMMAND, {"status": "Idle"})]
CONTACT: list[tuple[str, dict[str, Any]]] = [(INVENTORY, {})]
TOKEN = {"tally": 1, "awaiting_configuration": False}
BYOD = {"enrollment_type": "User Enrollment (Device)"}
USER = [("user_channel", "$.checkin_event.ids")]
USER_CONNECT = [("user_channel", "$.acknowledge_event.ids")]
NO_TOPIC = [("unknown_type", "$.topic")]
NO_MESSAGE = [("unknown_type", "plist: MessageType")]
NOT_A_MAC = [("not_a_mac", "")]


def command_response(command: str, status: str = "Acknowledged", **more: Any) -> tuple[str, Any]:
    return COMMAND, {"command_uuid": command, "status": status, **more}


def failed(command: str, status: str, code: int, domain: str, text: str) -> list[tuple[str, Any]]:
    chain = [{"code": code, "domain": domain, "description": text}]
    return [command_response(command, status, error_chain=chain)]


def unknown_request(command: str, request: str) -> list[tuple[str, Any]]:
    text = f"“{request}” is not a valid request type."
    return failed(command, "Error", 12021, "MCMDMErrorDomain", text)


SOFTWARE_UPDATE_14_7_2 = {
    "pending_version": "14.7.2",
    "pending_build": "23H311",
    "declaration_id": "org.example.swu.14.7.2",
}
SYSTEM_14_7_1 = {
    "serial": "C02FAKE00001",
    "os_version": "14.7.1",
    "build": "23H222",
    "model": "Mac15,12",
    "device_id": "J613AP",
}
UPDATED = {
    "full": True,
    "serial": "C02FAKE00001",
    "os_version": "14.7.2",
    "build": "23H311",
    "model": "Mac15,12",
    "install_state": "none",
    "failure_count": 0,
}

Want = list[tuple[str, Any]]
ROWS: list[tuple[str, str, Want]] = [
    (
        "nanomdm",
        LIVE + "01-authenticate.json",
        [("mdm.authenticated", MAC_15_12), (INVENTORY, MAC_15_12)],
    ),
    ("nanomdm", LIVE + "02-tokenupdate-1.json", [("mdm.token_updated", TOKEN)]),
    ("nanomdm", LIVE + "03-connect-idle.json", IDLE),
    ("nanomdm", LIVE + "04-setbootstraptoken.json", [("mdm.bootstrap_token_set", {})]),
    ("nanomdm", LIVE + "05-getbootstraptoken.json", CONTACT),
    ("nanomdm", LIVE + "06-connect-idle.json", IDLE),
    (
        "nanomdm",
        LIVE + "07-connect-ack-deviceinformation.json",
        [
            command_response("CMD-0001-DEVINFO"),
            (INVENTORY, {**MAC_15_12, "supervised": True, "mdm_enrolled": True}),
        ],
    ),
    (
        "nanomdm",
        LIVE + "08-connect-error-osupdatestatus.json",
        unknown_request("CMD-0002-OSUPD", "OSUpdateStatus"),
    ),
    (
        "nanomdm",
        LIVE + "09-connect-notnow-securityinfo.json",
        [command_response("CMD-0003-SECINFO", "NotNow")],
    ),
    ("nanomdm", LIVE + "10-connect-idle.json", IDLE),
    (
        "nanomdm",
        LIVE + "11-connect-ack-securityinfo.json",
        [
            command_response("CMD-0003-SECINFO"),
            (
                INVENTORY,
                {
                    "user_approved": True,
                    "ade_enrolled": True,
                    "filevault": True,
                    "mdm_enrolled": True,
                },
            ),
        ],
    ),
    ("nanomdm", LIVE + "12-connect-ack-osupdatestatus.json", [command_response("CMD-0005-OSUPD")]),
    ("nanomdm", LIVE + "13-connect-idle.json", IDLE),
    (
        "nanomdm",
        LIVE + "14-connect-ack-scheduleosupdate.json",
        [
            command_response(
                "CMD-0010-SCHED", install_actions=[["_OSX_14.7.2", "InstallASAP", "Downloading"]]
            )
        ],
    ),
    (
        "nanomdm",
        LIVE + "15-connect-commandformaterror-installprofile.json",
        failed(
            "CMD-0011-PROFILE",
            "CommandFormatError",
            4001,
            "MCInstallationErrorDomain",
            "Profile Installation Failed",
        ),
    ),
    ("nanomdm", LIVE + "16-connect-ack-erasedevice.json", [command_response("CMD-0012-ERASE")]),
    (
        "nanomdm",
        LIVE + "17-connect-error-unknown.json",
        unknown_request("CMD-0013-BAD", "NoSuchThing"),
    ),
    ("nanomdm", LIVE + "18-connect-idle.json", IDLE),
    (
        "nanomdm",
        LIVE + "19-connect-ack-declarativemanagement.json",
        [command_response("4003cc3f-8d35-4044-942a-3ab5f96cc507")],
    ),
    ("nanomdm", LIVE + "20-ddm-tokens.json", CONTACT),
    ("nanomdm", LIVE + "21-ddm-declaration-items.json", CONTACT),
    ("nanomdm", LIVE + "22-ddm-declaration-activation-org.example.act.json", CONTACT),
    ("nanomdm", LIVE + "23-ddm-declaration-configuration-org.example.swu.14.7.2.json", CONTACT),
    ("nanomdm", LIVE + "24-ddm-declaration-configuration-org.example.sub.json", CONTACT),
    (
        "nanomdm",
        LIVE + "25-ddm-status-downloading.json",
        [
            (
                STATUS,
                {
                    **SYSTEM_14_7_1,
                    **SOFTWARE_UPDATE_14_7_2,
                    "full": True,
                    "install_state": "downloading",
                    "failure_count": 0,
                },
            )
        ],
    ),
    (
        "nanomdm",
        LIVE + "26-ddm-status-failed.json",
        [
            (
                STATUS,
                {
                    **SYSTEM_14_7_1,
                    **SOFTWARE_UPDATE_14_7_2,
                    "install_state": "failed",
                    "failure_count": 2,
                    "failure_reason": "Not enough free disk space",
                    "failure_at": "2026-11-23T10:00:00Z",
                },
            )
        ],
    ),
    ("nanomdm", LIVE + "27-ddm-status-updated.json", [(STATUS, UPDATED)]),
    ("nanomdm", LIVE + "28-ddm-declaration-404.json", CONTACT),
    ("nanomdm", LIVE + "29-ddm-bogus.json", [("unknown_type", "plist: Endpoint")]),
    (
        "nanomdm",
        LIVE + "30-ddm-status-badjson.json",
        [("not_json", "plist: Data: line 1 column 2")],
    ),
    ("nanomdm", LIVE + "31-checkout.json", [("mdm.checked_out", {})]),
    ("nanomdm", LIVE + "32-connect-idle-after-checkout.json", IDLE),
    ("nanomdm", LIVE + "40-queuebug-idle.json", IDLE),
    ("nanomdm", LIVE + "41-queuebug-notnow-A.json", [command_response("BUG-A", "NotNow")]),
    ("nanomdm", LIVE + "42-queuebug-ack-B.json", [command_response("BUG-B")]),
    ("nanomdm", LIVE + "43-queuebug-ack-A.json", [command_response("BUG-A")]),
    ("nanomdm", LIVE + "44-queuebug-idle-gets-B-again.json", IDLE),
    ("nanomdm", LIVE + "45-queuebug-ack-B-second-time.json", [command_response("BUG-B", "Error")]),
    ("nanomdm", LIVE + "46-queuebug-idle-C-is-lost.json", IDLE),
    ("nanomdm", LIVE + "60-user-authenticate.json", USER),
    ("nanomdm", LIVE + "61-user-userauthenticate.json", USER),
    ("nanomdm", LIVE + "62-user-tokenupdate.json", USER),
    ("nanomdm", LIVE + "63-user-connect-idle.json", USER_CONNECT),
    ("nanomdm", LIVE + "64-user-connect-idle.json", USER_CONNECT),
    ("nanomdm", LIVE + "65-user-connect-acknowledged.json", USER_CONNECT),
    (
        "nanomdm",
        LIVE + "66-byod-authenticate.json",
        [("mdm.authenticated", {**MAC_15_12, **BYOD}), (INVENTORY, MAC_15_12)],
    ),
    ("nanomdm", LIVE + "67-byod-tokenupdate.json", [("mdm.token_updated", {**TOKEN, **BYOD})]),
    ("nanomdm", LIVE + "68-byod-connect.json", [(COMMAND, {"status": "Idle", **BYOD})]),
    ("nanomdm", LIVE + "69-connect-idle-urlparams.json", [*IDLE, (INVENTORY, {"site": "hq"})]),
    ("nanomdm", "mdm/nanomdm/Authenticate.1.plist", NOT_A_MAC),
    (
        "nanomdm",
        "mdm/nanomdm/Authenticate.2.plist",
        [("mdm.authenticated", IMAC), (INVENTORY, IMAC)],
    ),
    (
        "nanomdm",
        "mdm/nanomdm/DeviceInformation.1.plist",
        [
            command_response("76eda240-5488-4989-8339-f2ae160113c4"),
            (INVENTORY, {"hostname": "fruit.example.com", "mdm_enrolled": True}),
        ],
    ),
    ("nanomdm", "mdm/nanomdm/TokenUpdate.1.plist", NOT_A_MAC),
    (
        "nanomdm",
        "mdm/nanomdm/TokenUpdate.2.plist",
        [("mdm.token_updated", {"awaiting_configuration": False})],
    ),
    ("nanomdm", "mdm/nanomdm/enroll.mobileconfig", NO_MESSAGE),
    ("nanomdm", "mdm/nanomdm/openapi.yaml", [("not_json", "line 1 column 1")]),
    ("nanomdm", "mdm/nanomdm/webhook-event.schema.json", NO_TOPIC),
    (
        "nanomdm",
        "mdm/nanomdm/webhook.Authenticate.2.json",
        [("mdm.authenticated", IMAC), (INVENTORY, IMAC)],
    ),
    (
        "nanomdm",
        "mdm/nanomdm/webhook.DeviceInformation.1.json",
        [
            command_response("76eda240-5488-4989-8339-f2ae160113c4"),
            (INVENTORY, {"hostname": "fruit.example.com", "mdm_enrolled": True}),
        ],
    ),
    (
        "nanomdm",
        "mdm/nanocmd/certlist.plist",
        [
            command_response("CERT-LIST-01"),
            (INVENTORY, {"identity_expires_at": "2034-04-30T17:43:31Z", "mdm_enrolled": True}),
        ],
    ),
    (
        "nanomdm",
        "mdm/nanocmd/inventory.devinfo.plist",
        [
            command_response("53115671-3f45-49f5-b7cb-22ede8b8afdb"),
            (INVENTORY, {"model": "MacBookPro11,3", "mdm_enrolled": True}),
        ],
    ),
    (
        "nanomdm",
        "mdm/nanocmd/inventory.secinfo.plist",
        [
            command_response("53115671-3f45-49f5-b7cb-22ede8b8afdc"),
            (
                INVENTORY,
                {
                    "user_approved": True,
                    "ade_enrolled": False,
                    "filevault": False,
                    "system_volume_sealed": True,
                    "mdm_enrolled": True,
                },
            ),
        ],
    ),
    (
        "nanomdm",
        "mdm/nanocmd/resp-ack.plist",
        [command_response("D053EE3A-EE0E-4E82-87D2-BB3624186694")],
    ),
    (
        "nanomdm",
        "mdm/nanocmd/resp-error.plist",
        failed(
            "D053EE3A-EE0E-4E82-87D2-BB3624186694",
            "Error",
            -909,
            "NSOSStatusErrorDomain",
            "<NSOSStatusErrorDomain:-909>",
        ),
    ),
    ("nanomdm", "mdm/nanocmd/tokenupdate.json", [("mdm.token_updated", TOKEN)]),
    (
        "nanomdm",
        "mdm/zentral/device_information.plist",
        [
            command_response(
                "02CD8B7A-465F-49E6-86D6-D3ACAAE5529E",
                pin_required=False,
                awaiting_configuration=False,
            ),
            (
                INVENTORY,
                {
                    "serial": "Z3C2FCE2C0",
                    "os_version": "13.0",
                    "build": "22A5321d",
                    "model": "VirtualMac2,1",
                    "device_id": "VMA2MACOSAP",
                    "hostname": "Yolo",
                    "apple_silicon": True,
                    "supervised": True,
                    "free_disk_gb": 10.0,
                    "mdm_enrolled": True,
                },
            ),
        ],
    ),
    (
        "nanomdm",
        "mdm/zentral/security_info.plist",
        [
            command_response("9A105E87-EC35-4F65-A265-423CFB92D624"),
            (
                INVENTORY,
                {
                    "user_approved": True,
                    "ade_enrolled": False,
                    "filevault": True,
                    "system_volume_sealed": True,
                    "mdm_enrolled": True,
                },
            ),
        ],
    ),
    (
        "nanomdm",
        "mdm/zentral/installed_application_list.plist",
        [command_response("E615AD27-A6DA-479A-AE17-FBCF754E1B31")],
    ),
    (
        "nanomdm",
        "mdm/zentral/profile_list.plist",
        [
            command_response("ABCC7D59-00FC-45DE-995A-296B119583E8"),
            (
                INVENTORY,
                {
                    "profiles": [
                        "com.example.zentral.mdm",
                        "com.example.zentral.santa_configuration",
                    ],
                    "mdm_enrolled": True,
                },
            ),
        ],
    ),
    ("nanomdm", "mdm/zentral/software_lookup_service_response.json", NO_TOPIC),
    ("nanomdm", "mdm/zentral/status_report.json", NO_TOPIC),
    ("nanomdm", "mdm/kmfddm/status.1st.json", NO_TOPIC),
    ("nanomdm", "mdm/kmfddm/status.20220628.json", NO_TOPIC),
    ("nanomdm", "mdm/kmfddm/status.D0.error.json", NO_TOPIC),
    (
        "micromdm",
        "mdm/micromdm/webhook.Authenticate.json",
        [("mdm.authenticated", MACBOOK), (INVENTORY, MACBOOK)],
    ),
    ("micromdm", "mdm/micromdm/webhook.CheckOut.json", [("mdm.checked_out", {})]),
    (
        "micromdm",
        "mdm/micromdm/webhook.Connect.json",
        [command_response("41d35de3-a343-4146-ba4b-0069bae2a54f")],
    ),
    (
        "micromdm",
        "mdm/micromdm/webhook.TokenUpdate.json",
        [("mdm.token_updated", {"awaiting_configuration": False})],
    ),
    (
        "jamf",
        "inventory/jamf/webhook.flat.ComputerPushCapabilityChanged.json",
        [(INVENTORY, {"serial": "C02M23PJFH50"})],
    ),
    (
        "jamf",
        "inventory/jamf/webhook.nested.ComputerCheckIn.json",
        [(INVENTORY, {"serial": "C02M23PGFH50"})],
    ),
    ("jamf", "inventory/jamf/fields.json", [("unknown_type", "$.webhook")]),
    ("osquery", "inventory/osquery/osquery.result.added.json", [("unknown_type", "$.name")]),
    ("osquery", "inventory/osquery/osquery.result.batch.json", [("unknown_type", "$.name")]),
    ("osquery", "inventory/osquery/osquery.result.removed.json", [("unknown_type", "$.name")]),
    ("osquery", "inventory/osquery/osquery.result.snapshot.json", [("unknown_type", "$.name")]),
    ("munki", "inventory/munki/ManagedInstallReport.keys.json", [("not_plist", "")]),
]
