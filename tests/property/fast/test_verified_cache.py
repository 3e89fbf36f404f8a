"""The worker's own jobs, recognised by their bytes, are those that decoding gives."""

from collections import deque
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from pipeline.processors.fast.verified_cache import VerifiedCache, peek_job
from schemas.envelope import encode
from schemas.jobs import Job
from schemas.results import Outcome
from tests import factories as make
from tests.property.fast.any_values import TIMES, event_of, jobs


@given(jobs(), TIMES)
def test_job_header_equals_the_decoded_job(job: Job, time: datetime) -> None:
    raw = encode(event_of(job, time, None))
    read = peek_job(raw)
    assert read is not None
    assert all(getattr(read, name) == getattr(job, name) for name in read.__struct_fields__)


def test_another_event_has_no_job_header() -> None:
    assert peek_job(encode(make.superseded(make.job()))) is None
    assert peek_job(encode(make.resulted(make.job(), Outcome.STARTED, make.NOW))) is None


CALLS = st.lists(st.tuples(st.booleans(), st.sampled_from([b"1", b"2", b"3"])), max_size=12)


@given(CALLS, st.integers(1, 3))
def test_cache_is_a_queue_of_the_newest_bytes(calls: list[tuple[bool, bytes]], size: int) -> None:
    cache, plain = VerifiedCache(size), deque[bytes](maxlen=size)
    for adds, raw in calls:
        if not adds:
            found = raw in plain
            assert cache.pop(raw) is found
            if found:
                plain.remove(raw)
        else:
            cache.add(raw)
            if raw not in plain:
                plain.append(raw)
