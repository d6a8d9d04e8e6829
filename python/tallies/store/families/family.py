"""The contract of a family: a kind of codec, and how its tensors are packed and restored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from ..._core import Change, Limits, Source
from ...checkpoint.layout import Entry, tensor_bytes
from ...checkpoint.tensors import TensorInfo
from ...engine.files import Place, PlanFiles
from ...errors import InputError
from ...messages import show
from ..codecs._codec import Codec, SharedDType
from .job import PackJob

Moved: TypeAlias = Callable[[int], object]
"""Called with the bytes moved since the last call."""


@dataclass(frozen=True)
class StoredTask:
    """One task of a store, as its family reads it."""

    store: Path
    """The directory of the store."""
    base: Mapping[str, TensorInfo]
    own: Mapping[str, TensorInfo]
    """Tensors of the task's own file."""
    shared: Mapping[str, TensorInfo]
    """Tensors of the shared file; empty where nothing is shared."""
    scale: float
    """The task's factor on the shared vector."""
    forms: Mapping[str, tuple[str, tuple[int, ...]]]
    """Dtype and shape of the tensors that the base lacks or has in another form."""
    check: Callable[[TensorInfo, Sequence[int]], None]
    """Raises InputError for a tensor whose content fingerprint is not the packed one."""

    def restored(self, name: str) -> TensorInfo:
        """Return a tensor of the task in the form in which it is restored, without a place."""
        if name not in self.forms:
            return self.base[name]
        dtype, shape = self.forms[name]
        return TensorInfo(name, dtype, shape, Path(), 0, tensor_bytes((name, dtype, shape)))


@dataclass(frozen=True)
class Encoded:
    """The native source that makes one tensor of a task from the base's."""

    delta: Source
    replaces: bool = False
    """True if decoded values replace the base's, bit for bit; otherwise they are added."""
    mask_scale: float | None = None
    """For a mask and the shared vector alone: the factor of the vector where the mask is set."""
    changes: tuple[Change, ...] = ()
    """For adapters: changes of the base's values, of which ``delta`` is the sum.

    Each is rounded as it is made, so that base and sum may differ from them in the last place.
    """
    products: tuple[tuple[int, int, float], ...] = ()
    """The same changes, if each is the product of two matrices for all rows: their numbers among
    the tensors in memory, and the scale."""


