"""The native module. Arrays are passed as addresses whose types Python has checked."""

from collections.abc import Callable, Sequence

version: str

def targets() -> list[str]: ...
def target() -> str: ...
def set_target(name: str) -> None: ...

class FloatEnvironment:
    """Round to nearest, keep subnormals and trap no exception in a ``with`` block."""

    def __init__(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *problem: object) -> None: ...

def cuda_problem() -> str: ...
def cuda_devices() -> list[tuple[str, str, int, int]]: ...
def link_rate() -> float: ...
def merge_rate(gate: int, vote: int, blend: int, n_experts: int, /) -> float: ...
def widen(src: int, dtype: int, out: int, n: int, /) -> None: ...
def narrow(src: int, out: int, dtype: int, n: int, /) -> None: ...
def elect_signs(
    deltas: Sequence[int],
    weights: Sequence[float],
    by_count: bool,
    zero_sign: int,
    out: int,
    n: int,
    /,
) -> int: ...
def disjoint_merge(
    deltas: Sequence[int], weights: Sequence[float], signs: int, blend: int, out: int, n: int, /
) -> None: ...
def drop(x: int, n: int, key: int, first: int, chance: int, factor: float, /) -> None: ...
def magnitude_mask(x: int, floor: int, out: int, n: int, /) -> None: ...
def tall_mask(delta: int, merged: int, lam: float, out: int, n: int, /) -> None: ...
def consensus_mask(masks: Sequence[int], at_least: int, out: int, n: int, /) -> None: ...
def apply_mask(base: int, shared: int, mask: int, scale: float, out: int, n: int, /) -> None: ...
def dot(a: int, b: int, n: int, /) -> float: ...
def fingerprint(src: int, n_bytes: int, first: int, /) -> list[int]: ...
def survey(
    dtype: int,
    base: int,
    expert: int,
    n: int,
    low: int,
    high: int,
    interior: int,
    is_dense: bool,
    /,
) -> list[int]: ...
def rules() -> list[tuple[str, str, str]]: ...
def combine(
    dtype: int,
    gate: int,
    vote: int,
    blend: int,
    base: int,
    experts: Sequence[int],
    weights: Sequence[float],
    floors: Sequence[int],
    scale: float,
    zero_sign: int,
    out: int,
    n: int,
    /,
) -> None: ...

class Limits:
    def __init__(
        self, n_threads: int, buffer_bytes: int, tile_bytes: int = ..., device_bytes: int = ...
    ) -> None: ...
    @property
    def n_threads(self) -> int: ...
    @property
    def buffer_bytes(self) -> int: ...

class Unit:
    def __init__(self, jobs: Sequence[int], ranks: Sequence[int], share: float = 0.0) -> None: ...

