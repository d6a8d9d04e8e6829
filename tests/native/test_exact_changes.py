"""Changes of elements are found, coded and made bit for bit, by every instruction set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies import InputError, StorageError, _core
from tests.reference import changed_elements as reference
from tests.reference.changed_elements import BLOCK, CODINGS, Changes
from tests.support.everywhere import on_every_target
from tests.support.exact_changes import (
    UNITS,
    Array,
    apply,
    differing,
    find,
    fingerprint,
    limits,
    place,
    random_words,
    stored,
)
from tests.support.strategies import sizes

DENSITIES = (0.0, 1e-4, 0.001, 0.01, 0.05, 0.11, 0.13, 0.5, 0.93, 0.95, 1.0)
"""Around those where another layout becomes the smallest, and where kernels take another way."""


def assert_same(found: Changes, expected: Changes) -> None:
    assert found[:2] == expected[:2]
    for name in ("positions", "values", "blocks"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


def check_both_ways(old: Array, new: Array, coding: str) -> None:
    """Hold what is found against the reference, and make the new of the old with it."""
    expected = reference.find(old, new, coding)
    for found, lanes in on_every_target(lambda: find(old, new, coding)[0]).values():
        assert_same(found, expected)
        assert lanes == (fingerprint(old), fingerprint(new))
    chain = [stored(expected, coding, old.size, old.itemsize)]
    out = np.empty_like(old)
    for lanes in on_every_target(lambda: apply(old, out, chain)).values():
        assert out.tobytes() == new.tobytes()
        assert lanes == (fingerprint(old), fingerprint(new))
    np.testing.assert_array_equal(reference.apply(old, expected, coding), new)
    if coding == "new":
        return
    chain = [stored(expected, reference.UNDONE[coding], old.size, old.itemsize)]
    for lanes in on_every_target(lambda: apply(new, out, chain)).values():
        assert out.tobytes() == old.tobytes()
        assert lanes == (fingerprint(new), fingerprint(old))


@given(st.sampled_from(UNITS), sizes(max_size=700), st.sampled_from(CODINGS), st.data())
def test_changes_are_those_of_the_reference(
    unit: int, n: int, coding: str, data: st.DataObject
) -> None:
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    density = data.draw(st.sampled_from(DENSITIES))
    old = random_words(draw, unit, n)
    check_both_ways(old, differing(old, draw.random(n) < density, draw), coding)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("unit", UNITS)
def test_changes_of_several_blocks(unit: int, density: float) -> None:
    draw = np.random.default_rng(unit)
    n = 3 * BLOCK + 77
    old = random_words(draw, unit, n)
    new = differing(old, draw.random(n) < density, draw)
    for coding in CODINGS:
        check_both_ways(old, new, coding)


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 509, 510, 511, BLOCK - 2])
def test_gaps_of_every_length(gap: int) -> None:
    old = np.zeros(2 * BLOCK, np.uint16)
    new = old.copy()
    new[[3, min(4 + gap, BLOCK - 1), BLOCK + gap, 2 * BLOCK - 1]] = 7
    check_both_ways(old, new, "xor")
    assert find(old, new, "xor")[0][0].layout == "gaps"


def test_threads_tiles_and_slices_change_nothing() -> None:
    draw = np.random.default_rng(0)
    n = 9 * BLOCK + 1000
    old = random_words(draw, 2, n)
    new = differing(old, draw.random(n) < np.linspace(0, 0.2, n), draw)
    expected = reference.find(old, new, "difference")
    for within in (limits(), limits(2), limits(3, 1 << 14), limits(2, 1 << 22)):
        ((found, _),) = find(old, new, "difference", within)
        assert_same(found, expected)
    pieces = [(0, BLOCK), (BLOCK, 5 * BLOCK), (6 * BLOCK, n - 6 * BLOCK)]
    found_pieces = find(old, new, "difference", limits(2), pieces)
    for (first, count), (found, _) in zip(pieces, found_pieces, strict=True):
        part = slice(first, first + count)
        assert_same(found, reference.find(old[part], new[part], "difference"))
    for side, whole in enumerate((old, new)):
        lanes = [one[1][side] for one in found_pieces]
        assert [sum(column) % 2**64 for column in zip(*lanes, strict=True)] == fingerprint(whole)


@pytest.mark.parametrize("layout", ["gaps", "mask", "dense"])
def test_any_layout_is_applied_by_tiles_that_begin_within_blocks(
    layout: str, tmp_path: Path
) -> None:
    draw = np.random.default_rng(1)
    n = 5 * BLOCK + 321
    density = {"gaps": 0.02, "mask": 0.4, "dense": 1.0}[layout]
    old = random_words(draw, 2, n)
    new = differing(old, draw.random(n) < density, draw)
    found = reference.find(old, new, "xor")
    assert found.layout == layout
    changes = stored(found, "xor", n, 2)
    (tmp_path / "old").write_bytes(b"x" * 1000 + old.tobytes())
    for name, first in (("a", 0), ("b", 3032), ("c", 100_001)):
        plan = _core.Plan(False)
        source = plan.open_to_read(str(tmp_path / "old"))
        target = plan.open_to_write(str(tmp_path / name), first + old.nbytes)
        code = place(old)[2]
        plan.add_job(n, [(source, 1000, code)], [(target, first, code)])
        task = _core.PatchTask(slice=_core.Slice(job=0), chain=[changes])
        (done,) = _core.apply_changes(plan=plan, tasks=[task], limits=limits(2, 1 << 18))
        assert (tmp_path / name).read_bytes()[first:] == new.tobytes()
        assert (done.old, done.new) == (fingerprint(old), fingerprint(new))


@pytest.mark.parametrize("first", [0, 1000, 4097])
@pytest.mark.parametrize("density", [1e-5, 0.01, 0.4, 1.0])
def test_in_place_in_a_file(tmp_path: Path, first: int, density: float) -> None:
    draw = np.random.default_rng(3)
    n = 5 * BLOCK + 321
    old = random_words(draw, 2, n)
    new = differing(old, draw.random(n) < density, draw)
    changes = stored(reference.find(old, new, "xor"), "xor", n, 2)
    path = tmp_path / "model"
    path.write_bytes(b"x" * first + old.tobytes() + b"end")
    plan = _core.Plan(False)
    file = plan.open_to_write(str(path), path.stat().st_size)
    code = place(old)[2]
    plan.add_job(n, [(file, first, code)], [(file, first, code)])
    task = _core.PatchTask(slice=_core.Slice(job=0), chain=[changes])
    for states in ((old, new), (new, old)):
        (done,) = _core.apply_changes(plan=plan, tasks=[task], limits=limits(2, 1 << 18))
        assert (done.old, done.new) == tuple(map(fingerprint, states))
        assert path.read_bytes() == b"x" * first + states[1].tobytes() + b"end"


def n_written() -> int:
    """The bytes that this process has handed to the system to write."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def test_in_place_only_pages_with_a_change_are_written(tmp_path: Path) -> None:
    old, new = np.zeros((2, 40 * BLOCK), np.uint16)
    new[[5, 20 * BLOCK, -1]] = 7
    changes = stored(reference.find(old, new, "xor"), "xor", old.size, 2)
    path = tmp_path / "model"
    path.write_bytes(old.tobytes())
    plan = _core.Plan(False)
    in_file = (plan.open_to_write(str(path), old.nbytes), 0, place(old)[2])
    plan.add_job(old.size, [in_file], [in_file])
    task = _core.PatchTask(slice=_core.Slice(job=0), chain=[changes])
    before = n_written()
    _core.apply_changes(plan=plan, tasks=[task], limits=limits())
    assert n_written() - before < 4 * 4096
    assert path.read_bytes() == new.tobytes()


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 1.0])
def test_an_element_on_two_pages_is_written_to_both(tmp_path: Path, share: float) -> None:
    draw = np.random.default_rng(5)
    old = random_words(draw, 4, 2 * BLOCK + 7)
    changed = draw.random(old.size) < share
    changed[1023] = True  # bytes 4093 to 4096 of the file
    new = differing(old, changed, draw)
    changes = stored(reference.find(old, new, "difference"), "difference", old.size, 4)
    path = tmp_path / "model"
    path.write_bytes(b"a" + old.tobytes() + b"z" * 5000)
    plan = _core.Plan(False)
    in_file = (plan.open_to_write(str(path), path.stat().st_size), 1, place(old)[2])
    plan.add_job(old.size, [in_file], [in_file])
    task = _core.PatchTask(slice=_core.Slice(job=0), chain=[changes])
    (done,) = _core.apply_changes(plan=plan, tasks=[task], limits=limits(2), with_old=False)
    assert (done.old, done.new) == ([0] * 8, fingerprint(new))
    assert path.read_bytes() == b"a" + new.tobytes() + b"z" * 5000


