"""A process that posts NanoMDM webhooks at a rate: `python -m tests.bench.kafka_webhooks`.

Each webhook is a Mac's response to DeviceInformation, signed as NanoMDM signs. Nearly all repeat
the Mac's known fields; each Mac of `outdated_of` once reports an older macOS, which leads to an
update job. For each of these webhooks a JSON line has the times of its request and its response, by
the system's monotonic clock; the last line is a summary. All bodies are made before the first post.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import plistlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import Final

from tests import factories as make
from tests.bench.core import FLEET, udid_of

HMAC_KEY: Final = "bench-hmac-key"
PATH: Final = "/webhooks/nanomdm"
_CONNECTIONS: Final = 128
_VERSION: Final = "26.2"
_OLDER: Final = "26.1"


def webhook(number: int, version: str, serial_no: int) -> bytes:
    """Return the body that NanoMDM posts for this Mac's response to DeviceInformation."""
    udid = udid_of(number)
    responses = {
        "SerialNumber": f"C02{number:07d}",
        "OSVersion": version,
        "BuildVersion": make.build_of(version),
        "Model": "Mac16,1",
        "ProductName": "Mac16,1",
        "DeviceName": f"lon-{number:06d}",
        "SoftwareUpdateDeviceID": "J604AP",
        "IsSupervised": True,
        "AvailableDeviceCapacity": 200.0,
        "BatteryLevel": 0.9,
    }
    uuid = f"C-{serial_no}"
    message = {
        "Status": "Acknowledged",
        "UDID": udid,
        "CommandUUID": uuid,
        "QueryResponses": responses,
    }
    hook = {
        "topic": "mdm.Connect",
        "event_id": f"{serial_no:016x}",
        "created_at": datetime.now(UTC).isoformat(),
        "acknowledge_event": {
            "ids": {"id": udid, "type": "Device"},
            "udid": udid,
            "status": "Acknowledged",
            "command_uuid": uuid,
            "raw_payload": base64.b64encode(plistlib.dumps(message)).decode(),
        },
    }
    return json.dumps(hook).encode()


def request(body: bytes) -> bytes:
    """Return the bytes of a signed HTTP request with this body."""
    digest = hmac.new(HMAC_KEY.encode(), body, hashlib.sha256).digest()
    head = (
        f"POST {PATH} HTTP/1.1",
        "Host: bench",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"X-Hmac-Signature: {base64.b64encode(digest).decode()}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


@dataclass
class Posting:
    """The webhooks to post to `ports`, and the results.

    None of the first `warm_up` webhooks leads to a job; of the others each `every`th does.
    """

    ports: Sequence[int]
    rate: float
    warm_up: int
    every: int
    outdated: Sequence[int]
    statuses: Counter[str] = field(default_factory=Counter)
    durations_s: list[float] = field(default_factory=list)
    late_s: float = 0.0
    requests: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        count = self.warm_up + self.every * len(self.outdated)
        self.requests = [request(self._webhook(turn)) for turn in range(count)]

    def _webhook(self, turn: int) -> bytes:
        number = self._outdated(turn)
        if number is not None:
            return webhook(number, _OLDER, turn)
        # Macs below the outdated ones report no change.
        return webhook(turn * 7919 % self.outdated[0], _VERSION, turn)

    def _outdated(self, turn: int) -> int | None:
        """Return the number of the Mac that becomes outdated with this webhook, or None."""
        measured = turn - self.warm_up
        ordering = measured >= 0 and measured % self.every == self.every - 1
        return self.outdated[measured // self.every] if ordering else None

    async def run(self) -> None:
        """Post all webhooks, each at its time."""
        began = time.monotonic() + 0.5
        turns = iter(range(len(self.requests)))
        ports = islice(cycle(self.ports), _CONNECTIONS)
        await asyncio.gather(*(self._connection(port, began, turns) for port in ports))

    async def _connection(self, port: int, began: float, turns: Iterator[int]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for turn in turns:
            due = began + turn / self.rate
            await asyncio.sleep(max(due - time.monotonic(), 0))
            sent = time.monotonic()
            self.late_s = max(self.late_s, sent - due)
            writer.write(self.requests[turn])
            self.statuses[await _status(reader)] += 1
            accepted = time.monotonic()
            self.durations_s.append(accepted - sent)
            number = self._outdated(turn)
            if number is not None:
                posted = {"udid": udid_of(number), "sent": sent, "accepted": accepted}
                sys.stdout.write(json.dumps(posted) + "\n")
        writer.close()


async def _status(reader: asyncio.StreamReader) -> str:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = head.partition("content-length:")[2].partition("\r\n")[0]
    await reader.readexactly(int(length or 0))
    return head.split(" ", 2)[1]


def outdated_of(jobs: int) -> range:
    """Return the numbers of the Macs that become outdated: the fleet's last ones."""
    return range(FLEET - jobs, FLEET)


def main() -> None:
    """Post, and print the summary as the last line."""
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, required=True, action="append")
    options.add_argument("--rate", type=float, required=True)
    options.add_argument("--warm-up", type=int, required=True)
    options.add_argument("--every", type=int, required=True)
    options.add_argument("--jobs", type=int, required=True)
    chosen = options.parse_args()
    outdated = outdated_of(chosen.jobs)
    posting = Posting(chosen.port, chosen.rate, chosen.warm_up, chosen.every, outdated)
    began, cpu = time.monotonic(), time.process_time()
    asyncio.run(posting.run())
    took = time.monotonic() - began - 0.5
    found = sorted(posting.durations_s)
    summary = {
        "statuses": posting.statuses,
        "per_s": round(len(found) / took, 1),
        "answered_p50_ms": round(found[len(found) // 2] * 1e3, 1),
        "answered_p99_ms": round(found[int(len(found) * 0.99)] * 1e3, 1),
        "latest_ms": round(posting.late_s * 1e3, 1),
        "cores": round((time.process_time() - cpu) / took, 2),
    }
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