class Family(ABC):
    """Packs and restores the tensors of one kind of codec.

    A subclass in a module of ``tallies.store.families`` is a family; codecs name it in their
    ``family``. Packing, restoring and switching know this contract and nothing else of a codec.

    Args:
        codec: A codec of this family.
        parameters: All parameters of the codec by name.
    """

    name: ClassVar[str]
    reads_decoded: ClassVar[bool] = False
    """True if tensors with scales, and a base that adapters change, are packed and restored."""
    kind: ClassVar[str]
    """The manifest's word for a tensor that this family encodes."""

    def __init__(self, codec: type[Codec], parameters: Mapping[str, Any]) -> None:
        self.codec = codec
        self.parameters = parameters

    @property
    def has_shared(self) -> bool:
        """True if all tasks share a vector, so that a task depends on the others."""
        return self.codec.shared_rule(self.parameters) is not None

    @property
    def stores_equal_once(self) -> bool:
        """True if a tensor that two tasks have alike is in the file of one of them alone."""
        return False

    def parts(self, name: str) -> list[str]:
        """Return the entries that encode a tensor, in families that store equal ones once."""
        return [name]

    @property
    def reads_adapters(self) -> bool:
        """True if tensors that the adapters of a task change are packed."""
        return True

    def check_request(self, tensors: Sequence[TensorInfo], max_memory: int) -> None:  # noqa: B027
        """Refuse tensors of the base that cannot be packed, before anything is written.

        Raises:
            InputError: A tensor does not fit into ``max_memory`` bytes, or a package is missing.
        """

    @abstractmethod
    def entries(self, tensor: TensorInfo) -> list[Entry]:
        """Return the tensors that a task's file holds of one tensor of the base.

        The first has the name of the tensor: the file of a task that left the tensor alone lacks
        this name. A family that learns sizes from the values returns the entries of fixed size,
        which are a lower bound on the file.
        """

    def stored_entries(self, task: StoredTask, name: str) -> list[Entry]:
        """Return the entries that a task's file has of a tensor, in sizes that it may choose."""
        return self.entries(task.base[name])

    def shared_entry(self, tensor: TensorInfo) -> Entry:
        """Return the tensor that the shared file holds of one tensor of the base."""
        dtype = SharedDType(self.parameters["shared_dtype"]).of(tensor.decoded_dtype)
        return tensor.name, dtype, tensor.shape

    def refuse_other_entries(self, task: StoredTask, name: str) -> None:
        """Raise InputError unless a task's file, and the shared one, have a tensor as expected."""
        if name in task.forms and not self.codec.of_stored:
            raise InputError(
                f"{task.store}: tensor {show(name)} has another form than the base's, "
                f"which codec {self.codec.name!r} does not keep; restore the manifest"
            )
        if not self.codec.is_coded(name, task.restored(name).shape, self.parameters):
            raise InputError(
                f"{task.store}: tensor {show(name)} is encoded, which codec {self.codec.name!r} "
                "does with no such tensor; restore the manifest"
            )
        refuse_other(task.own, self.stored_entries(task, name), task.store)
        if self.has_shared:
            refuse_other(task.shared, [self.shared_entry(task.base[name])], task.store)

    @abstractmethod
    def pack(self, job: PackJob) -> tuple[list[int], list[float]]:
        """Write the encoded tensors of all tasks, and note fingerprints in ``job.record``.

        Returns:
            The bits set, or values kept, in each file of ``job.files``; each task's scale.

        Raises:
            InputError: A value is not finite, or overflows the dtype that it is stored in.
            StorageError: Reading or writing fails.
        """

    @abstractmethod
    def restore(
        self,
        task: StoredTask,
        files: PlanFiles,
        outputs: Mapping[str, Sequence[Place]],
        limits: Limits,
        progress: Moved | None = None,
    ) -> dict[str, list[int]]:
        """Restore the encoded tensors that ``outputs`` names, each to all of its places.

        Args:
            task: The task, whose ``check`` is given everything that is read.
            files: Files of a plan without jobs, among them those of ``outputs``.
            outputs: Places of the restored tensors, in the dtype of the base.
            limits: Threads and the size of buffers.
            progress: Called with the bytes moved since the last call.

        Returns:
            The content fingerprint of each restored tensor.

        Raises:
            InputError: Something that was read is not what was packed.
            StorageError: Reading or writing fails.
        """

    def restore_range(self, task: StoredTask, name: str, first: int, out: memoryview) -> None:
        """Restore the bytes of an encoded tensor from byte ``first`` on, from what they need.

        Raises:
            InputError: Something that was read is not what was packed, or this family restores
                whole tensors alone.
            StorageError: Reading fails.
        """
        raise InputError(
            f"tensor {show(name)}: codec {self.codec.name!r} restores whole tensors alone; take "
            "the elements out of the tensor"
        )

    def in_memory(self, task: StoredTask, name: str) -> list[TensorInfo] | None:
        """Return the stored tensors from which ``encoded`` decodes a tensor.

        Returns:
            Tensors of ``task.own`` and ``task.shared``; None where a tensor can only be restored.
        """
        return None

    def encoded(self, task: StoredTask, name: str, addresses: Sequence[int]) -> Encoded:
        """Return the decoder of a tensor whose ``in_memory`` tensors lie at these addresses.

        Raises:
            InputError: The parts do not fit each other.
        """
        raise AssertionError(f"{self.name}: in_memory names no tensors that decode {name!r}")

    def why_not_counted(self) -> str | None:
        """Return why masks do not say which parameters a task uses; None if they do.

        If they do, the packed mask of a tensor is the entry with the tensor's name.
        """
        return f"{self.codec.name} keeps no masks"


def refuse_other(
    stored: Mapping[str, TensorInfo], entries: Sequence[Entry], store: Path = Path()
) -> None:
    """Raise InputError unless the tensors of a file have all entries, in their dtype and shape.

    Args:
        stored: The tensors of the file by name.
        entries: The names, dtypes and shapes that are expected.
        store: The directory to name where there are no tensors, whose file could be named.
    """
    for name, dtype, shape in entries:
        found = stored.get(name)
        if found is None or (found.dtype, found.shape) != (dtype, tuple(shape)):
            what = f"{found.dtype} {list(found.shape)}" if found is not None else "none"
            path = next((one.path for one in stored.values()), store)
            raise InputError(
                f"{path}: tensor {show(name)}: found {what}, expected {dtype} {list(shape)}, as "
                "codec and base have it; restore the file, or the manifest"
            )
