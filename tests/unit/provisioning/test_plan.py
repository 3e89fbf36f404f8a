"""Differences between wanted and actual topics, and the changes that are allowed."""

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


def test_every_topic_is_wanted_and_topics_of_sites_once_for_each_site() -> None:
    names = {topic.name for topic in WANTED}
    assert {"drydock.jobs.austin.v1", "drydock.attempts.muc.v1"} <= names
    every = (*TOPICS, *INTERNAL_TOPICS)
    assert len(names) == len(every) + sum("{site}" in topic.name for topic in every)
    assert not any("{" in name for name in names)


def test_partition_count_applies_to_the_device_key_space_only() -> None:
    counts = {topic.name: topic.partitions for topic in wanted_topics(["muc"], 64, 3)}
    assert counts[CHECKINS] == counts[RESULTS] == 64
    assert counts[CONTROL] == 1
    assert counts["drydock.jobs.muc.v1"] == JOBS.partitions


@pytest.mark.parametrize(
    ("replication", "in_sync"), [(1, "1"), (2, "1"), (3, "2"), (5, "2")], ids=str
)
def test_min_insync_replicas_allows_the_loss_of_one_broker_with_three_copies(
    replication: int, in_sync: str
) -> None:
    for topic in wanted_topics(["muc"], 32, replication):
        assert topic.settings["min.insync.replicas"] == in_sync


def test_retention_is_in_milliseconds_and_unlimited_is_minus_one() -> None:
    settings = {topic.name: topic.settings for topic in WANTED}
    assert settings[CHECKINS]["retention.ms"] == str(30 * 24 * 3600 * 1000)
    assert settings[CONTROL]["retention.ms"] == "-1"


def test_settings_of_a_topic_override_the_general_ones() -> None:
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


def test_equal_topics_have_no_differences() -> None:
    assert differences(WANTED, THERE, brokers=3) == []


def test_every_topic_is_created_on_an_empty_cluster() -> None:
    found = differences(WANTED, {}, brokers=3)
    assert [each.topic for each in found] == [topic.name for topic in WANTED]
    assert {each.change for each in found} == {TopicChange.CREATE}
    assert all(each.obstacle is None for each in found)


@pytest.mark.parametrize(
    ("actual", "grow", "change", "obstacle"),
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
def test_single_difference_has_its_kind_and_obstacle(
    actual: dict[str, ActualTopic], grow: bool, change: TopicChange, obstacle: str | None
) -> None:
    [found] = differences(WANTED, actual, brokers=3, grow=grow)
    assert found.change is change
    if obstacle is None:
        assert found.obstacle is None
    else:
        assert obstacle in str(found.obstacle)


def test_difference_of_a_setting_has_actual_and_wanted_value() -> None:
    actual = changed(CONTROL, settings={**THERE[CONTROL].settings, "retention.ms": "1"})
    assert differences(WANTED, actual, brokers=3) == [
        TopicDifference(CONTROL, TopicChange.SETTING, "retention.ms", "1", "-1")
    ]


def test_topic_that_is_read_whole_gets_no_more_partitions() -> None:
    wanted = [WantedTopic("x", Partitioning.WHOLE, 2, 1, {})]
    [found] = differences(wanted, {"x": ActualTopic("x", 1, 1, {})}, brokers=1, grow=True)
    assert "read whole" in str(found.obstacle)


def test_missing_topic_is_not_created_while_its_key_space_has_another_count() -> None:
    actual = {
        name: replace(topic, partitions=16) if topic.partitions == 32 else topic
        for name, topic in without(RESULTS).items()
    }
    obstacles = {d.topic: d.obstacle for d in differences(WANTED, actual, brokers=3)}
    assert f"{CHECKINS} of the same key space has 16" in str(obstacles[RESULTS])
    assert all(d.obstacle is None for d in differences(WANTED, actual, brokers=3, grow=True))


def test_no_topic_grows_in_a_key_space_with_a_larger_count() -> None:
    actual = changed(CHECKINS, partitions=48)
    actual[RESULTS] = replace(actual[RESULTS], partitions=16)
    obstacles = {d.topic: d.obstacle for d in differences(WANTED, actual, brokers=3, grow=True)}
    assert "cannot reduce" in str(obstacles[CHECKINS])
    assert f"{CHECKINS} of the same key space has 48" in str(obstacles[RESULTS])


def test_topic_is_not_created_with_more_copies_than_brokers() -> None:
    found = differences(WANTED, {}, brokers=1)
    assert {each.obstacle for each in found} == {
        "replication 3 needs as many brokers; the cluster has 1"
    }


def test_unknown_topics_and_settings_are_noted_but_are_no_difference() -> None:
    actual = {
        **changed(CONTROL, own=frozenset({"retention.ms", "flush.ms"})),
        "drydock.jobs.berln.v1": ActualTopic("drydock.jobs.berln.v1", 4, 3, {}),
        "other.topic": ActualTopic("other.topic", 1, 1, {}),
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
def test_changes_never_reduce_a_count_and_keep_one_count_in_a_key_space(
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
    # After the changes, only the differences with an obstacle remain.
    assert all(each.obstacle for each in differences(wanted, after, brokers=3, grow=grow))
