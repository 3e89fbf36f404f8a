"""Webhooks of NanoMDM."""

import base64
import json
import plistlib
from typing import Any, Final

UDID: Final = "5A0C7D9E-0000-4000-8000-000000000001"


def webhook(kind: str, udid: str = UDID, **message: Any) -> bytes:
    """Return NanoMDM's webhook for a check-in."""
    payload = {"MessageType": kind, "UDID": udid, "Topic": "com.apple.mgmt.x", **message}
    raw = base64.b64encode(plistlib.dumps(payload)).decode()
    return json.dumps(
        {
            "topic": f"mdm.{kind}",
            "event_id": "7436be8b6fcc457a",
            "created_at": "2026-11-20T11:59:00.123456789Z",
            "checkin_event": {
                "ids": {"id": udid, "type": "Device"},
                "udid": udid,
                "raw_payload": raw,
                **({"token_update_tally": 1} if kind == "TokenUpdate" else {}),
            },
        }
    ).encode()
