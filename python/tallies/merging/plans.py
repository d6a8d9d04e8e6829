"""Plans merges of models, and merges of adapters to an adapter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..lora.adapter_plan import AdapterPlan, plan_adapters
from ..recipe.config import MergeConfig
from . import planning
from .plan import MergePlan
from .stage_plans import plan_stages


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
        return plan_adapters(asked.pinned())
    return plan_stages(asked) if asked.stages else planning.plan(asked)
