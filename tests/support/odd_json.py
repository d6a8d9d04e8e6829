"""JSON values that a header should not hold."""

from __future__ import annotations

from hypothesis import strategies as st

numbers = st.integers(-1, 17) | st.sampled_from([-0.0, 1.0, 1e999, 2**31, 2**63, 2**64, 10**30])
odd_json = st.recursive(
    st.none() | st.booleans() | numbers | st.sampled_from(["", "F32", "4"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("dtype"), inner),
    max_leaves=4,
)
