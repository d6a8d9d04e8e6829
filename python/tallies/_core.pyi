"""The native module. Arrays are passed as addresses whose types Python has checked."""

from collections.abc import Callable, Sequence

from typing_extensions import Buffer

version: str

def targets() -> list[str]: ...
def target() -> str: ...
def set_target(name: str) -> None: ...
def dtypes() -> list[tuple[str, int]]: ...

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
def keep_sorted_range(
    x: int, out: int, n: int, first: int, last: int, descending: bool, /
) -> int: ...
def tall_mask(delta: int, merged: int, lam: float, out: int, n: int, /) -> None: ...
def consensus_mask(masks: Sequence[int], at_least: int, out: int, n: int, /) -> None: ...
def apply_mask(base: int, shared: int, mask: int, scale: float, out: int, n: int, /) -> None: ...
def low_rank(
    left: int,
    n_rows: int,
    rank: int,
    right: int,
    dtype: int,
    right_stride: int,
    n_columns: int,
    scale: float,
    out: int,
    out_stride: int,
    /,
) -> None: ...
def low_rank_sum(
    base: int,
    dtype: int,
    left: int,
    left_dtype: int,
    right: int,
    right_dtype: int,
    n_rows: int,
    rank: int,
    n_columns: int,
    scale: float,
    out: int,
    threads: int,
    /,
) -> None: ...
def dot(a: int, b: int, n: int, /) -> float: ...
def fingerprint(src: int, n_bytes: int, first: int, /) -> list[int]: ...
def compact(
    unit: int, coding: int, before: int, now: int, n: int, mask: int, values: int, /
) -> int: ...
def encode_gaps(mask: int, n: int, gaps: int, /) -> int: ...
def gap_positions(gaps: int, n_bytes: int, positions: int, /) -> int: ...
def mask_positions(mask: int, n: int, positions: int, /) -> int: ...
def scatter(
    unit: int, coding: int, positions: int, n: int, values: int, elements: int, /
) -> None: ...
def gather(unit: int, positions: int, n: int, elements: int, values: int, /) -> None: ...
def change_all(unit: int, coding: int, values: int, n: int, elements: int, /) -> None: ...
def fingerprint_blocks(
    data: object, *, block_bytes: int, first: int = 0
) -> tuple[list[int], list[int]]:
    """Return the content fingerprint of a buffer, and 32 bits of that of each block."""

def split_fields(
    *, values: object, base: object | None = None, unit: int, fields: int, out: object
) -> None:
    """Write the planes of elements, one after the other."""

def join_fields(
    *,
    planes: Sequence[object],
    base: object | None = None,
    unit: int,
    fields: int,
    out: object,
) -> None:
    """Write the elements of planes, ``unit`` for each block."""

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
def contrast(a: int, b: int, delta: int, n: int, /) -> list[int]: ...
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
def combine_scales(
    dtype: int,
    gate: int,
    vote: int,
    blend: int,
    base: int,
    experts: Sequence[int],
    weights: Sequence[float],
    floors: Sequence[int],
    scales: Sequence[float],
    zero_sign: int,
    outs: Sequence[int],
    others: Sequence[int],
    n: int,
    /,
) -> None:
    """Combine with several scales at once, each of which has an array of results.

    ``others`` is empty, or has an array for each scale: the results that zero votes give with the
    other sign.
    """

class Limits:
    def __init__(
        self,
        n_threads: int,
        buffer_bytes: int,
        tile_bytes: int = ...,
        device_bytes: int = ...,
        worth_bytes: int = ...,
        io: int = ...,
        list_bytes: int = ...,
    ) -> None: ...
    def with_threads(self, n_threads: int) -> Limits:
        """Return these limits with other threads; bytes read directly count together."""
    @property
    def n_threads(self) -> int: ...
    @property
    def buffer_bytes(self) -> int: ...
    @property
    def bytes_direct(self) -> int:
        """Bytes that passes with these limits have read past the page cache."""

    @property
    def device_bytes(self) -> int: ...
    @property
    def list_bytes(self) -> int:
        """Bytes of lists of elements that guessed thresholds leave open; 0 for a default."""

