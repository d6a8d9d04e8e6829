"""LoRA and its kin: the factors of each task's adapters, as they are."""

from __future__ import annotations

from ._codec import Codec


class Lora(Codec):
    """For each task the tensors of its adapters, bit for bit; nothing is shared.

    A task is a base with adapters, ``BASE+ADAPTER``. f_t = what the adapters make of the base: base
    + scale B A for LoRA, and alike for LoHa, LoKr, DoRA, trained tokens and biases. Products are
    summed in the order of the rank index and added to the base in float32; the result is rounded
    once to the base's dtype, so that it equals the merge of ``BASE+ADAPTER`` bit for bit.

    A task that differs from the base without an adapter is an error; ``tallies extract-lora`` makes
    an adapter of a fine-tuned model.

    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, arXiv 2106.09685.
    """

    name = "lora"
    formula = "f_t = base + scale_t B_t A_t, with the factors as they are"
    paper = "Hu et al. 2021, arXiv 2106.09685"
    family = "changes"
    mask = None
    is_exact = True
    of_adapters = True
