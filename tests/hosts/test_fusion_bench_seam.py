"""FusionBench's functions on our kernels: its own bits, or its own function."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import types
from collections import UserDict

import pytest
import torch
from fusion_bench.method.emr_merging import emr_merging
from fusion_bench.method.isotropic_merging import iso_utils
from fusion_bench.method.magmax import magmax
from fusion_bench.method.tall_mask import utils as tall
from fusion_bench.method.task_arithmetic import TaskArithmeticAlgorithm
from fusion_bench.method.task_singular_vector.utils import TSVM_utils
from fusion_bench.method.ties_merging import TiesMergingAlgorithm, ties_merging_utils
from fusion_bench.modelpool import BaseModelPool
from fusion_bench.utils import state_dict_arithmetic as arithmetic

from tallies.integrations import fusion_bench
from tests.support.host_data import KINDS, flattened, normal, same_bits, task_vectors

LENGTHS = (1, 32, 257)
WEIGHTS = (0.3, 1, -2, 0, 0.7, 1, 1.1, 3)
TIES = "fusion_bench.method.ties_merging.ties_merging_utils.ties_merging"


def outcome(function, *arguments, **keywords):
    """Return a call's result on copies of its arguments, or the type of its error."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return function(*copy.deepcopy(arguments), **keywords)
        except Exception as error:
            return type(error)


def small_model(row, count: int) -> torch.nn.Module:
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(row.clone())
    model.register_buffer("count", torch.tensor(count))
    model.register_buffer("halves", row.bfloat16())
    return model


