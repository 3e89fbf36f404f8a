"""Counts how often each fast path that DRYDOCK_FAST_PATHS switches is taken."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from pipeline.decide import decision, engine
from pipeline.processors import own_orders
from pipeline.processors.own_orders import OwnOrders
from pipeline.state import fleet, repeats
from schemas import glance, model


@contextmanager
def fast_path_uses() -> Iterator[Counter[str]]:
    """Give a count that grows with each use, by the name of the fast path."""
    uses: Counter[str] = Counter()

    def counted(
        name: str, function: Callable[..., Any], counts: Callable[[Any], bool] = lambda _: True
    ) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            found = function(*given, **named)
            uses[name] += counts(found)
            return found

        return call

    encoder = SimpleNamespace(encode=counted("json_of", msgspec.json.encode))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_set", counted("built", object.__setattr__))
        patch.setattr(model, "msgspec", SimpleNamespace(json=encoder))
        peek = counted("glance", glance._GLANCE.decode)
        patch.setattr(glance, "_GLANCE", SimpleNamespace(decode=peek))
        repeated = counted("repeated", repeats.repeated, lambda found: found is not None)
        patch.setattr(fleet, "repeated", repeated)
        again = counted("answer_to_order", decision.answer_to_order)
        patch.setattr(engine, "answer_to_order", again)
        patch.setattr(OwnOrders, "take", counted("OwnOrders", OwnOrders.take, bool))
        read = counted("own_order", own_orders._ISSUED.decode)
        patch.setattr(own_orders, "_ISSUED", SimpleNamespace(decode=read))
        yield uses
    for name in [name for name, count in uses.items() if not count]:
        del uses[name]
