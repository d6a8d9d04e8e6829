"""The encoder of the demo, its checkpoints and its training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tallies.demo.model import Encoder, accuracy, load, logits, prototypes, save
from tallies.demo.tasks import TASKS, Images, generator
from tallies.demo.train import train_base, train_expert
from tests.demo import SEED


def states_equal(one: Encoder, other: Encoder) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_model_has_the_stated_size() -> None:
    tensors = Encoder().state_dict().values()
    assert (len(tensors), sum(tensor.numel() for tensor in tensors)) == (22, 807_424)


def test_features_are_unit_vectors_and_logits_scaled_cosines(base: Encoder) -> None:
    features = base(torch.rand(6, 8, 8))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(6))
    head = torch.cat([features[:1] * 3, -features[:1]])
    torch.testing.assert_close(logits(features[:1], head), torch.tensor([[20.0, -20.0]]))


def test_prototypes_are_the_mean_features_of_the_classes(base: Encoder) -> None:
    pixels = torch.rand(20, 8, 8)
    labels = torch.arange(20) % 10
    head = prototypes(base, Images(pixels, labels))
    assert head.shape == (10, 256)
    assert not head.requires_grad
    with torch.no_grad():
        expected = (base(pixels)[3] + base(pixels)[13]) / 2
    torch.testing.assert_close(head[3], expected)


def test_accuracy_is_a_percentage(base: Encoder) -> None:
    pixels = torch.rand(10, 8, 8)
    labels = torch.arange(10)
    head = prototypes(base, Images(pixels, labels))
    assert accuracy(base, head, Images(pixels, labels)) == 100
    assert accuracy(base, head, Images(pixels, (labels + 1) % 10)) == 0
    half = torch.where(labels < 5, labels, (labels + 1) % 10)
    assert accuracy(base, head, Images(pixels, half)) == 50


def test_checkpoint_round_trip(base: Encoder, tmp_path: Path) -> None:
    save(base, tmp_path / "model")
    assert states_equal(load(tmp_path / "model"), base)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model_type"] == "tallies-demo"
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(base.state_dict())


def test_load_refuses_a_checkpoint_that_lacks_a_tensor(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"embed\.weight"):
        load(tmp_path)


def test_training_is_repeatable_and_depends_on_the_seed(
    images: tuple[Images, Images, Images], base: Encoder
) -> None:
    assert states_equal(train_base(images[0], seed=SEED, n_steps=20), base)
    assert not states_equal(train_base(images[0], seed=SEED + 1, n_steps=20), base)


def test_an_expert_beats_the_base_on_its_task_and_leaves_it_alone(
    images: tuple[Images, Images, Images], base: Encoder
) -> None:
    train, _, test = images
    view = TASKS["rot180"]
    head = prototypes(base, train.seen(view, generator(SEED, "head")))
    unseen = test.seen(view, generator(SEED, "test"))
    before = accuracy(base, head, unseen)
    expert = train_expert(base, head, "rot180", train, seed=SEED, n_steps=60)
    assert accuracy(expert, head, unseen) >= before + 10
    assert accuracy(base, head, unseen) == before
