"""What all partitions of a worker are told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.processors.verified_cache import VerifiedCache
from schemas.signed_payloads import PublicKeys


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """What all partitions of a worker share. Counts are of partitions, by topic name; `verified` is
    what they tell dispatch. Without `fast_paths` each record is decoded and each signature
    verified, also of what the worker itself wrote.

    A Mac of which only times and figures (free disk, battery) changed is written again after
    `refresh`: so much of 'when last heard' may a crash forget. A round decides for `due_budget_s`
    at most before it reads on; each partition gets one piece of at most `slice` Macs in any case.
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
