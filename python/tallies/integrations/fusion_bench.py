"""Run FusionBench's merging functions on the kernels of this package.

Its algorithms, pools of models and programs stay as they are; see docs/hosts.md for the functions.

>>> from tallies.integrations import fusion_bench
>>> fusion_bench.calls()
{'ours': 0}
"""

from __future__ import annotations

from collections.abc import Sequence

from . import _fusion_dicts as dicts
from . import _fusion_matrices as matrices
from . import _fusion_models as models
from . import _fusion_ties as flat
from ._seam import Host, Seam, Source

TIES = "fusion_bench.method.ties_merging.ties_merging_utils"
ARITHMETIC = "fusion_bench.utils.state_dict_arithmetic"
MAGMAX = "fusion_bench.method.magmax.magmax"
ISO = "fusion_bench.method.isotropic_merging.iso_utils"
SUMMED = Source(ARITHMETIC, "state_dict_sum", "355bc309bf3c29ab")


def _seams() -> Sequence[Seam]:
    return (
        Seam(
            *(TIES, "ties_merging", "884f7dd5b1dcafb7", flat.ties_merging),
            copied=(
                Source(TIES, "topk_values_mask", "1ffc688015fd4540"),
                Source(TIES, "resolve_sign", "4fb898e75797a93c"),
                Source(TIES, "resolve_zero_signs", "e1f2ca0cd48c50b2"),
                Source(TIES, "disjoint_merge", "8204aaf8bb8767ba"),
            ),
        ),
        Seam(TIES, "topk_values_mask", "1ffc688015fd4540", flat.topk_values_mask),
        Seam(
            *("fusion_bench.method.tall_mask.utils", "generate_task_masks", "b497bf545a6265ea"),
            flat.generate_task_masks,
            exact=False,
        ),
        Seam(
            "fusion_bench.method.task_arithmetic.task_arithmetic",
            *("TaskArithmeticAlgorithm.run", "fc7d4b7c14845d32", models.task_arithmetic),
            copied=(
                Source(ARITHMETIC, "state_dict_sub", "19f1aaa27f640ca3"),
                Source(ARITHMETIC, "state_dict_add", "e63af2fdc31a733b"),
                Source(ARITHMETIC, "state_dict_mul", "6041444a949aeb72"),
            ),
        ),
        Seam(MAGMAX, "_magmax_select", "6cececcce88fb358", dicts.magmax_select),
        Seam(
            *(MAGMAX, "magmax_merge", "5156e664284b2f2b", models.magmax_merge),
            copied=(
                Source(MAGMAX, "_magmax_select", "6cececcce88fb358"),
                Source(MAGMAX, "_is_float_param", "c9cffa2566f69c6c"),
            ),
        ),
        Seam(
            *(MAGMAX, "MagMaxAlgorithm.run", "304aeb35c39503f7", models.magmax),
            copied=(Source(MAGMAX, "_is_float_param", "c9cffa2566f69c6c"),),
        ),
        Seam(
            *("fusion_bench.method.emr_merging.utils", "emr_merge", "2dee3a02f3320bcd"),
            dicts.emr_merge,
            copied=(
                SUMMED,
                Source("fusion_bench.method.emr_merging.utils", "_sign", "c806b45762b84fa0"),
            ),
        ),
        Seam(ARITHMETIC, "state_dict_sum", SUMMED.digest, dicts.state_dict_sum),
        Seam(ARITHMETIC, "state_dict_avg", "b2a9584f509236b9", dicts.state_dict_avg),
        Seam(
            *(ARITHMETIC, "state_dict_weighted_sum", "141d93fbf382932b"),
            dicts.state_dict_weighted_sum,
        ),
        Seam(ISO, "iso_c", "e4e227ba1c093ca0", matrices.iso_c, exact=False),
        Seam(ISO, "iso_cts", "83de33368e8f550c", matrices.iso_cts, exact=False),
        Seam(
            "fusion_bench.method.task_singular_vector.utils.TSVM_utils",
            *("compute_and_sum_svd_mem_reduction", "a3b270f4cdc155eb", matrices.tsv_m),
            exact=False,
        ),
    )


HOST = Host("fusion_bench", ("0.2.33",), _seams, distribution="fusion-bench")

install = HOST.install
uninstall = HOST.uninstall
installed = HOST.installed
calls = HOST.calls