class Slice:
    """Consecutive elements of a job, from a multiple of 64 on; by default up to its end."""

    def __init__(self, *, job: int, first: int = 0, n_elements: int | None = None) -> None: ...

class Unit:
    """Jobs, or slices of jobs, whose numbers are ranked together.

    Args:
        jobs: In the order in which equal magnitudes are preferred.
        ranks: The ranks wanted of each number of an element in turn, from 1 for the largest, 0 for
            none; as often as there are ranks.
        share: Above zero, the ranks are this share of the numbers that are not zero.
    """

    def __init__(
        self, *, jobs: Sequence[int | Slice], ranks: Sequence[int], share: float = 0.0
    ) -> None: ...
    @property
    def slices(self) -> list[tuple[int, int, int]]:
        """Job, first element and number of elements of each; the last 2^64 - 1 for all."""

    @property
    def ranks(self) -> list[int]: ...
    @property
    def share(self) -> float: ...
    def with_ranks(self, *, ranks: Sequence[int]) -> Unit: ...

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

class Round:
    """The counts of one round of a selection over a part of the units; parts add up."""

    def __iadd__(self, other: Round) -> Round: ...
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes) -> Round: ...

class Selection:
    """The state of a selection in rounds, each surveyed in parts on any number of machines.

    Until ``is_done``, give the sum of what ``Plan.survey_round`` finds of all parts to ``learn``.

    Args:
        n_elements: Elements of each unit, over all parts.
        ranks: The ranks wanted of each unit.
        shares: The share of each unit; by default 0.
    """

    def __init__(
        self,
        *,
        n_elements: Sequence[int],
        ranks: Sequence[Sequence[int]],
        shares: Sequence[float] = (),
    ) -> None: ...
    @property
    def is_done(self) -> bool: ...
    def learn(self, *, round: Round) -> None: ...
    def thresholds(self) -> list[list[Threshold]]:
        """Return the thresholds of each unit, without ``last_job`` and ``last_count``."""
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes) -> Selection: ...

class Guesses:
    """Thresholds guessed from a sample, and what the combines that used them have counted.

    ``to_bytes`` keeps the guesses and the counts, but no list of elements: tasks combined before
    stay as they are if their guesses prove right, else all of them is to be combined again.
    """

    @property
    def thresholds(self) -> list[list[Threshold]]:
        """The guesses of each unit: ``bits``, ``rank``, ``last_job`` and ``last_count``."""
    @property
    def is_sure(self) -> list[list[bool]]:
        """True for each threshold that is known already."""
    @property
    def n_sampled(self) -> int:
        """The bytes read for the sample."""
    @property
    def n_listed(self) -> int:
        """The elements that were listed with their inputs, of all combines so far."""
    @property
    def n_repaired(self) -> int:
        """The elements that were combined again from a list."""
    @property
    def n_rounds(self) -> int:
        """The rounds of counting that read all elements of some units once more."""
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes, *, units: Sequence[Unit]) -> Guesses: ...

class CancelledVotes:
    """Lists of elements whose votes cancelled, with the results that the other sign gives.

    They are of all combines that are given them. A tile whose list has no room is not listed.
    """

    def __init__(self, *, list_bytes: int) -> None: ...
    @property
    def n_bytes(self) -> int: ...

class Mended:
    """The outcome for one row of outputs."""

    @property
    def output(self) -> list[int]:
        """The content fingerprint of the ranges that are right now."""
    @property
    def left(self) -> list[tuple[int, int]]:
        """The ranges that were not listed, to be combined again."""
    @property
    def n_listed(self) -> int:
        """The elements that were listed, with either sign."""
    @property
    def n_mended(self) -> int: ...

class Settled:
    """The outcome of guesses."""

    @property
    def thresholds(self) -> list[list[Threshold]]:
        """The exact thresholds of each unit, as ``Plan.select`` finds them."""
    @property
    def is_right(self) -> list[list[bool]]:
        """True for each threshold that was guessed right, cut-off included."""
    @property
    def results(self) -> list[list[CandidateResult | None]]:
        """The results that have changed, by task and candidate; None where the result stands.

        Tasks count through all combines that used the guesses. Results lack the elements to
        combine again.
        """
    @property
    def again(self) -> list[tuple[int, int, int, int]]:
        """The task, candidate, first element and number of elements to combine again."""

