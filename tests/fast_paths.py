"""Counters of the fast paths that DRYDOCK_FAST_PATHS switches."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from pipeline.decide.fast import after_send
from pipeline.processors.fast import verified_cache
from pipeline.processors.fast.verified_cache import VerifiedCache
from pipeline.reconcile import deciding
from pipeline.state import fleet
from pipeline.state.compact import duplicates
from schemas.fast import json_bytes, models, report_peek


@contextmanager
def fast_path_uses() -> Iterator[Counter[str]]:
    """Yield the number of uses by the name of the fast path; it grows inside the block."""
    uses: Counter[str] = Counter()

    def counted(
        name: str, function: Callable[..., Any], counts: Callable[[Any], bool] = lambda _: True
    ) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            found = function(*given, **named)
            uses[name] += counts(found)
            return found

        return call

    encoder = SimpleNamespace(encode=counted("json_bytes", msgspec.json.encode))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "_set", counted("construct_unchecked", object.__setattr__))
        patch.setattr(json_bytes, "msgspec", SimpleNamespace(json=encoder))
        peek = counted("peek_report", report_peek._DECODER.decode)
        patch.setattr(report_peek, "_DECODER", SimpleNamespace(decode=peek))
        repeated = counted(
            "apply_duplicate", duplicates.apply_duplicate, lambda found: found is not None
        )
        patch.setattr(fleet, "apply_duplicate", repeated)
        again = counted("reevaluate_after_send", after_send.reevaluate_after_send)
        patch.setattr(deciding, "reevaluate_after_send", again)
        patch.setattr(VerifiedCache, "pop", counted("VerifiedCache", VerifiedCache.pop, bool))
        read = counted("peek_job", verified_cache._ISSUED.decode)
        patch.setattr(verified_cache, "_ISSUED", SimpleNamespace(decode=read))
        yield uses
    for name in [name for name, count in uses.items() if not count]:
        del uses[name]
