"""Task vectors of a store in its own encoding, for merges that decode them on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .._core import Source, count_mask
from ..engine.codes import PACKED_BITS
from ..engine.environment import in_float_environment
from ..engine.limits import n_threads
from ..errors import InputError
from ..messages import show
from ..spec.dtypes import DTYPE_CODES
from ..store.opened import Store
from ..store.restoring.task import Restoring
from .arguments import refuse_no_store
from .loading import LoadedTensor, load_task, read, read_decoded
from .masks import unpack_bits


@dataclass(frozen=True)
class EncodedDelta:
    """One tensor of one task's vector; ``weighted_merge`` takes it in place of a dense tensor."""

    shape: torch.Size
    native: Source
    memory: tuple[torch.Tensor, ...]
    """The packed mask, kept values or shared vector that ``native`` decodes; not to be changed."""

    def dense(self) -> torch.Tensor:
        """Return the task vector, float32; every NaN is the quiet positive one."""
        out = torch.empty(self.shape)
        self.native.decode(
            n_elements=out.numel(), threads=torch.get_num_threads(), out=out.data_ptr()
        )
        return out


@in_float_environment
def store_deltas(
    store: Store,
    tasks: Sequence[str] | None = None,
    *,
    mask_lambda: float | None = None,
    threads: int | None = None,
) -> list[dict[str, EncodedDelta]]:
    """Read the task vectors of a store in its own encoding.

    ``weighted_merge`` and ``MergedModule`` take them in place of dense ones. They take about the
    memory of the store's files: the shared vector once for all tasks, and for each task its packed
    masks, or its masks and values.

    An element of a vector is added to the base's in float32, before rounding:

    * tall, emr, magnitude: scale * (mask ? shared : +0);
    * bitdelta: mask ? size : -size;
    * sparse: mask ? value : +0, an int8 value times the scale of its row;
    * sparse with ``density: exact``, dense tensors of bitdelta, and matrices of tsv_c and twin:
      task - base. The rounded sum of base and vector may then differ from ``store.load`` in the
      last place, and each kept element takes four bytes. A float8 base with scales counts as its
      decoded values, rounded to the dtype of the result.

    Args:
        store: An open store.
        tasks: Names of tasks; by default, all.
        mask_lambda: The lambda of one of several candidates.
        threads: The number of threads; by default, all cores.

    Returns:
        For each task, vectors by the names of the tensors that any task of the store changed; the
        vector of a tensor that this task left alone is zero.

    Raises:
        InputError: A task is unknown, something that was read is damaged, or a task changed a
            tensor that is not of a floating-point type.
        StorageError: Reading fails.

    >>> deltas = store_deltas(Store.open("store"))  # doctest: +SKIP
    >>> merged = weighted_merge(base, deltas, coefficients)  # doctest: +SKIP
    """
    refuse_no_store(store)
    shared: dict[str, torch.Tensor] = {}
    return [
        _deltas(store.restoring(task, mask_lambda), shared, n_threads(threads))
        for task in (store.tasks if tasks is None else tasks)
    ]


def _deltas(
    one: Restoring, shared: dict[str, torch.Tensor], threads: int
) -> dict[str, EncodedDelta]:
    one.refuse_other_tensors()
    names = one.manifest.stored
    for name in names:
        if one.is_stored(name) and one.base.tensors[name].dtype not in DTYPE_CODES:
            raise InputError(
                f"{one.path}: task {one.task!r} changed tensor {show(name)}, which is "
                f"{one.base.tensors[name].dtype}, expected a floating-point type; pack without "
                "'density: exact'"
            )
    loaded = load_task(one, shared, threads)
    deltas = {}
    for name in names:
        base = one.base.tensors[name]
        native, memory = Source.zero(), tuple[torch.Tensor, ...]()
        if name in loaded:
            part = loaded[name]
            native, memory = part.delta, part.memory
            if part.replaces:
                values = (
                    read_decoded(base, one.check)
                    if base.is_decoded
                    else read(one, [base], threads)[0]
                )
                native, memory = _difference(part, values)
        deltas[name] = EncodedDelta(torch.Size(base.shape), native, memory)
    return deltas


def _difference(part: LoadedTensor, base: torch.Tensor) -> tuple[Source, tuple[torch.Tensor, ...]]:
    """Return the difference to the base of values that take its place: all, or those in a mask."""
    n = base.numel()
    code = DTYPE_CODES["F32"]
    if len(part.memory) == 1:
        values = part.memory[0].float() - base.float()
        return Source.plain(values=(-1, values.data_ptr(), code)), (values,)
    mask, kept = part.memory
    values = kept.float() - base.reshape(-1)[unpack_bits(mask, n)].float()
    source = Source.sparse(
        values=(-1, values.data_ptr(), code),
        mask=(-1, mask.data_ptr(), PACKED_BITS),
        starts=count_mask(mask=mask.data_ptr(), n_elements=n),
    )
    return source, (mask, values)