class Threshold:
    @property
    def bits(self) -> int: ...
    @property
    def n_above(self) -> int: ...
    @property
    def n_equal(self) -> int: ...
    @property
    def largest(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def last_job(self) -> int: ...
    @property
    def last_count(self) -> int: ...

class StageRule:
    def __init__(
        self,
        *,
        factor: float = 1.0,
        key: int = 0,
        chance: int = 1 << 30,
        low: float = 0.0,
        step: float = 0.0,
        own_factor: bool = False,
        floor: int = 0,
        ceiling: int = 0,
        floor_cutoff: int = 0,
        ceiling_cutoff: int = 0,
        n_outliers: int = 0,
        n_kept: int = 0,
    ) -> None: ...

class JobRule:
    def __init__(
        self,
        job: int,
        first: int,
        n_elements: int,
        weights: Sequence[float],
        floors: Sequence[int],
        cutoffs: Sequence[int],
        scale: float,
        divisor: float,
        zero_sign: int,
        majority: int,
        lambdas: Sequence[float] = (),
        at_least: int = 0,
        stages: Sequence[StageRule] = (),
        row_length: int = 0,
        scores: Sequence[tuple[float, float, float, float, float]] = (),
        agreement: int = 0,
    ) -> None: ...

class Overlap:
    @property
    def alone(self) -> list[int]: ...
    @property
    def shared(self) -> list[int]: ...

class JobResult:
    @property
    def sign_sum(self) -> int: ...
    @property
    def conflicts(self) -> int: ...
    @property
    def cancellations(self) -> int: ...
    @property
    def overflow(self) -> bool: ...
    @property
    def plus(self) -> tuple[list[tuple[int, int]], list[int]]: ...
    @property
    def minus(self) -> tuple[list[tuple[int, int]], list[int]]: ...
    @property
    def inputs(self) -> list[list[int]]: ...
    @property
    def output(self) -> list[int]: ...

Place = tuple[int, int, int]
"""Where an array lies: the number of an open file and a byte offset, or -1 and an address; and the
code of its dtype, -1 for packed bits."""

class Starts:
    """Counts of the set bits of a packed mask, by which the values of a sparse array are found."""

    @property
    def n_set(self) -> int: ...

def count_mask(*, mask: int, n_elements: int) -> Starts:
    """Count the bits of a packed mask in memory."""

class Source:
    """An operand of a job: places of arrays, and how float32 values are made of them.

    The object does not keep memory alive. Masks are packed: bit `i % 8` of byte `i // 8` is
    element `i`.
    """

    @staticmethod
    def plain(*, values: Place, replaces: bool = False) -> Source:
        """Return the values as they are, of any dtype.

        Args:
            values: Place of the values.
            replaces: Whether `restore` copies the values instead of adding them to the base.
        """
    @staticmethod
    def scaled(
        *,
        values: Place,
        scales: Place,
        row_length: int | None = None,
        block_rows: int | None = None,
        block_columns: int | None = None,
    ) -> Source:
        """Return `value * scale`: both in float32, the product rounded once.

        A scale belongs to the whole tensor (only `values` and `scales` given), or to a block of
        `block_rows` rows and `block_columns` columns of a matrix with rows of `row_length`
        elements. None stands for all rows, or all columns, so that a scale for each row is
        `row_length=n, block_rows=1`, and DeepSeek's are
        `row_length=n, block_rows=128, block_columns=128`. The last block of a row or column may be
        smaller. Scales lie block by block in row-major order: an array of shape
        `[ceil(rows / block_rows), ceil(row_length / block_columns)]`.

        Args:
            values: Place of the values, of any dtype.
            scales: Place of the scales: float32, bfloat16 or float16; in any file of the plan.
            row_length: Elements of a row, that is of the last dimension.
            block_rows: Rows that share a scale.
            block_columns: Elements of a row that share a scale.

        Fingerprints of a job's inputs are of the stored bytes of the values; those of the scales
        are a job of their own.

        Raises:
            ValueError: The dtype of the scales is another, a length is 0, or blocks are given
                without `row_length`.
        """
    @staticmethod
    def zero() -> Source:
        """Return zeros."""
    @staticmethod
    def masked(*, values: Place, mask: Place, scale: float) -> Source:
        """Return `scale * (mask ? value : +0)`."""
    @staticmethod
    def signs(*, mask: Place, scale: float) -> Source:
        """Return `mask ? scale : -scale`."""
    @staticmethod
    def sparse(*, values: Place, mask: Place, starts: Starts, replaces: bool = False) -> Source:
        """Return `mask ? the next value : +0`.

        With `replaces`, `restore` copies the values to where the mask is set and the base to all
        other elements.
        """
    @staticmethod
    def quantized(
        *, values: Place, mask: Place, scales: Place, starts: Starts, row_length: int
    ) -> Source:
        """Return `mask ? the next int8 value * the float32 scale of its row : +0`."""
    def decode(self, *, n_elements: int, threads: int, out: int) -> None:
        """Write the values of a source in memory to `out`, every NaN the quiet positive one."""

class Plan:
    def __init__(self, has_base: bool) -> None: ...
    def open_to_read(self, path: str) -> int: ...
    def open_to_write(self, path: str, n_bytes: int) -> int: ...
    def write(self, file: int, data: bytes, offset: int) -> None: ...
    def sync(self, file: int) -> None: ...
    def add_job(
        self,
        n_elements: int,
        inputs: Sequence[Place | Source],
        outputs: Sequence[Place],
        apart: bool = False,
        grain: int = 64,
    ) -> None:
        """Add a job: one tensor, its operands and where the results go.

        Args:
            n_elements: Elements of the tensor.
            inputs: The base, if the plan has one, and the experts. A place alone is a plain source.
            outputs: Places of one dtype that get the same values, or, with `apart`, one for each
                result of a pass.
            apart: Whether a pass writes a different result to each output.
            grain: Tiles start on multiples of so many elements, a multiple of 64.

        Raises:
            InputError: The job has more than 256 experts.
            ValueError: A file is not one of the plan's, a dtype or the grain is not a valid one,
                or the rows of a source do not add up to `n_elements`.
        """

    def select(
        self,
        units: Sequence[Unit],
        locate: bool,
        limits: Limits,
        progress: Callable[[int], object] | None = None,
        measure: int = 0,
        scores: Sequence[tuple[float, float, float, float, float]] = (),
        agreement: int = 0,
        draws: Sequence[Sequence[StageRule]] = (),
    ) -> list[list[Threshold]]: ...
    def count_overlap(
        self,
        jobs: Sequence[int],
        floor: int,
        limits: Limits,
        progress: Callable[[int], object] | None = None,
    ) -> list[Overlap]: ...
    def sum_squares(
        self,
        rules: Sequence[JobRule],
        limits: Limits,
        progress: Callable[[int], object] | None = None,
    ) -> list[list[float]]: ...
    def combine(
        self,
        rules: Sequence[JobRule],
        gate: int,
        vote: int,
        blend: int,
        fingerprints: bool,
        stop_at_overflow: bool,
        limits: Limits,
        progress: Callable[[int], object] | None = None,
        stage: int = 0,
    ) -> list[JobResult]: ...
    def gram(
        self,
        rows: Sequence[tuple[int, int]],
        deltas: bool,
        with_magnitudes: bool,
        limits: Limits,
        progress: Callable[[int], object] | None = None,
    ) -> list[bytes]: ...
    def stage_sums(
        self,
        rules: Sequence[JobRule],
        stage: int,
        limits: Limits,
        progress: Callable[[int], object] | None = None,
    ) -> list[tuple[list[float], list[float]]]: ...
    def fingerprints(self, limits: Limits) -> list[list[int]]: ...
    def find_nonfinite(self, job: int, input: int, limits: Limits) -> tuple[int, int]: ...

class PackRule:
    def __init__(self, shared: JobRule, lambdas: Sequence[float]) -> None: ...

class PackResult:
    @property
    def conflicts(self) -> int: ...
    @property
    def overflow(self) -> bool: ...
    @property
    def inputs(self) -> list[list[int]]: ...
    @property
    def outputs(self) -> list[list[int]]: ...
    @property
    def n_set(self) -> list[int]: ...
    @property
    def sums(self) -> list[float]: ...
    @property
    def sums_in_mask(self) -> list[float]: ...

class Restored:
    """One restored tensor: content fingerprints, and whether a value overflowed its dtype."""

    @property
    def inputs(self) -> list[list[int]]:
        """Eight sums for each array of the job, in order; zeros for arrays of scales."""
    @property
    def output(self) -> list[int]: ...
    @property
    def overflow(self) -> bool: ...

def pack(
    plan: Plan,
    rules: Sequence[PackRule],
    shared: tuple[int, int, int] | None,
    mask: int,
    with_sums: bool,
    stop_at_overflow: bool,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> list[PackResult]: ...
def restore(
    plan: Plan, limits: Limits, progress: Callable[[int], object] | None = None
) -> list[Restored]:
    """Write base + delta of every job of a plan, added in float32 and rounded once.

    Inputs of each job are the base and, unless the output is a copy, the delta. A delta that
    `replaces` the base is copied bit for bit.

    Raises:
        StorageError: Reading or writing failed, or the mask of a sparse delta has other bits than
            were counted.
        ValueError: A job has other inputs, or no output.
    """

class SparseRule:
    def __init__(self, job: int, values: int, floor: int, row_length: int) -> None: ...

class SparseCounts:
    @property
    def n_set(self) -> list[int]: ...
    @property
    def nonfinite(self) -> list[bool]: ...

class SparseWritten:
    @property
    def inputs(self) -> list[list[int]]: ...
    @property
    def mask(self) -> list[int]: ...
    @property
    def overflow(self) -> bool: ...

def count_sparse(
    plan: Plan,
    rules: Sequence[SparseRule],
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> SparseCounts: ...
def pack_sparse(
    plan: Plan,
    rules: Sequence[SparseRule],
    counts: SparseCounts,
    entries: Sequence[tuple[Place, Place, Place]],
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> list[SparseWritten]: ...
def count_masks(
    plan: Plan,
    masks: Sequence[tuple[int, Place]],
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> list[Starts]:
    """Count the bits of packed masks, each given by its number of elements and its place."""

def read_delta(
    plan: Plan,
    job: int,
    expert: int,
    out: int,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> tuple[list[list[int]], bool]: ...
def write_merged(
    plan: Plan,
    job: int,
    merged: int,
    scale: float,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> tuple[list[int], bool]: ...
def weighted_sum(
    deltas: Sequence[Source],
    n_elements: int,
    n_blocks: int,
    threads: int,
    base: int,
    dtype: int,
    factors: int,
    out: int,
) -> None: ...
def block_dots(
    deltas: Sequence[Source],
    n_elements: int,
    n_blocks: int,
    threads: int,
    grad: int,
    dtype: int,
    out: int,
) -> None: ...