def test_a_file_that_was_truncated_is_told_of(tmp_path: Path) -> None:
    old = np.zeros(BLOCK, np.uint16)
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(old.tobytes())
    plan = _core.Plan(True)
    places = [
        (plan.open_to_read(str(tmp_path / name)), 0, place(old)[2]) for name in ("old", "new")
    ]
    plan.add_job(old.size, places, [])
    slices = [_core.Slice(job=0)]
    _core.find_changes(plan=plan, slices=slices, coding=0, limits=limits())
    os.truncate(tmp_path / "new", 1000)
    with pytest.raises(StorageError, match=r"new: ends at byte 1000, .* it was truncated"):
        _core.find_changes(plan=plan, slices=slices, coding=0, limits=limits())


def test_a_chain_is_applied_in_one_pass_and_in_place() -> None:
    draw = np.random.default_rng(2)
    n = 2 * BLOCK + 100
    states = [random_words(draw, 4, n)]
    chain = []
    for coding, density in zip((*CODINGS, "xor"), (0.01, 0.3, 1.0, 0.001), strict=True):
        states.append(differing(states[-1], draw.random(n) < density, draw))
        ((found, _),) = find(states[-2], states[-1], coding)
        chain.append(stored(found, coding, n, 4))
    model = states[0].copy()
    assert apply(model, model, chain, limits(2)) == (
        fingerprint(states[0]),
        fingerprint(states[-1]),
    )
    assert model.tobytes() == states[-1].tobytes()
    model = states[-1].copy()
    apply(model, model, chain[-1:], with_fingerprints=False)
    assert model.tobytes() == states[-2].tobytes()