def calls_of(x, base):
    """Yield functions of the host and arguments for task vectors [N, D]."""
    n = len(x)
    for share in (0, 0.2, 50, 99.99, 1):
        for merge_func in ("sum", "mean", "max"):
            yield ties_merging_utils, "ties_merging", (x, share, merge_func)
        yield ties_merging_utils, "topk_values_mask", (x, share, True)
        yield ties_merging_utils, "topk_values_mask", (x.half(), share)
        yield ties_merging_utils, "topk_values_mask", (x[0], share)
    yield ties_merging_utils, "ties_merging_split", (x, 0.3, "sum")
    dicts = [{"a": row, "b": row[:1].clone()} for row in x]
    yield arithmetic, "state_dict_sum", ([{**one, "i": torch.tensor([3])} for one in dicts],)
    yield arithmetic, "state_dict_avg", (dicts,)
    yield arithmetic, "state_dict_weighted_sum", (dicts, list(WEIGHTS[:n]))
    yield emr_merging, "emr_merge", (dicts,)
    for scale in (0.3, 1, -2):
        pool = {f"m{i}": small_model(row, 5 + i) for i, row in enumerate(x)}
        algorithm = TaskArithmeticAlgorithm(scaling_factor=scale)
        yield TaskArithmeticAlgorithm, "run", (algorithm, {"_pretrained_": base, **pool})
        algorithm = magmax.MagMaxAlgorithm(scaling_factor=scale)
        yield magmax.MagMaxAlgorithm, "run", (algorithm, {"_pretrained_": base, **pool})
        yield magmax, "magmax_merge", (base, [*pool.values()], scale)
    yield magmax, "_magmax_select", (dicts,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_results_have_the_bits_of_the_host(kind, n):
    n_ours = 0
    for length in LENGTHS:
        x = task_vectors(kind, n, (length,), seed=n * length)
        base = small_model(task_vectors(normal, 1, (length,), seed=99)[0], 5)
        calls = [*calls_of(x, base)]
        expected = [outcome(getattr(home, name), *arguments) for home, name, arguments in calls]
        with fusion_bench.installed():
            found = [outcome(getattr(home, name), *arguments) for home, name, arguments in calls]
            n_ours += fusion_bench.calls()["ours"]
        for call, ours, theirs in zip(calls, found, expected, strict=True):
            if isinstance(theirs, type):
                assert ours is theirs, call[1]
            else:
                assert same_bits(ours, theirs), call[1]
    assert n_ours > 0


@pytest.mark.parametrize(
    ("rows", "arguments", "reason"),
    [
        (task_vectors(normal, 5, (33,)), (0.2, "sum"), "order of sums"),
        (task_vectors(normal, 18, (32,)), (0.2, "sum"), "order of sums"),
        (task_vectors(normal, 3, (32,)).double(), (0.2, "sum"), "dtype"),
        (task_vectors(normal, 3, (32,)).bfloat16(), (0.2, "sum"), "dtype"),
        (task_vectors(normal, 3, (32,)).fill_(torch.nan), (0.2, "sum"), "not finite"),
        (task_vectors(normal, 3, (32,)).requires_grad_(), (0.2, "sum"), "gradients"),
        (torch.tensor([[1.0, -1], [-1, 1]]), (0.2, "max"), "no majority"),
    ],
)
def test_calls_that_are_not_ours_are_counted_by_reason(rows, arguments, reason):
    expected = outcome(ties_merging_utils.ties_merging, rows.detach(), *arguments)
    with fusion_bench.installed(), contextlib.redirect_stdout(io.StringIO()):
        found = ties_merging_utils.ties_merging(rows, *arguments)
        counted = fusion_bench.calls(TIES)
    assert counted == {"ours": 0, reason: 1}
    assert same_bits(found.detach(), expected)


def test_a_host_that_fails_fails_with_its_own_error():
    with fusion_bench.installed():
        assert (
            outcome(ties_merging_utils.ties_merging, torch.ones(2, 8), 100, "sum") is RuntimeError
        )
        assert outcome(ties_merging_utils.ties_merging, torch.ones(2, 8), 0.2, "low") is ValueError
        assert fusion_bench.calls(TIES) == {"ours": 0, "density": 1, "arguments": 1}


@pytest.mark.parametrize("merge_func", ["sum", "mean", "max"])
def test_its_algorithm_of_whole_models_has_its_bits(merge_func):
    rows = task_vectors(normal, 3, (64, 32), seed=4)
    base = torch.nn.Linear(32, 64)
    pool = {"_pretrained_": base}
    for i, row in enumerate(rows):
        pool[f"m{i}"] = copy.deepcopy(base)
        pool[f"m{i}"].weight.data += row
    algorithm = TiesMergingAlgorithm(
        scaling_factor=0.3, threshold=20, remove_keys=[], merge_func=merge_func
    )
    expected = outcome(algorithm.run, pool)
    with fusion_bench.installed():
        found = outcome(algorithm.run, pool)
        assert fusion_bench.calls(TIES) == {"ours": 1}
    assert same_bits(found, expected)


def matrices():
    rows = task_vectors(normal, 4, (48, 24), seed=7)
    return [{"w": row, "b": row[0].clone(), "text": row.T.clone()} for row in rows]


@pytest.mark.parametrize(
    ("home", "name", "arguments"),
    [
        (iso_utils, "iso_c", ("cpu",)),
        (iso_utils, "iso_c", ("cpu", ["text"])),
        (iso_utils, "iso_cts", (0.8, "cpu")),
        (iso_utils, "iso_cts", (0.5, "cpu", ["text"])),
        (TSVM_utils, "compute_and_sum_svd_mem_reduction", (["text"], "cpu")),
    ],
)
def test_methods_of_matrices_are_ours_where_rounding_may_differ(home, name, arguments):
    dicts = matrices()
    expected = outcome(getattr(home, name), dicts, *arguments)
    with fusion_bench.installed():
        assert same_bits(outcome(getattr(home, name), dicts, *arguments), expected)
        assert fusion_bench.calls() == {"ours": 0, "within rounding only": 1}
    with fusion_bench.installed(exact=False):
        found = outcome(getattr(home, name), dicts, *arguments)
        assert fusion_bench.calls() == {"ours": 1}
    exact = [{key: value.double() for key, value in one.items()} for one in dicts]
    truth = outcome(getattr(home, name), exact, *arguments)
    for ours, theirs, true in zip(*map(flattened, (found, expected, truth)), strict=True):
        off, their_off = (torch.linalg.vector_norm(one - true) for one in (ours, theirs))
        assert off <= 2 * their_off + 1e-7 * torch.linalg.vector_norm(true)


def test_tall_masks_are_ours_where_rounding_may_differ():
    rows = task_vectors(normal, 3, (1000,), seed=3)
    base = task_vectors(normal, 1, (1000,), seed=8)[0]
    expected = outcome(tall.generate_task_masks, rows, rows + base, base, None, 0.4)
    with fusion_bench.installed(exact=False):
        found = outcome(tall.generate_task_masks, rows, rows + base, base, None, 0.4)
        assert fusion_bench.calls() == {"ours": 1}
    distance = (rows.abs() - (rows.sum(0) - rows).abs() * 0.4).abs()
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert torch.equal(found[distance > 1e-5], expected[distance > 1e-5])


def test_inexact_ties_takes_half_precision():
    rows = task_vectors(normal, 3, (256,), seed=5).bfloat16()
    wide = outcome(ties_merging_utils.ties_merging, rows.float(), 0.2, "mean")
    with fusion_bench.installed(exact=False):
        found = outcome(ties_merging_utils.ties_merging, rows, 0.2, "mean")
        assert fusion_bench.calls(TIES) == {"ours": 1}
    assert same_bits(found, wide.bfloat16())


class Doubled(BaseModelPool):
    def load_model(self, name, *arguments, **keywords):
        model = copy.deepcopy(super().load_model(name, *arguments, **keywords))
        if name != "_pretrained_":
            model.w.data *= 2
        return model


class First(BaseModelPool):
    @property
    def model_names(self):
        return ["m0"]


class Reversed(BaseModelPool):
    @staticmethod
    def is_special_model(model_name):
        return model_name != "m1"


def models_by(names):
    rows = task_vectors(normal, len(names), (33,), seed=8)
    return {name: small_model(row, 5) for name, row in zip(names, rows, strict=True)}


@pytest.mark.parametrize("algorithm", [TaskArithmeticAlgorithm, magmax.MagMaxAlgorithm])
@pytest.mark.parametrize(
    ("kind", "names", "n_ours"),
    [
        (dict, ("m0", "_pretrained_", "m1"), 1),
        (BaseModelPool, ("_pretrained_", "m0", "m1"), 1),
        (BaseModelPool, ("_pretrained_", "_m0", "m1_", "_other_", "_"), 1),
        (dict, ("_pretrained_", "_m0"), 1),
        (Doubled, ("_pretrained_", "m0", "m1"), 0),
        (First, ("_pretrained_", "m0", "m1"), 0),
        (Reversed, ("_pretrained_", "m0", "m1"), 0),
    ],
)
def test_pools_name_and_load_their_models(algorithm, kind, names, n_ours):
    label = f"{algorithm.__module__}.{algorithm.__name__}.run"
    expected = outcome(algorithm(scaling_factor=0.5).run, kind(models_by(names)))
    with fusion_bench.installed():
        found = outcome(algorithm(scaling_factor=0.5).run, kind(models_by(names)))
        assert fusion_bench.calls(label) == ({"ours": 1} if n_ours else {"ours": 0, "pool": 1})
    assert same_bits(found, expected)


@pytest.mark.parametrize("on_class", [True, False])
@pytest.mark.parametrize("algorithm", [TaskArithmeticAlgorithm, magmax.MagMaxAlgorithm])
def test_a_pool_whose_methods_are_replaced_is_the_hosts(algorithm, on_class, monkeypatch):
    original = BaseModelPool.load_model

    def run():
        pool = BaseModelPool(models_by(("_pretrained_", "m0", "m1")))

        def load_first(self, name):
            return original(self, "m0" if name == "m1" else name)

        if on_class:
            monkeypatch.setattr(BaseModelPool, "load_model", load_first)
        else:
            pool.load_model = functools.partial(load_first, pool)
        return algorithm(scaling_factor=0.5).run(pool)

    expected = outcome(run)
    monkeypatch.undo()
    with fusion_bench.installed():
        assert same_bits(outcome(run), expected)
        assert fusion_bench.calls()["pool"] == 1


@pytest.mark.parametrize(
    ("home", "name", "others"),
    [
        (arithmetic, "state_dict_sum", ()),
        (arithmetic, "state_dict_avg", ()),
        (arithmetic, "state_dict_weighted_sum", ([0.3, 0.7],)),
        (emr_merging, "emr_merge", ()),
        (magmax, "_magmax_select", ()),
    ],
)
def test_mappings_that_are_no_dicts_are_the_hosts(home, name, others):
    dicts = [UserDict({"a": row}) for row in task_vectors(normal, 2, (33,))]
    for arguments in ((dicts, *others), (types.MappingProxyType({"a": torch.ones(3)}), *others)):
        expected = outcome_of(home, name, arguments)
        with fusion_bench.installed():
            assert same_bits(outcome_of(home, name, arguments), expected)
            assert fusion_bench.calls()["ours"] == 0


def outcome_of(home, name, arguments):
    """Return a call's result, or the type of its error, without copies of its arguments."""
    try:
        return getattr(home, name)(*arguments)
    except Exception as error:
        return torch.tensor([ord(letter) for letter in type(error).__name__])


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_tensors_that_are_mapped_are_the_hosts():
    rows, other = task_vectors(normal, 3, (33,)), torch.ones(33)

    def total(one):
        return arithmetic.state_dict_sum([{"a": one}, {"a": other}])["a"]

    def run():
        return torch.vmap(total)(rows), torch.func.jvp(total, (rows[0],), (rows[1],))

    expected = run()
    with fusion_bench.installed(exact=False):
        assert same_bits(run(), expected)
        assert fusion_bench.calls()["ours"] == 0
