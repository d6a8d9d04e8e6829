"""Tiny models whose weights lie in several sub-directories: an embedding model, a pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers as tf
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer, models, pre_tokenizers

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = {text: i for i, text in enumerate((*_SPECIAL, *"abcdefghijklmnopqrstuvwxyz"))}


def save_sentence_transformer(path: Path, seed: int) -> None:
    """Save a BERT with mean pooling and a Dense layer that has weights of its own."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {key: f"[{key[:3].upper()}]" for key in ("pad_token", "unk_token", "cls_token")}
    fast = tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, sep_token="[SEP]", **names)
    config = tf.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    alone = path.with_name(f"{path.name}-alone")
    tf.BertModel(config).save_pretrained(alone)
    fast.save_pretrained(alone)
    model = SentenceTransformer(
        modules=[modules.Transformer(str(alone)), modules.Pooling(32), modules.Dense(32, 8)],
        device="cpu",
    )
    model.save(str(path))
    shutil.rmtree(alone)


def save_pipeline(path: Path, seed: int, variant: str | None = None) -> None:
    """Save a pipeline of Stable Diffusion's kind: a UNet, an autoencoder and a text encoder."""
    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    text = tf.CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    pipeline = diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=diffusers.AutoencoderKL(
            block_out_channels=[8, 16],
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            latent_channels=4,
            norm_num_groups=4,
        ),
        text_encoder=tf.CLIPTextModel(text),
        tokenizer=None,
        scheduler=diffusers.DDPMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(path, variant=variant)


def components(path: Path, **options: Any) -> dict[str, torch.nn.Module]:
    """Load a pipeline and return its models by name."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        path, safety_checker=None, tokenizer=None, requires_safety_checker=False, **options
    )
    return {name: getattr(pipeline, name) for name in ("unet", "vae", "text_encoder")}
