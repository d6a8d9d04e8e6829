"""The native module. Arrays are passed as addresses whose types Python has checked."""

from collections.abc import Callable, Sequence

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

class Plan:
    def __init__(self, has_base: bool) -> None: ...
    def open_to_read(self, path: str) -> int: ...
    def open_to_write(self, path: str, n_bytes: int) -> int: ...
    def write(self, file: int, data: bytes, offset: int) -> None: ...
    def sync(self, file: int) -> None: ...
    def add_job(
        self,
        n_elements: int,
        inputs: Sequence[tuple[int, int, int]],
        outputs: Sequence[tuple[int, int, int]],
        apart: bool = False,
        grain: int = 64,
    ) -> None: ...
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

class UnpackRule:
    def __init__(self, job: int, scale: float) -> None: ...

class UnpackResult:
    @property
    def inputs(self) -> list[list[int]]: ...
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
def unpack(
    plan: Plan,
    rules: Sequence[UnpackRule],
    has_shared: bool,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> list[UnpackResult]: ...

class SparseRule:
    def __init__(self, job: int, values: int, floor: int, n_rows: int) -> None: ...

class SparseTensor:
    def __init__(
        self,
        n_elements: int,
        values: int,
        n_rows: int,
        base: tuple[int, int, int],
        entries: tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]],
        outputs: Sequence[tuple[int, int, int]],
    ) -> None: ...

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

class SparseRead:
    @property
    def base(self) -> list[int]: ...
    @property
    def mask(self) -> list[int]: ...
    @property
    def values(self) -> list[int]: ...
    @property
    def output(self) -> list[int]: ...
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
    entries: Sequence[tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]],
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> list[SparseWritten]: ...
def count_masks(
    plan: Plan,
    tensors: Sequence[SparseTensor],
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> SparseCounts: ...
def unpack_sparse(
    plan: Plan,
    tensors: Sequence[SparseTensor],
    counts: SparseCounts,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> list[SparseRead]: ...
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

class Delta:
    """A task vector of one tensor in memory, which it does not keep alive."""

    @staticmethod
    def zero(n: int, /) -> Delta: ...
    @staticmethod
    def dense(values: int, dtype: int, n: int, /) -> Delta: ...
    @staticmethod
    def masked(shared: int, dtype: int, mask: int, scale: float, n: int, /) -> Delta: ...
    @staticmethod
    def signs(mask: int, magnitude: float, n: int, /) -> Delta: ...
    @staticmethod
    def sparse(mask: int, values: int, dtype: int, n: int, /) -> Delta: ...
    @staticmethod
    def quantized(mask: int, values: int, scales: int, n_rows: int, n: int, /) -> Delta: ...
    @staticmethod
    def replaced(mask: int, values: int, dtype: int, n: int, /) -> Delta: ...
    @property
    def n_kept(self) -> int: ...
    def decode(self, threads: int, out: int, /) -> None: ...

def weighted_sum(
    deltas: Sequence[Delta],
    n: int,
    n_blocks: int,
    threads: int,
    base: int,
    dtype: int,
    factors: int,
    out: int,
    /,
) -> None: ...
def block_dots(
    deltas: Sequence[Delta],
    n: int,
    n_blocks: int,
    threads: int,
    grad: int,
    dtype: int,
    out: int,
    /,
) -> None: ...
def restore(plan: Plan, deltas: Sequence[Delta | None], limits: Limits) -> list[list[int]]: ...
