"""A chain with a wrong link is refused before any tensor is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tallies import InputError, apply_patch, make_patch
from tests.support.checkpoints import Model, assert_holds, write
from tests.support.command import assert_failed, tallies, tree
from tests.support.patches import altered, pair


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    """Three patches that follow each other from the model ``old``."""
    rng = np.random.default_rng(7)
    states = [pair()[0]]
    for _ in range(3):
        states.append({**states[-1], "wide": altered(rng, states[-1]["wide"], 0.01)})
    write(tmp_path / "old", states[0])
    for i in range(3):
        make_patch(states[i], states[i + 1], tmp_path / f"p{i}")
    return [tmp_path / f"p{i}" for i in range(3)]


def refused(patches: list[Path], to: Path, **options: Any) -> str:
    """The message; nothing changes, and no tensor is read."""
    before = tree(to.parent)
    with (
        mock.patch("tallies.patches.opened.whole", side_effect=AssertionError("was read")),
        pytest.raises(InputError) as raised,
    ):
        apply_patch(patches, to, **options)
    assert tree(to.parent) == before
    return str(raised.value)


@pytest.mark.parametrize("out", [None, "made"])
@pytest.mark.parametrize(
    ("order", "words"),
    [
        ((0, 2), "a patch between the two is missing, or one is of another model"),
        ((1, 0), r"give the patches in their order: \S+p0, \S+p1$"),
        ((2, 1, 0), r"give the patches in their order: \S+p0, \S+p1, \S+p2$"),
        ((0, 0), "the patch is given twice: give it once"),
        ((0, 1, 1), "the patch is given twice: give it once"),
    ],
)
def test_wrong_orders(
    chain: list[Path], tmp_path: Path, order: tuple[int, ...], words: str, out: str | None
) -> None:
    place = None if out is None else tmp_path / out
    message = refused([chain[i] for i in order], tmp_path / "old", out=place)
    assert re.search(words, message)
    assert re.search(
        r"tensor 'wide' has fingerprint [0-9a-f]{16} there, and [0-9a-f]{16} is expected", message
    )


@pytest.mark.parametrize("place", ["made", None])
def test_a_chain_may_come_back(tmp_path: Path, place: str | None) -> None:
    """A patch may be in a chain twice, where another leads back before it."""
    states = pair()
    write(tmp_path / "old", states[0])
    make_patch(*states, tmp_path / "there")
    make_patch(states[1], states[0], tmp_path / "back")
    chain = [tmp_path / name for name in ("there", "back", "there")]
    out = None if place is None else tmp_path / place
    apply_patch(chain[:2], tmp_path / "old", out)
    assert_holds(out or tmp_path / "old", states[0])
    apply_patch(chain, tmp_path / "old", out, overwrite=True)
    assert_holds(out or tmp_path / "old", states[1])


def test_a_fork(chain: list[Path], tmp_path: Path) -> None:
    old, other = pair()
    make_patch(old, other, tmp_path / "fork")
    message = refused([chain[0], tmp_path / "fork"], tmp_path / "old")
    assert "both start from one model, a fork: apply one of the two" in message


def test_a_foreign_link(chain: list[Path], tmp_path: Path) -> None:
    make_patch(*pair(9), tmp_path / "foreign")
    message = refused([chain[0], tmp_path / "foreign"], tmp_path / "old")
    assert "or one is of another model" in message


@pytest.mark.parametrize("out", [None, "made"])
def test_another_base(chain: list[Path], tmp_path: Path, out: str | None) -> None:
    before = tree(tmp_path)
    place = None if out is None else tmp_path / out
    with pytest.raises(InputError) as raised:
        apply_patch(chain[1], tmp_path / "old", place)
    assert re.search(
        r"model.safetensors: is not the model that \S+p1 starts from: tensor 'wide' has "
        r"fingerprint [0-9a-f]{16}, expected [0-9a-f]{16}; name the model",
        str(raised.value),
    )
    assert tree(tmp_path) == before


def test_applied_before(chain: list[Path], tmp_path: Path) -> None:
    apply_patch(chain[0], tmp_path / "old")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="the new one already: were the patches applied before"):
        apply_patch(chain[0], tmp_path / "old")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.pop("wide"), "it lacks tensor 'wide'"),
        (lambda model: model.update(more=np.zeros(2)), "it has tensor 'more'"),
        (lambda model: model.update(wide=model["wide"][:2]), r"is BF16 \[2, 70000\], and"),
    ],
)
def test_a_model_of_other_tensors(
    chain: list[Path], tmp_path: Path, change: Any, words: str
) -> None:
    model: Model = pair()[0]
    change(model)
    write(tmp_path / "other", model)
    assert re.search(words, refused(chain, tmp_path / "other"))


def test_no_patch(tmp_path: Path, chain: list[Path]) -> None:
    assert "is no patch" in refused([tmp_path / "old"], tmp_path / "old")
    assert "is no patch" in refused([tmp_path / "old/model.safetensors"], tmp_path / "old")
    assert "expected at least one" in refused([], tmp_path / "old")
    line = assert_failed(
        tallies("apply", tmp_path / "gone", "--to", tmp_path / "old", "--in-place"), 2
    )
    assert "gone" in line