class Draw:
    """Drop entries at random, all with one probability: ``chance`` of 2^30 to stay."""

    def __init__(self, *, key: int, chance: int, factor: float = 1.0) -> None: ...

class DropByRank:
    """Drop entries at random, the larger of a row the less likely.

    The smallest magnitude of a row stays with probability ``low``; each next one with ``step``
    more.
    """

    def __init__(
        self,
        *,
        key: int,
        low: float,
        step: float,
        own_factor: bool = False,
        factor: float = 1.0,
    ) -> None: ...

class Band:
    """Drop entries up to a floor or above a ceiling, one pattern higher from the cutoff on."""

    def __init__(
        self,
        *,
        floor: int,
        ceiling: int,
        floor_cutoff: int,
        ceiling_cutoff: int,
        factor: float = 1.0,
    ) -> None: ...

class RowBand:
    """Drop the largest entries of each row, and all but so many of those that follow."""

    def __init__(self, *, n_outliers: int, n_kept: int, factor: float = 1.0) -> None: ...

class Weighed:
    """Multiply entries by the factor of their row or column of ``columns`` elements.

    With a ``floor``, entries with bits(|product|) above it stay as they are, and others become +0.
    """

    def __init__(
        self,
        *,
        factors: Sequence[float],
        columns: int,
        by_column: bool = False,
        floor: int | None = None,
    ) -> None: ...

_Stage = Draw | DropByRank | Band | RowBand | Weighed

class Candidate:
    """The numbers that vary between outputs of one read.

    Args:
        weights: One for each expert, or with a ``row_length`` for each row and expert.
        row_length: Elements of a row, where rows have weights of their own.
        floors: For each expert; entries with bits(|delta|) above the floor pass.
        cutoffs: For each expert the element of the job from which on the floor is one higher.
        scale: Factor on the merged delta.
        divisor: Divisor of a mean.
        zero_sign: Sign that a vote of exactly zero takes, 0 for none.
        majority: Unit whose majority of elected signs takes the place of ``zero_sign``, -1 for
            none.
        searches: In a task with a ``unit`` the search of each expert there, -1 for none. Its
            threshold takes the place of the expert's floor and cutoff. Empty for none at all.
    """

    def __init__(
        self,
        *,
        weights: Sequence[float],
        row_length: int = 0,
        floors: Sequence[int],
        cutoffs: Sequence[int],
        scale: float = 1.0,
        divisor: float = 1.0,
        zero_sign: int = 0,
        majority: int = -1,
        searches: Sequence[int] = (),
    ) -> None: ...

class CombineTask:
    """A slice to merge, one candidate for each output.

    Args:
        job: A job or a slice of one.
        candidates: One for each output of the job.
        stages: For each expert, run before the blend.
        row_length: Elements of a row, where stages need whole rows.
        draws: For each expert, where the gate is random.
        scores: For each expert, where the gate is score.
        agreement: Code of the agreement that scores are measured by.
        lambdas: For each expert, where a consensus masks the merged delta.
        at_least: Experts that must claim an element of the merged delta for it to stay.
        unit: The unit of guesses that has the slice, -1 for none.
    """

    def __init__(
        self,
        *,
        job: int | Slice,
        candidates: Sequence[Candidate],
        stages: Sequence[_Stage] = (),
        row_length: int = 0,
        draws: Sequence[Draw] = (),
        scores: Sequence[tuple[float, float, float, float, float]] = (),
        agreement: int = 0,
        lambdas: Sequence[float] = (),
        at_least: int = 0,
        unit: int = -1,
    ) -> None: ...
    @staticmethod
    def together(
        *,
        tasks: Sequence[CombineTask],
        rules: Sequence[tuple[int, int, int]],
        majorities: Sequence[int],
        job: int | Slice,
        unit: int = -1,
        first_searches: Sequence[int] = (),
    ) -> CombineTask:
        """Return the task of the candidates of several tasks, in their order.

        Args:
            tasks: The tasks, on the same inputs.
            rules: The codes of gate, vote and blend of each.
            majorities: For each, the unit that replaces that of its candidates, if they have one.
            job: A job or a slice of one, with an output for each candidate.
            unit: The unit of guesses that has the slice, -1 for none.
            first_searches: For each task, the search of the unit with which its own begin.
        """

    @property
    def job(self) -> int: ...
    @property
    def first(self) -> int: ...
    @property
    def n_elements(self) -> int | None: ...
    @property
    def unit(self) -> int: ...
    @property
    def majority(self) -> int: ...

