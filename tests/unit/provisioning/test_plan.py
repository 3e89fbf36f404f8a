"""What differs between wanted and actual topics, and what may be done about it."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.provisioning.plan import (
    ActualTopic,
    TopicChange,
    TopicDifference,
    WantedTopic,
    differences,
    notes,
    wanted_topics,
)
from schemas.topics import INTERNAL_TOPICS, JOBS, TOPICS, Partitioning, topic_settings

WANTED = wanted_topics(["austin", "muc"], 32, 3)
THERE = {
    topic.name: ActualTopic(
        topic.name, topic.partitions, 3, {**topic.settings, "flush.ms": "9"}, frozenset()
    )
    for topic in WANTED
}
CHECKINS = "drydock.checkins.v1"
CONTROL = "drydock.control.v1"
DEAD = "drydock.dead-letters.v1"
RESULTS = "drydock.results.v1"


def changed(name: str, **fields: object) -> dict[str, ActualTopic]:
    return {**THERE, name: replace(THERE[name], **fields)}  # type: ignore[arg-type]


def without(*names: str) -> dict[str, ActualTopic]:
    return {name: topic for name, topic in THERE.items() if name not in names}


def test_every_topic_is_wanted_and_sites_own_topics_once_a_site() -> None:
    names = {topic.name for topic in WANTED}
    assert {"drydock.jobs.austin.v1", "drydock.attempts.muc.v1"} <= names
    every = (*TOPICS, *INTERNAL_TOPICS)
    assert len(names) == len(every) + sum("{site}" in topic.name for topic in every)
    assert not any("{" in name for name in names)


def test_partitions_option_is_for_the_device_key_space_only() -> None:
    counts = {topic.name: topic.partitions for topic in wanted_topics(["muc"], 64, 3)}
    assert counts[CHECKINS] == counts[RESULTS] == 64
    assert counts[CONTROL] == 1
    assert counts["drydock.jobs.muc.v1"] == JOBS.partitions


@pytest.mark.parametrize(
    ("replication", "in_sync"), [(1, "1"), (2, "1"), (3, "2"), (5, "2")], ids=str
)
def test_one_broker_may_be_lost_where_there_are_three_copies(
    replication: int, in_sync: str
) -> None:
    for topic in wanted_topics(["muc"], 32, replication):
        assert topic.settings["min.insync.replicas"] == in_sync


def test_retention_is_in_milliseconds_and_for_ever_is_minus_one() -> None:
    settings = {topic.name: topic.settings for topic in WANTED}
    assert settings[CHECKINS]["retention.ms"] == str(30 * 24 * 3600 * 1000)
    assert settings[CONTROL]["retention.ms"] == "-1"


def test_own_settings_of_a_topic_go_before_the_general_ones() -> None:
    topic = replace(
        JOBS,
        compacted=True,
        retention=timedelta(days=1),
        settings=(("segment.ms", "1000"), ("retention.bytes", "5")),
    )
    settings = topic_settings(topic, 3)
    assert settings["cleanup.policy"] == "compact"
    assert settings["segment.ms"] == "1000"
    assert settings["retention.bytes"] == "5"


def test_nothing_differs_from_itself() -> None:
    assert differences(WANTED, THERE, brokers=3) == []


def test_empty_cluster_lacks_every_topic() -> None:
    found = differences(WANTED, {}, brokers=3)
    assert [each.topic for each in found] == [topic.name for topic in WANTED]
    assert {each.change for each in found} == {TopicChange.CREATE}
    assert all(each.obstacle is None for each in found)


@pytest.mark.parametrize(
    ("actual", "grow", "change", "held"),
    [
        pytest.param(without(DEAD), False, TopicChange.CREATE, None, id="missing"),
        pytest.param(
            changed(CONTROL, settings={**THERE[CONTROL].settings, "retention.ms": "1"}),
            False,
            TopicChange.SETTING,
            None,
            id="setting",
        ),
        pytest.param(
            changed(DEAD, partitions=2), False, TopicChange.PARTITIONS, None, id="free-grows"
        ),
        pytest.param(
            changed(DEAD, partitions=9), True, TopicChange.PARTITIONS, "cannot reduce", id="no-less"
        ),
        pytest.param(
            changed(CONTROL, partitions=2),
            True,
            TopicChange.PARTITIONS,
            "cannot reduce",
            id="whole",
        ),
        pytest.param(
            changed(CHECKINS, partitions=16), False, TopicChange.PARTITIONS, "--yes", id="keys-move"
        ),
        pytest.param(
            changed(CHECKINS, partitions=16), True, TopicChange.PARTITIONS, None, id="yes"
        ),
        pytest.param(
            changed(CHECKINS, replication=1), True, TopicChange.REPLICATION, "reassign", id="copies"
        ),
    ],
)
def test_single_difference(
    actual: dict[str, ActualTopic], grow: bool, change: TopicChange, held: str | None
) -> None:
    [found] = differences(WANTED, actual, brokers=3, grow=grow)
    assert found.change is change
    if held is None:
        assert found.obstacle is None
    else:
        assert held in str(found.obstacle)


def test_setting_shows_its_actual_and_wanted_value() -> None:
    actual = changed(CONTROL, settings={**THERE[CONTROL].settings, "retention.ms": "1"})
    assert differences(WANTED, actual, brokers=3) == [
        TopicDifference(CONTROL, TopicChange.SETTING, "retention.ms", "1", "-1")
    ]


def test_topic_read_whole_never_grows() -> None:
    wanted = [WantedTopic("x", Partitioning.WHOLE, 2, 1, {})]
    [found] = differences(wanted, {"x": ActualTopic("x", 1, 1, {})}, brokers=1, grow=True)
    assert "read whole" in str(found.obstacle)


def test_new_topic_waits_while_its_key_space_has_another_count() -> None:
    actual = {
        name: replace(topic, partitions=16) if topic.partitions == 32 else topic
        for name, topic in without(RESULTS).items()
    }
    held = {d.topic: d.obstacle for d in differences(WANTED, actual, brokers=3)}
    assert f"{CHECKINS} of the same key space has 16" in str(held[RESULTS])
    assert all(d.obstacle is None for d in differences(WANTED, actual, brokers=3, grow=True))


def test_nothing_grows_into_a_key_space_that_is_already_larger() -> None:
    actual = changed(CHECKINS, partitions=48)
    actual[RESULTS] = replace(actual[RESULTS], partitions=16)
    held = {d.topic: d.obstacle for d in differences(WANTED, actual, brokers=3, grow=True)}
    assert "cannot reduce" in str(held[CHECKINS])
    assert f"{CHECKINS} of the same key space has 48" in str(held[RESULTS])


def test_more_copies_than_brokers_are_held_with_the_reason() -> None:
    found = differences(WANTED, {}, brokers=1)
    assert {each.obstacle for each in found} == {
        "replication 3 needs as many brokers; the cluster has 1"
    }


def test_strange_topics_and_settings_are_noted_and_no_difference() -> None:
    actual = {
        **changed(CONTROL, own=frozenset({"retention.ms", "flush.ms"})),
        "drydock.jobs.berln.v1": ActualTopic("drydock.jobs.berln.v1", 4, 3, {}),
        "somebody.elses": ActualTopic("somebody.elses", 1, 1, {}),
    }
    assert differences(WANTED, actual, brokers=3) == []
    found = notes(WANTED, actual)
    assert found == [
        f"{CONTROL} sets flush.ms=9, which is not in the table",
        "drydock.jobs.berln.v1 is not in the table (a site not named by --sites?)",
    ]


counts = st.one_of(st.none(), st.integers(1, 64))


@given(
    data=st.fixed_dictionaries({topic.name: counts for topic in WANTED}),
    target=st.integers(1, 64),
    grow=st.booleans(),
)
def test_what_is_done_never_reduces_and_never_brings_a_key_space_out_of_step(
    data: dict[str, int | None], target: int, grow: bool
) -> None:
    wanted = wanted_topics(["austin", "muc"], target, 3)
    actual = {
        name: replace(THERE[name], partitions=count)
        for name, count in data.items()
        if count is not None
    }
    by_name = {topic.name: topic for topic in wanted}
    after = dict(actual)
    for each in differences(wanted, actual, brokers=3, grow=grow):
        if each.obstacle is None:
            topic = by_name[each.topic]
            assert topic.partitions > (actual[each.topic].partitions if each.actual else 0)
            after[each.topic] = ActualTopic(
                topic.name, topic.partitions, topic.replication, topic.settings
            )
    for space in (Partitioning.DEVICE, Partitioning.SITE, Partitioning.SITE_JOBS):
        names = [topic.name for topic in wanted if topic.partitioning is space]
        if any(after.get(name) != actual.get(name) for name in names):
            assert len({after[name].partitions for name in names if name in after}) == 1
    # Once done, it is done: only what was held is still different.
    assert all(each.obstacle for each in differences(wanted, after, brokers=3, grow=grow))
