"""Names of time zones."""

from difflib import get_close_matches
from functools import cache
from typing import Annotated, Final
from zoneinfo import available_timezones

from pydantic import AfterValidator

# Less alike names are other places: Europe/Bengaluru is not Europe/Belgrade, IST is not MST.
_LIKE: Final = 0.8
_HINT: Final = (
    "use a name such as Asia/Tokyo; many cities have the zone of another one"
    " (Bengaluru: Asia/Kolkata)"
)


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _time_zone(value: str) -> str:
    """Return the name of a time zone unchanged. Raises ValueError for an unknown one."""
    if value in _time_zones():
        return value
    by_lower = {name.lower(): name for name in sorted(_time_zones())}
    wanted = value.lower().replace(" ", "_")
    city = next((name for low, name in by_lower.items() if low.endswith(f"/{wanted}")), None)
    near = [by_lower[low] for low in get_close_matches(wanted, by_lower, n=1, cutoff=_LIKE)]
    hint = f"did you mean {city or near[0]}?" if city or near else _HINT
    raise ValueError(f"unknown time zone {value!r}; {hint}")


TimeZoneName = Annotated[str, AfterValidator(_time_zone)]