class VarianceTask:
    """A slice of whose elements those with a variance above the floor count; all below zero."""

    def __init__(self, *, job: int | Slice, floor: int, cutoff: int) -> None: ...

class StageTask:
    """A slice whose magnitudes are summed before and after its stages."""

    def __init__(
        self, *, job: int | Slice, stages: Sequence[_Stage], row_length: int = 0
    ) -> None: ...

class GramTask:
    """A slice of whose rows inner products are taken."""

    def __init__(self, *, job: int | Slice, row_length: int) -> None: ...

class MatrixTask:
    """A job of whose rows of ``columns`` elements, or of whose columns, numbers are taken."""

    def __init__(self, *, job: int | Slice, columns: int) -> None: ...

class CompareTask:
    """A job whose two inputs are compared: as floats (0), or as stored signed or unsigned integers.

    Codes of ``elements`` are 1 and 2 for integers, of the size of the inputs' dtype.
    """

    def __init__(self, *, job: int | Slice, elements: int = 0) -> None: ...

class Overlap:
    """The entries above a floor that each expert has alone, and those that others have too.

    Parts of one tensor add up; adding or reading other bytes raises ValueError.
    """

    @property
    def alone(self) -> list[int]: ...
    @property
    def shared(self) -> list[int]: ...
    def __iadd__(self, other: Overlap) -> Overlap: ...
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes) -> Overlap: ...

class SquareSums:
    """The exact sum of the squares of each expert's delta; parts of one tensor add up."""

    @property
    def values(self) -> list[float]: ...
    def __iadd__(self, other: SquareSums) -> SquareSums: ...
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes) -> SquareSums: ...

class StageSums:
    """The exact sums of each expert's magnitudes around its stage; parts of a tensor add up."""

    @property
    def before(self) -> list[float]: ...
    @property
    def after(self) -> list[float]: ...
    def __iadd__(self, other: StageSums) -> StageSums: ...
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes) -> StageSums: ...

class Differences:
    """Findings of how two tensors differ; parts of one tensor add up.

    ``sums`` are those of a * a, a * b, b * b and (b - a) squared, over the elements of which both
    values are finite, as are flips of the sign and ``largest``, the largest |b - a|.
    """

    @property
    def n_different(self) -> int: ...
    @property
    def n_nonfinite(self) -> int: ...
    @property
    def n_flips(self) -> int: ...
    @property
    def largest(self) -> float: ...
    @property
    def sums(self) -> list[float]: ...
    def __iadd__(self, other: Differences) -> Differences: ...
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes) -> Differences: ...

class GramRows:
    """The inner products of some rows of a tensor; parts of it add up."""

    def table(self) -> bytes:
        """Return float64 sums row by row, once all parts of the tensor have been added.

        Those of a row are the products of vector i with the vectors up to i, for each i in turn,
        and then, if asked for, each vector's sum of magnitudes.
        """
    def __iadd__(self, other: GramRows) -> GramRows: ...
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes) -> GramRows: ...

class CandidateResult:
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
    def output(self) -> list[int]: ...

class CombineResult:
    @property
    def inputs(self) -> list[list[int]]: ...
    @property
    def candidates(self) -> list[CandidateResult]: ...

Place = tuple[int, int, int]
"""The place of an array: the number of an open file and a byte offset, or -1 and an address; and
the code of its dtype, -1 for packed bits."""