@pytest.mark.parametrize("unit", UNITS)
def test_old_values_undo_a_chain_whatever_was_written(unit: int) -> None:
    draw = np.random.default_rng(unit)
    n = 3 * BLOCK - 11
    states = [random_words(draw, unit, n)]
    found = []
    for coding, density in (("xor", 0.01), ("difference", 0.5), ("xor", 1.0), ("xor", 0.0)):
        states.append(differing(states[-1], draw.random(n) < density, draw))
        found.append((find(states[-2], states[-1], coding)[0][0], coding))
    chain = [stored(one, coding, n, unit) for one, coding in found]
    plan = _core.Plan(False)
    plan.add_job(n, [place(states[0])], [])
    task = _core.PatchTask(slice=_core.Slice(job=0), chain=chain)
    (old,) = _core.apply_changes(plan=plan, tasks=[task], limits=limits(2), with_values=True)
    assert (old.old, old.new) == (fingerprint(states[0]), fingerprint(states[-1]))
    undo = []
    for (one, _), values in zip(found, old.old_values, strict=True):
        words = np.frombuffer(values, f"u{unit}")
        np.testing.assert_array_equal(words, states[0][reference.where(one, n)])
        undo.append(stored(one._replace(values=words), "new", n, unit))
    for (one, _), values in zip(found, old.new_values, strict=True):
        words = np.frombuffer(values, f"u{unit}")
        np.testing.assert_array_equal(words, states[-1][reference.where(one, n)])
    for n_written in range(len(chain) + 1):
        model = states[0].copy()
        apply(model, model, chain[:n_written])
        apply(model, model, undo)
        assert model.tobytes() == states[0].tobytes()


def gaps(blocks: list[list[int]], n_values: list[int]) -> Changes:
    """Changes of 16-bit elements with these bytes of gaps."""
    ends = np.stack([np.cumsum([len(one) for one in blocks]), np.cumsum(n_values)], axis=1)
    positions = np.array([byte for block in blocks for byte in block], np.uint8)
    return Changes(
        "gaps", sum(n_values), positions, np.zeros(sum(n_values), np.uint16), ends.astype(np.uint32)
    )


