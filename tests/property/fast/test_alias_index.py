"""The index of aliases equals a dictionary from each alias to its UDIDs."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.state.compact.alias_index import AliasIndex

ALIASES = ("C02TEST0001", "E-1")
UDIDS = st.sampled_from(["MAC-A", "MAC-B", "MAC-C"])
# Adds the UDID if the first value is True, else removes it. "0" is a placeholder, no serial number.
CALLS = st.tuples(st.booleans(), st.sampled_from([*ALIASES, "0", None]), UDIDS)


@given(st.lists(CALLS, max_size=12))
def test_index_equals_a_dictionary(calls: list[tuple[bool, str | None, str]]) -> None:
    index = AliasIndex()
    plain: dict[str | None, list[str]] = {alias: [] for alias in ALIASES}
    for adds, alias, udid in calls:
        known = plain.get(alias, [])
        if adds:
            index.add(alias, udid)
            known += [udid] if udid not in known else []
        else:
            index.remove(alias, udid)
            known[:] = [one for one in known if one != udid]
        for each in ALIASES:
            assert index.udids(each) == tuple(plain[each])
            assert (each in index) is bool(plain[each])
            assert index.is_shared(each) is (len(plain[each]) > 1)
        assert "0" not in index
        assert index.udids(None) == ()