class Starts:
    """Counts of the set bits of a packed mask, by which the values of a sparse array are found."""

    @property
    def n_set(self) -> int: ...

def count_mask(*, mask: int, n_elements: int) -> Starts:
    """Count the bits of a packed mask in memory."""

class StoredRows:
    """The number of a stored row for each row of a tensor."""

    def __init__(self, numbers: Sequence[int]) -> None:
        """Keep the numbers; a negative one stands for a row of zeros."""

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
            replaces: True if `restore` copies the values instead of adding them to the base.
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
    def gathered(
        *, source: Place | Source, rows: StoredRows, columns: int, first_row: int = 0
    ) -> Source:
        """Return the values of a source in other rows.

        Fingerprints are of the stored bytes of these rows, with zeros for rows that have none.

        Args:
            source: Plain or scaled values; each row keeps its scales.
            rows: The row of the source for each row of the tensor.
            columns: The elements of a row.
            first_row: The row of the tensor with which the source begins.
        """
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
    @staticmethod
    def changed(*, source: Place | Source, changes: Sequence[Change], first: int = 0) -> Source:
        """Return a source whose float32 values are changed, by one change after the other.

        Fingerprints of a job's inputs are of the stored bytes of `source`; those of the changes
        are jobs of their own.

        Args:
            source: The values before; zeros for the changes alone.
            changes: One or more.
            first: The element of the changed tensor with which `source` begins.

        Raises:
            ValueError: There are no changes, or the source has some.
        """
    def decode(self, *, n_elements: int, threads: int, out: int) -> None:
        """Write the values of a source in memory to `out`, every NaN the quiet positive one."""

class Change:
    """A step that changes the float32 values of a matrix in row-major order.

    Places are of any dtype. The object does not keep memory alive.
    """

    @staticmethod
    def product(
        *,
        left: Place,
        right: Place,
        rank: int,
        columns: int,
        scale: float = 1.0,
        matrix_rows: int | None = None,
        first_row: int = 0,
        n_rows: int | None = None,
    ) -> Change:
        """Add `scale * (left @ right)`.

        The sum over the rank is in the order of the rank, each product and each sum rounded to
        float32; it is multiplied by the scale, then added.

        Args:
            left: `[rows, rank]`, or `[matrices, matrix_rows, rank]`.
            right: `[rank, columns]`, or `[matrices, rank, columns]`.
            rank: At least 1.
            columns: The elements of a row.
            scale: The factor on the sum.
            matrix_rows: The rows of each matrix of a stack; None for one product.
            first_row: The row of the tensor to which the first row of `left` is added.
            n_rows: The rows of `left`; None for all up to the end of the tensor.
        """
    @staticmethod
    def hadamard(*, a: Change, b: Change, scale: float = 1.0) -> Change:
        """Add `scale * (a * b)`, element by element; `a` and `b` are products.

        Each is `0 + left @ right`; their own scales do not count.
        """
    @staticmethod
    def kronecker(
        *,
        left: Place | Change,
        right: Place | Change,
        left_shape: tuple[int, int],
        right_shape: tuple[int, int],
        scale: float = 1.0,
    ) -> Change:
        """Add `scale * kron(left, right)`; a factor that is a product is `0 + left @ right`."""
    @staticmethod
    def added(*, values: Place, scale: float = 1.0) -> Change:
        """Add `scale * values`, of the tensor's shape."""
    @staticmethod
    def row_factors(*, factors: Place, columns: int) -> Change:
        """Multiply each row of `columns` elements by its factor."""
    @staticmethod
    def column_factors(*, factors: Place, columns: int) -> Change:
        """Multiply the elements of each row by as many factors."""
    @staticmethod
    def rows(
        *,
        indices: Sequence[int],
        values: Place,
        columns: int,
        taken: StoredRows | None = None,
        added: bool = False,
    ) -> Change:
        """Replace the rows of these ascending numbers by those of `values`.

        Args:
            indices: The rows that change, at least one.
            values: Rows, of any dtype.
            columns: The elements of a row.
            taken: The row of `values` for each index; None for all in their order.
            added: True to add rows to those that are there.
        """
    @staticmethod
    def row_divisors(*, indices: Sequence[int], divisors: Place, columns: int) -> Change:
        """Divide the rows of these ascending numbers, each by its divisor."""

