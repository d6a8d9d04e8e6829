"""Plans merges of models, and merges of adapters to an adapter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..recipe.config import MergeConfig
from . import planning
from .plan import MergePlan

if TYPE_CHECKING:
    from ..lora.adapter_plan import AdapterPlan


def plan(
    config: str | os.PathLike[str] | Mapping[str, Any] | MergeConfig,
) -> MergePlan | AdapterPlan:
    """Check a request against the headers of its models and plan the merge.

    No tensor data is read.

    Args:
        config: A recipe file, a mapping or a ``MergeConfig``.

    Returns:
        The plan: the treatment of every tensor, and the places of inputs and outputs. With
        ``adapter_rank`` the plan of an adapter: its targets and their ranks.

    Raises:
        InputError: The merge would fail for a reason that headers can show: tensors that are
            missing, extra or of another shape, types that do not merge, damaged files, parameters
            that do not fit.
    """
    asked = MergeConfig.load(config)
    if asked.adapter_rank is not None:
        from ..lora.adapter_plan import plan_adapters

        return plan_adapters(asked.pinned())
    if asked.stages:
        from .stage_plans import plan_stages

        return plan_stages(asked)
    return planning.plan(asked)
