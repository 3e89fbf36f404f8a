"""What all partitions of a worker are told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.processors.own_orders import OwnOrders
from schemas.orders import PublicKeys


@dataclass(frozen=True, slots=True)
class Terms:
    """What all partitions of a worker share. Counts are of partitions, by topic name; `believed` is
    what they tell dispatch. Without `fast_paths` each record is decoded and each signature
    verified, also of what the worker itself wrote.

    A Mac of which only times and figures (free disk, battery) changed is written again after
    `refresh`: so much of 'when last heard' may a crash forget. A round decides for `due_budget_s`
    at most before it reads on; each partition gets one piece of at most `slice` Macs in any case.
    """

    key: Ed25519PrivateKey
    trusted: PublicKeys
    partitions: Mapping[str, int]
    refresh: timedelta = timedelta(hours=1)
    sweep_every: timedelta = timedelta(hours=6)
    slice: int = 200
    due_budget_s: float = 0.25
    believed: OwnOrders = field(default_factory=OwnOrders)
    fast_paths: bool = True