class Plan:
    def __init__(self, has_base: bool) -> None: ...
    def open_to_read(self, path: str) -> int: ...
    def open_to_write(self, path: str, n_bytes: int) -> int: ...
    def write(self, file: int, data: bytes, offset: int) -> None: ...
    def close(self, file: int) -> None: ...
    def add_job(
        self,
        n_elements: int,
        inputs: Sequence[Place | Source],
        outputs: Sequence[Place],
        apart: bool = False,
        grain: int = 64,
        rows: Sequence[int] = (),
    ) -> None:
        """Add a job: one tensor, its operands and where the results go.

        Args:
            n_elements: Elements of the tensor.
            inputs: The base, if the plan has one, and the experts. A place alone is a plain source.
            outputs: Places of one dtype that get the same values, or, with `apart`, one for each
                result of a pass.
            apart: True if a pass writes a different result to each output.
            grain: Tiles start on multiples of so many elements, a multiple of 64.
            rows: For each output the number of its result, where some get the same ones.

        Raises:
            InputError: The job has more than 256 experts.
            ValueError: A file is not one of the plan's, a dtype or the grain is not a valid one,
                or the rows of a source do not add up to `n_elements`.
        """

    def hold(self, *, jobs: Sequence[int], n_bytes: int) -> list[int]:
        """Keep what these jobs read from files in memory, from their next whole pass on.

        Passes after that one read it there. All other jobs lose what was kept of them.

        Args:
            jobs: The numbers of the jobs; those that do not fit beside the others are left out.
            n_bytes: The memory that all of them may take.

        Returns:
            The bytes that are kept, of each of the jobs.
        """

    def fill(self, *, limits: Limits, progress: Callable[[int], object] | None = None) -> None:
        """Read what is to be kept now, so that no pass reads it."""

    def select(
        self,
        *,
        units: Sequence[Unit],
        locate: bool,
        limits: Limits,
        progress: Callable[[int], object] | None = None,
        measure: int = 0,
        scores: Sequence[tuple[float, float, float, float, float]] = (),
        agreement: int = 0,
        draws: Sequence[Sequence[_Stage]] = (),
    ) -> list[list[Threshold]]:
        """Return the exact thresholds of each rank of each unit."""
    def guess(
        self,
        *,
        units: Sequence[Unit],
        locate: bool,
        limits: Limits,
        list_bytes: int = 0,
        data: bytes | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Guesses:
        """Guess the thresholds of magnitudes that ``select`` would find, from a sample.

        Give them to ``combine`` with all slices of the units, in one call or several, and then to
        ``settle``.

        Args:
            units: Jobs that are ranked together.
            locate: True if equal magnitudes are to be cut off at the rank.
            limits: Threads and buffers.
            list_bytes: Memory for lists of elements that a guess leaves open; 0 for as much as the
                buffers.
            data: The bytes of guesses of these units to go on from, in the place of a sample.
            progress: Is called with the bytes moved since the last call.
        """
    def settle(
        self,
        *,
        guesses: Guesses,
        limits: Limits,
        progress: Callable[[int], object] | None = None,
        cancelled: CancelledVotes | None = None,
    ) -> Settled:
        """Find the exact thresholds, and make right what was combined with wrong guesses.

        Elements on lists are written once more, by position; others are to be combined ``again``.
        Lists of cancelled votes change with them.
        """
    def survey_round(
        self,
        *,
        units: Sequence[Unit],
        selection: Selection,
        limits: Limits,
        progress: Callable[[int], object] | None = None,
        measure: int = 0,
        scores: Sequence[tuple[float, float, float, float, float]] = (),
        agreement: int = 0,
        draws: Sequence[Sequence[_Stage]] = (),
    ) -> Round:
        """Survey the part of each unit that this plan has for one round of a selection.

        ``units`` has the jobs of each unit of the selection, maybe none, and as many ranks; the
        values of the ranks are those of the selection.
        """
    def count_overlap(
        self,
        *,
        jobs: Sequence[int | Slice],
        floor: int,
        limits: Limits,
        progress: Callable[[int], object] | None = None,
    ) -> list[Overlap]: ...
    def sum_squares(
        self,
        *,
        tasks: Sequence[VarianceTask],
        limits: Limits,
        progress: Callable[[int], object] | None = None,
    ) -> list[SquareSums]: ...
    def combine(
        self,
        *,
        tasks: Sequence[CombineTask],
        gate: int,
        vote: int,
        blend: int,
        fingerprints: bool = False,
        stop_at_overflow: bool = False,
        limits: Limits,
        progress: Callable[[int], object] | None = None,
        guesses: Guesses | None = None,
        votes: Sequence[int] = (),
        cancelled: CancelledVotes | None = None,
    ) -> list[CombineResult]:
        """Merge tasks and write them, one result each.

        With ``guesses``, tasks that name a unit of these take its thresholds and count what proves
        them; an overflow stops no such pass, because a wrong guess may be its cause. With
        ``cancelled``, candidates that take a majority list what ``mend`` needs.
        """
    def mend(
        self,
        *,
        cancelled: CancelledVotes,
        wrong: Sequence[tuple[int, int, Sequence[Sequence[int]]]],
        limits: Limits,
        progress: Callable[[int], object] | None = None,
    ) -> list[Mended]:
        """Write elements with the other sign where cancelled votes took the wrong one.

        ``wrong`` has jobs, rows of their outputs, and the ranges of these that took the wrong sign.
        The lists of the rows are freed.
        """
    def compare(
        self,
        *,
        tasks: Sequence[CompareTask],
        limits: Limits,
        progress: Callable[[int], object] | None = None,
    ) -> list[Differences]: ...
    def gram(
        self,
        *,
        tasks: Sequence[GramTask],
        deltas: bool,
        with_magnitudes: bool,
        limits: Limits,
        progress: Callable[[int], object] | None = None,
    ) -> list[GramRows]: ...
    def divergences(
        self,
        *,
        tasks: Sequence[MatrixTask],
        limits: Limits,
        progress: Callable[[int], object] | None = None,
    ) -> list[list[float]]:
        """Return the divergence of the expert's softmax from the base's, for each row."""
    def column_products(
        self,
        *,
        tasks: Sequence[MatrixTask],
        deltas: bool,
        limits: Limits,
        progress: Callable[[int], object] | None = None,
    ) -> list[list[float]]:
        """Return the inner products of each column, as those of ``gram``; on one thread."""
    def stage_sums(
        self,
        *,
        tasks: Sequence[StageTask],
        limits: Limits,
        progress: Callable[[int], object] | None = None,
    ) -> list[StageSums]: ...
    def fingerprints(self, *, limits: Limits) -> list[list[int]]: ...
    def find_nonfinite(self, *, job: int, input: int, limits: Limits) -> tuple[int, int]: ...

class PackTask:
    """A job whose shared vector, merged by a candidate, and masks are written to its outputs."""

    def __init__(self, *, job: int, shared: Candidate, lambdas: Sequence[float] = ()) -> None: ...

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
    *,
    plan: Plan,
    tasks: Sequence[PackTask],
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

    Inputs of each job are the base and, unless that is written alone, the delta. A delta that
    `replaces` the base is copied bit for bit, and so is a base alone of the output's dtype that is
    not decoded.

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

class Blob:
    """Bytes in native memory, as a buffer."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class FoundChanges:
    """The elements of a slice that differ, in the layout that takes the fewest bytes."""

    @property
    def layout(self) -> int:
        """The code of the layout: 0 for none, 1 for gaps, 2 for a mask, 3 for all elements."""
    @property
    def n_changed(self) -> int: ...
    @property
    def old(self) -> list[int]:
        """The fingerprint of the old elements; those of the slices of a tensor add up."""
    @property
    def new(self) -> list[int]: ...
    @property
    def positions(self) -> Blob:
        """The gaps or the mask; empty where the layout has none."""
    @property
    def values(self) -> Blob:
        """One value for each changed element, or for all, of as many bytes as an element."""
    @property
    def blocks(self) -> bytes:
        """Two numbers of 32 bits for each block: where its positions and its values end."""

def find_changes(
    *,
    plan: Plan,
    slices: Sequence[Slice],
    coding: int,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> list[FoundChanges]:
    """Find the elements that differ in a bit between the two inputs of jobs, in one read.

    The result holds at most the bytes of one input's slices, and a slice in the making as much
    again: callers bound the memory by the slices that they ask for.

    Args:
        plan: Jobs whose inputs are the old and the new tensor, both as they are stored and of
            elements of one size.
        slices: The elements to compare, less than 2^32 in each, from multiples of 64 on.
        coding: The code of the values: 0 for old ^ new, 1 for new - old modulo the size of the
            elements, 2 for new.
        limits: Threads and buffers.
        progress: Called with the bytes read since the last call.

    Raises:
        StorageError: Reading failed.
        ValueError: A slice or a job is another one.
    """

class StoredChanges:
    """Changes of a slice as a patch stores them, which stay as they are while this object lives."""

    def __init__(
        self,
        *,
        layout: int,
        coding: int,
        n_elements: int,
        unit: int,
        positions: Buffer = ...,
        values: Buffer = ...,
        blocks: Buffer = ...,
    ) -> None:
        """Check the bytes, which are those of FoundChanges, and keep the buffers.

        Args:
            layout: The code of the layout.
            coding: The code of the values, as for find_changes, or 3 for old - new, by which
                changes with coding 1 are undone.
            n_elements: The elements of the slice, less than 2^32.
            unit: The bytes of an element: 1, 2, 4 or 8.
            positions: The gaps or the mask.
            values: The values, side by side.
            blocks: The ends of each block.

        Raises:
            InputError: The changes are damaged: positions beyond their block, counts that
                disagree, ends that fall, bytes that lack or are too many.
            ValueError: An argument is another one.
        """

class PatchTask:
    """A slice of a job, and the changes of its elements, one after the other."""

    def __init__(self, *, slice: Slice, chain: Sequence[StoredChanges]) -> None: ...

class Patched:
    @property
    def old(self) -> list[int]:
        """The fingerprint of the old elements; those of the slices of a tensor add up."""
    @property
    def new(self) -> list[int]: ...
    @property
    def old_values(self) -> list[Blob]:
        """The old elements at the positions of each of the changes, in their order.

        As changes of the same layout and positions with coding 2 they bring the old elements back,
        whichever of the changes were made.
        """
    @property
    def new_values(self) -> list[Blob]:
        """The elements that the whole chain makes there, likewise."""

def apply_changes(
    *,
    plan: Plan,
    tasks: Sequence[PatchTask],
    limits: Limits,
    with_old: bool = True,
    with_new: bool = True,
    with_values: bool = False,
    progress: Callable[[int], object] | None = None,
) -> list[Patched]:
    """Write tensors with their changes, each chain in one read.

    The output may be the input. In memory, elements that no change names are then neither read
    nor written, unless for fingerprints; in a file, only pages with a changed element are written.

    Args:
        plan: Jobs with one input, as it is stored, and one output of elements of the same size.
            Without an output nothing is written, and the rest is found.
        tasks: The slices to write, from multiples of 64 on, and their changes.
        limits: Threads and buffers.
        with_old: Take the fingerprint of the old elements on the way.
        with_new: Take the fingerprint of the new elements on the way.
        with_values: Keep what changes overwrite and what the chain makes there, each as many bytes
            as the changes have values.
        progress: Called with the bytes moved since the last call.

    Raises:
        StorageError: Reading or writing failed.
        ValueError: A slice or a job is another one.
    """

def read_delta(
    plan: Plan,
    job: int,
    expert: int,
    out: int,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
    first: int = 0,
    n_elements: int | None = None,
) -> tuple[list[list[int]], bool]: ...
def write_merged(
    plan: Plan,
    job: int,
    merged: int,
    scale: float,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
    first: int = 0,
    n_elements: int | None = None,
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