DAMAGED = {
    "beyond": (gaps([[255] * 257 + [1]], [1]), BLOCK, "reach element 65537, expected at most"),
    "beyond the last block": (gaps([[3], [99]], [1, 1]), BLOCK + 99, "block 1 reach element 100"),
    "no change at the end": (gaps([[3, 255]], [1]), BLOCK, "block 0 end with elements that stay"),
    "too few values": (gaps([[3, 4]], [1]), BLOCK, "1 values of block 0, expected 2"),
    "too many values": (gaps([[3, 4]], [3]), BLOCK, "3 values of block 0, expected 2"),
    "a block too many": (gaps([[3], [4]], [1, 1]), BLOCK, "2 blocks, expected 1"),
    "no blocks": (gaps([[3]], [1])._replace(blocks=np.empty((0, 2), np.uint32)), 9, "0 blocks"),
    "ends that fall": (
        gaps([[3], [4]], [1, 1])._replace(blocks=np.array([[2, 1], [1, 2]], np.uint32)),
        2 * BLOCK,
        "1 values of block 0, expected 2",
    ),
    "ends beyond": (
        gaps([[3]], [1])._replace(blocks=np.array([[9, 1]], np.uint32)),
        BLOCK,
        "the ends of block 0 are 9 and 1, expected 0 to 1 and 0 to 1",
    ),
    "bytes too many": (
        gaps([[3]], [1])._replace(positions=np.array([3, 4], np.uint8)),
        BLOCK,
        "2 bytes of positions, expected 1",
    ),
    "values too many": (
        gaps([[3]], [1])._replace(values=np.zeros(2, np.uint16)),
        BLOCK,
        "4 bytes of values, expected 2",
    ),
    "truncated values": (
        gaps([[3]], [1])._replace(values=np.zeros(1, np.uint8)),
        BLOCK,
        "the ends of block 0 are 1 and 1",
    ),
    "a short mask": (gaps([[3]], [2])._replace(layout="mask"), 9, "1 bytes of the mask"),
    "a mask beyond": (gaps([[3, 2]], [3])._replace(layout="mask"), 9, "beyond its 9 elements"),
    "a mask of others": (gaps([[3, 1]], [2])._replace(layout="mask"), 9, "2 values .* expected 3"),
    "too few dense": (
        Changes("dense", 9, np.empty(0, np.uint8), np.zeros(8, np.uint16), np.empty((0, 2), "u4")),
        9,
        "16 bytes of values, expected 18",
    ),
    "positions of none": (gaps([[3]], [1])._replace(layout="none"), 9, "1 bytes of positions"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_changes_are_refused(name: str) -> None:
    changes, n_elements, message = DAMAGED[name]
    with pytest.raises(InputError, match=f"damaged changes: .*{message}"):
        stored(changes, "xor", n_elements, 2)


@given(st.binary(max_size=300), st.integers(0, 3), st.integers(0, 900), st.integers(0, 2**32))
def test_any_bytes_are_refused_or_name_elements_of_the_slice(
    data: bytes, n_values: int, n: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    layout = str(draw.choice(["gaps", "mask"]))
    ends = np.array([[len(data), n_values]], np.uint32)
    changes = Changes(
        layout, n_values, np.frombuffer(data, np.uint8), np.ones(n_values, np.uint16), ends
    )
    try:
        chain = [stored(changes, "xor", n, 2)]
    except InputError:
        return
    old = np.zeros(n, np.uint16)
    out = np.empty_like(old)
    apply(old, out, chain)
    np.testing.assert_array_equal(out, reference.apply(old, changes, "xor"))


def test_other_arguments_are_refused() -> None:
    words = np.zeros(200, np.uint16)
    plan = _core.Plan(False)
    plan.add_job(200, [place(words)], [place(words)])
    one, two = 0, 1
    plan.add_job(200, [place(words), place(words.view(np.uint8))], [])
    changes = stored(gaps([[3]], [1]), "xor", 199, 2)

    def find_in(**slice_: int) -> object:
        slices = [_core.Slice(**slice_)]
        return _core.find_changes(plan=plan, slices=slices, coding=0, limits=limits())

    def apply_to(job: int, changes: _core.StoredChanges) -> object:
        task = _core.PatchTask(slice=_core.Slice(job=job), chain=[changes])
        return _core.apply_changes(plan=plan, tasks=[task], limits=limits())

    with pytest.raises(ValueError, match="inputs: found 1, expected 2"):
        find_in(job=one)
    with pytest.raises(ValueError, match="elements of several sizes"):
        find_in(job=two)
    with pytest.raises(ValueError, match="job: found 2"):
        find_in(job=2)
    with pytest.raises(ValueError, match="n_elements: found 199, expected 200"):
        apply_to(one, changes)
    with pytest.raises(ValueError, match="unit: found 1, expected 2"):
        apply_to(
            one,
            stored(
                gaps([[3]], [0])._replace(
                    layout="none", positions=words[:0], values=words[:0], blocks=words[:0]
                ),
                "xor",
                200,
                1,
            ),
        )
    with pytest.raises(ValueError, match="unit: found 3"):
        stored(gaps([[3]], [1]), "xor", 200, 3)
    with pytest.raises(ValueError, match="positions: found a buffer with strides"):
        stored(gaps([[3]], [1])._replace(positions=np.zeros(4, np.uint8)[::2]), "xor", 200, 2)
