"""Records that agents skip have no effect on their store."""

from datetime import timedelta

import pytest
from hypothesis import given

from agents.mdm.answers import AnswerStore
from agents.mdm.facts import Name, may_have_facts
from schemas.envelope import DeviceEvent, Event, encode
from schemas.routing import route
from tests import factories as make
from tests import strategies as any_

pytestmark = pytest.mark.hypothesis


@given(any_.reports() | any_.checkins())
def test_skipped_record_changes_no_store(event: Event) -> None:
    assert isinstance(event, DeviceEvent)
    if may_have_facts(route(event)[0], encode(event)):
        return
    store = AnswerStore(":memory:")
    store.add_events([event], event.time + timedelta(hours=1))
    assert all(store.facts(event.subject).value(name) is None for name in Name)
    store.close()


@pytest.mark.parametrize(("source", "is_read"), [("mdm", True), ("osquery", False)])
def test_only_reports_of_mdm_servers_are_read(source: str, is_read: bool) -> None:
    report = make.reported("MAC-1", make.NOW, source, os_version="26.1")
    assert may_have_facts(route(report)[0], encode(report)) is is_read


def test_check_in_is_read() -> None:
    for event in make.enrolled("MAC-1"):
        assert may_have_facts(route(event)[0], encode(event))
