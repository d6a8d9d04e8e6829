"""Models of several parts and variants on the hub, and caches that have a part of a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import read_file, write
from tests.support.command import assert_failed, tallies
from tests.support.command_line import printed
from tests.support.hub import Hub

REQUEST = ("--method", "linear", "--model", "org/one", "--model", "org/two")


@pytest.fixture
def pipelines(hub: Hub, tmp_path: Path) -> None:
    """Two pipelines with two components, each in two variants and in another format."""
    for value, name in ((1, "one"), (3, "two")):
        root = tmp_path / "published" / name
        for folder, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
            (root / folder).mkdir(parents=True)
            for variant, dtype in (("", np.float32), (".fp16", np.float16)):
                file = root / folder / f"{stem}{variant}.safetensors"
                write(file, {"w": np.full((40, 40), value, dtype)})
            (root / folder / "pytorch_model.bin").write_bytes(b"x" * 9000)
        index = {"unet": ["diffusers", "U"], "text_encoder": ["transformers", "T"]}
        (root / "model_index.json").write_text(json.dumps({"_class_name": "P", **index}))
        hub.directory(f"org/{name}", root)


@pytest.mark.parametrize(("variant", "dtype"), [("", np.float32), (".fp16", np.float16)])
def test_a_pipeline_is_merged_in_one_variant(
    pipelines: None, home: Path, variant: str, dtype: type
) -> None:
    chosen = ("--variant", "fp16") if variant else ()
    printed("plan", *REQUEST, *chosen)
    assert not list(home.rglob("*.safetensors"))
    printed("merge", *REQUEST, *chosen, "out")
    names = (
        f"unet/diffusion_pytorch_model{variant}.safetensors",
        f"text_encoder/model{variant}.safetensors",
    )
    for name in names:
        found = read_file(Path("out") / name)["w"]
        assert found.dtype == dtype
        assert (found == 2).all()
    downloaded = {path.name for path in home.rglob("snapshots/**/*.*") if path.is_file()}
    assert downloaded == {"model_index.json", *(Path(name).name for name in names)}
    printed("merge", *REQUEST, *chosen, "again", "--offline")


def test_a_cache_with_a_part_of_a_model(hub: Hub, home: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        path = write(tmp_path / "published" / name, {"w": np.ones((40, 40), np.float32)})
        (path / "config.json").write_text("{}")
        hub.directory(f"org/{name}", path)
    printed("merge", *REQUEST, "out")
    weights = next((home / "hub" / "models--org--one").rglob("snapshots/*/model.safetensors"))
    weights.unlink()
    line = assert_failed(tallies("plan", *REQUEST, "--offline"), 2)
    for part in (str(weights.parent), "a part of org/one@", "--offline", "hf download org/one"):
        assert part in line
    printed("merge", *REQUEST, "again")
