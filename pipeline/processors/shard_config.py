"""Configuration shared by all shards of a worker."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.processors.fast.verified_cache import VerifiedCache
from pipeline.trust.stamps import Stamps
from schemas.signed_payloads import PublicKeys


@dataclass(slots=True)
class ShardConfig:
    """Configuration shared by all shards of a worker.

    `signing_key` signs jobs, withdrawals and queries; it is replaced when the key is rotated.
    `trusted` are the keys that verify jobs and withdrawals. `partitions` maps topic names to
    numbers of partitions. `verified` has the job events that dispatch need not verify again.
    Without `fast_paths` each record is decoded and each signature verified, also those of this
    worker. With `stamps` an input record without a valid stamp becomes a dead letter.

    A Mac of which only times and telemetry (free disk, battery) changed is written after at most
    `refresh`: a crash loses these changes for at most that time. Each Mac is decided for again
    every `sweep_every`. Each round does one piece of due work per shard, with at most `slice_size`
    Macs of each kind of work, and further pieces for up to `due_budget_s` seconds.
    """

    signing_key: Ed25519PrivateKey
    trusted: PublicKeys
    partitions: Mapping[str, int]
    refresh: timedelta = timedelta(hours=1)
    sweep_every: timedelta = timedelta(hours=6)
    slice_size: int = 200
    due_budget_s: float = 0.25
    verified: VerifiedCache = field(default_factory=VerifiedCache)
    fast_paths: bool = True
    stamps: Stamps | None = None
