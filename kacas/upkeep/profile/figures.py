"""What a profile holds. Sizes are in bytes, times in seconds, rates per second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PROFILE_VERSION = 1


@dataclass(frozen=True)
class Machine:
    """cpus: that this process may use. memory: bytes. libraries: name → version."""

    processor: str
    cpus: int
    memory: int
    system: str
    python: str
    kacas: str
    libraries: dict[str, str]


@dataclass(frozen=True)
class Place:
    """Where was measured. exists: whether there is a store. scratch: the directory that was used, gone again.

    durability, threads, memory: the settings in force. file_system: its type; network: shared with other hosts.
    index: where the store's host-local index and cache live.
    """

    store: str
    exists: bool
    durability: str
    scratch: str
    file_system: str
    network: bool
    free_size: int
    index: str
    index_file_system: str
    threads: int
    memory: int


@dataclass(frozen=True)
class Data:
    """What was measured on. kind: "generated", "array", "file" or "directory". size: of all of it; sample_size: of what
    was taken; files: how many of them. shape and dtype: of the sample, if it is an array."""

    name: str
    kind: str
    size: int
    sample_size: int
    files: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Figure:
    """unit: "B/s", "/s", "s", "B" or "x" (a ratio). better: "higher" or "lower"."""

    key: str
    title: str
    value: float
    unit: str
    better: str


@dataclass(frozen=True)
class CodecFigures:
    """A recipe on chunks of the data, one thread. codec: what to ask for. ratio: raw bytes for a stored one.

    encode, decode: raw bytes per second.
    """

    codec: str
    recipe: str
    ratio: float
    encode: float
    decode: float


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline over the whole sample, alone, in one thread. seconds: median."""

    key: str
    title: str
    seconds: float


@dataclass(frozen=True)
class Pipeline:
    """key: "store" or "load". wall_s, cpu_s: of the real thing over the same sample, in which stages overlap."""

    key: str
    title: str
    stages: tuple[Stage, ...]
    wall_s: float
    cpu_s: float

    @property
    def stages_s(self) -> float:
        """All stages one after the other."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def overlap(self) -> float:
        """How many stages were at work at a time, on average."""
        return self.stages_s / self.wall_s if self.wall_s else 0.0


@dataclass(frozen=True)
class Advice:
    """do: what to change. when: for whom it is right; what it costs. gain: expected, from the figures. rule: by which it is
    given. factor: old / new of what gets better."""

    key: str
    do: str
    when: str
    gain: str
    rule: str
    factor: float


@dataclass(frozen=True)
class Profile:
    """One run. created: UTC, ISO. notes: what was left out or measured in another way, and why."""

    version: int
    created: str
    elapsed_s: float
    machine: Machine
    place: Place
    data: Data
    limits: tuple[Figure, ...]
    latencies: tuple[Figure, ...]
    codecs: tuple[CodecFigures, ...]
    operations: tuple[Figure, ...]
    pipelines: tuple[Pipeline, ...]
    advice: tuple[Advice, ...]
    notes: tuple[str, ...]

    def figures(self) -> Iterator[Figure]:
        """Every figure, with keys that are the same in every profile."""
        for section, figures in (
            ("limits", self.limits), ("latencies", self.latencies), ("operations", self.operations)
        ):  # fmt: skip
            for one in figures:
                yield Figure(f"{section}.{one.key}", one.title, one.value, one.unit, one.better)
        for codec in self.codecs:
            front, title = f"codecs.{codec.codec}", f"codec {codec.codec}"
            yield Figure(f"{front}.ratio", f"{title}: ratio", codec.ratio, "x", "higher")
            yield Figure(f"{front}.encode", f"{title}: encode", codec.encode, "B/s", "higher")
            yield Figure(f"{front}.decode", f"{title}: decode", codec.decode, "B/s", "higher")
        for pipeline in self.pipelines:
            front = f"pipelines.{pipeline.key}"
            for stage in pipeline.stages:
                rate = self.data.sample_size / max(stage.seconds, 1e-9)
                title = f"{pipeline.key} stage: {stage.title}"
                yield Figure(f"{front}.{stage.key}", title, rate, "B/s", "higher")
            rate = self.data.sample_size / max(pipeline.wall_s, 1e-9)
            yield Figure(f"{front}.wall", f"{pipeline.key}: all together", rate, "B/s", "higher")
