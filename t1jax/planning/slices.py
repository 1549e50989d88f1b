# SPDX-License-Identifier: Apache-2.0
"""Accelerators to plan for: their memory and speed, and devices that stand for those of a slice.

Figures are vendors' peaks: TPUs from cloud.google.com/tpu/docs (system architecture of each version), GPUs from
their data sheets (dense bfloat16, SXM where there is one). A device is what JAX counts: half a chip on tpu7x, else a
chip. What XLA wants to know of a GPU to compile for it is in targets/.
Deliberately not here: what a config needs (memory.py), what a program does (planning/hlo.py).
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from t1jax.config import ConfigError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device's peaks."""

    name: str
    memory: int  # bytes of HBM
    flops: float  # bfloat16 a second
    bandwidth: float  # bytes a second from HBM
    links: float  # bytes a second to neighbours, all links together, one direction
    clock: float = 1e9  # cycles a second of the matrix units: the peak over the flops that they do in a cycle

    @property
    def platform(self) -> str:
        """As JAX calls it."""
        return "tpu" if self.name in TPUS else "gpu" if self.name in GPUS else "cpu"

    @property
    def network(self) -> float:
        """Bytes a second to other slices, a device's share of its host's network, one direction."""
        return NETWORK.get(self.name, 1.25e9)  # a CPU has 10 Gbit/s


NETWORK = {  # TPUs: "data center network" on those pages, v4: as v5p's hosts; GPUs: an adapter of 200 or 400 Gbit/s
    "v4": 6.25e9,
    "v5e": 3.125e9,  # 6.4 Tbit/s a pod of 256 chips
    "v5p": 6.25e9,  # 50 Gbit/s a chip
    "v6e": 12.5e9,  # 25.6 Tbit/s a pod of 256 chips
    "tpu7x": 6.25e9,  # 100 Gbit/s a chip
    "a100": 25e9,
    "h100": 50e9,
    "h200": 50e9,
    "b200": 50e9,
}
CHIPS = {
    "v4": Chip("v4", 32 * GIB, 275e12, 1200e9, 300e9, 1.05e9),
    "v5e": Chip("v5e", 16 * GIB, 197e12, 819e9, 100e9, 1.5e9),
    "v5p": Chip("v5p", 95 * GIB, 459e12, 2765e9, 300e9, 1.75e9),
    "v6e": Chip("v6e", 32 * GIB, 918e12, 1640e9, 224e9, 1.75e9),
    "tpu7x": Chip("tpu7x", 96 * GIB, 1153.5e12, 3690e9, 300e9),
    "a100": Chip("a100", 80 * GIB, 312e12, 2039e9, 300e9),
    "h100": Chip("h100", 80 * GIB, 989e12, 3350e9, 450e9),
    "h200": Chip("h200", 141 * GIB, 989e12, 4800e9, 450e9),
    "b200": Chip("b200", 180 * GIB, 2250e12, 8000e9, 900e9),
    "l4": Chip("l4", 24 * 10**9, 121e12, 300e9, 32e9),  # over PCIe, as the next two
    "rtx4080": Chip("rtx4080", 16 * GIB, 97.5e12, 716.8e9, 32e9),
    "rtx4090": Chip("rtx4090", 24 * GIB, 165.2e12, 1008e9, 32e9),
    "cpu": Chip("cpu", 16 * GIB, 0.2e12, 10e9, 5e9),
}
ALIASES = {"v5lite": "v5e", "v6lite": "v6e", "v5": "v5p"}  # how JAX calls devices
EXAMPLES = (
    "v5e:2x2 v5e:4x4 v5e:16x16 v5p:4x4x4 v5p:4x4x8 v6e:8x8 v6e:16x16 v4:2x2x4 tpu7x:4x4x4 cpu:8 gpu:8xh100; several "
    "slices: 2xv5e:16x16"
)
TARGETS = Path(__file__).with_name("targets")  # of each GPU what XLA's compiler wants to know
GPUS = tuple(sorted(path.stem for path in TARGETS.glob("*.txtpb")))
TPUS = tuple(name for name in CHIPS if name not in (*GPUS, "cpu"))
DEVICES_A_CHIP = {"tpu7x": 2}  # else 1
CHIPS_A_HOST = 4  # of a TPU slice
EXTRA = "in the folder of t1jax, pip install '.[{}]'"  # what to do where a package is missing
GPU_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
GPUS_A_HOST = 8
NOT_ON_A_TPU = {  # what libtpu would else ask of a TPU's own machine, and say that it cannot
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
NOT_ON_A_GPU = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}  # the same of CUDA


@dataclass(frozen=True)
class Slice:
    """Devices to compile for."""

    topology: str
    chip: Chip
    devices: tuple[Any, ...]  # jax.Device, of the slice or standing in for it
    compiler: str  # whose compiler makes the program: tpu, cuda, or cpu where a GPU's is not installed
    slices: int = 1  # of equal size, joined by a slower network; `devices` are in their order

    def slice_of(self, device: Any) -> int:
        """The number of a device's slice."""
        return self._place[device] * self.slices // len(self.devices)

    def host_of(self, device: Any) -> int:
        """The process of a device that is not here: one for each GPU, as in Slurm, one for the chips of a TPU host."""
        name = self.chip.name
        return self._place[device] // (CHIPS_A_HOST * DEVICES_A_CHIP.get(name, 1) if name in TPUS else 1)

    @cached_property
    def _place(self) -> dict[Any, int]:
        return {device: index for index, device in enumerate(self.devices)}

    @property
    def on_host(self) -> bool:
        """The devices are the host's processors, and share its memory with the process."""
        return self.chip.name == "cpu"

    @property
    def stands_in(self) -> bool:
        """The devices are CPUs in place of GPUs, whose compiler is not installed."""
        return self.compiler == "cpu" and not self.on_host


def chip_of(kind: str) -> Chip | None:
    """The chip that JAX calls so, such as "TPU v5 lite" or "NVIDIA H100 80GB HBM3"; None: none of CHIPS, or a CPU."""
    words = re.findall(r"[a-z0-9]+", kind.lower())
    for word in [a + b for a, b in zip(words, words[1:], strict=False)] + words:  # "RTX 4090" before "RTX"
        if (name := ALIASES.get(word, word)) in CHIPS.keys() - {"cpu"}:
            return CHIPS[name]
    return None


def find(topology: str, compiled: bool = True) -> Slice:
    """The slice of `KIND:SHAPE`, without having it: v5p:4x4x8, gpu:8xh100, cpu:8. Call before jax has any device.

    N slices joined by the data-centre network are NxKIND:SHAPE, as 2xv5e:16x16; of GPUs, N machines.
    TPU slices are compiled by libtpu, GPUs by XLA with the extra plan-gpu. Without that extra they are stood in for by
    as many CPU devices: what is split how, and what is exchanged, is the same; the temporaries are the CPU compiler's.

    Args:
      compiled: False: only shapes count, so CPU devices stand in for a TPU slice too where libtpu is not installed.

    Raises:
      ConfigError: unknown, or libtpu is not installed, or the extra plan-gpu does not work.
    """
    slices, chip, count = sizes(topology)
    if chip.name in GPUS and any(importlib.util.find_spec(name) for name in GPU_PLUGINS):
        target = (TARGETS / f"{chip.name}.txtpb").read_text()
        return Slice(topology, chip, _gpu_devices(topology, count, target), "cuda", slices)
    if chip.name in TPUS and (compiled or importlib.util.find_spec("libtpu")):
        return Slice(topology, chip, _tpu_devices(topology), "tpu", slices)
    return Slice(topology, chip, cpu_devices(count), "cpu", slices)


def stood_in(topology: str, devices: Sequence[Any]) -> Slice:
    """The same, with the first of `devices`, CPUs, in place of its own: enough to count from shapes.

    Raises:
      ConfigError: there is no such slice.
    """
    slices, chip, count = sizes(topology)
    return Slice(topology, chip, tuple(devices[:count]), "cpu", slices)


def sizes(topology: str, flag: str = "--topology") -> tuple[int, Chip, int]:
    """(number of slices, chip, devices of all slices) of `[Nx]KIND:SHAPE`. `flag` names it in the error.

    Raises:
      ConfigError: there is no such slice.
    """
    slices, kind, shape = parts(topology)
    gpu = re.fullmatch(r"([1-9]\d*)x(\w+)", shape) if kind == "gpu" else None
    if gpu and gpu[2] in GPUS and slices:
        return slices, CHIPS[gpu[2]], slices * int(gpu[1])
    if kind == "cpu" and re.fullmatch(r"[1-9]\d*", shape) and slices:
        return slices, CHIPS["cpu"], slices * int(shape)
    if kind in TPUS and re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape) and slices:
        chips = math.prod(map(int, shape.split("x")))
        return slices, CHIPS[kind], slices * chips * DEVICES_A_CHIP.get(kind, 1)
    raise unknown(topology, flag=flag)


def parts(topology: str) -> tuple[int, str, str]:
    """(number of slices, kind, shape) of `[Nx]KIND:SHAPE`; either of the latter may be nonsense."""
    several, rest = re.fullmatch(r"(?:(\d{1,4})x)?(.*)", topology, re.DOTALL).groups()  # type: ignore[union-attr]
    kind, _, shape = rest.partition(":")
    return int(several or 1), kind, shape


def unknown(topology: str, why: str = "", flag: str = "--topology") -> ConfigError:
    """The error for a slice that does not exist, with the chips that are known."""
    slices, kind, _ = parts(topology)
    if kind == "gpu" and not why:
        return ConfigError(f"{flag}={topology}: no such GPUs; expected gpu:NxKIND, KIND one of {', '.join(GPUS)}")
    if kind not in (*TPUS, "cpu") and kind and not why:
        why = f", {kind!r} is none of {', '.join((*TPUS, 'gpu', 'cpu'))}"
    return ConfigError(f"{flag}={topology}: no such slice{why}; expected KIND:SHAPE, for example {EXAMPLES}")


def cpu_devices(count: int) -> tuple[Any, ...]:
    """So many CPU devices. Call before jax has any device."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    return tuple(jax.devices())


def _gpu_devices(topology: str, count: int, target: str) -> tuple[Any, ...]:
    """`target` is a GpuTargetConfigProto in text. More than a host holds are spread over hosts of GPUS_A_HOST."""
    for name, value in NOT_ON_A_GPU.items():
        os.environ.setdefault(name, value)
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu,cuda")
    hosts = count // GPUS_A_HOST if count % GPUS_A_HOST == 0 else 1
    shape = f"1x{hosts}x{count // hosts}"
    try:
        found = topologies.get_topology_desc("", platform="cuda", target_config=target, topology=shape)
    except (RuntimeError, jax.errors.JaxRuntimeError) as error:
        raise ConfigError(
            f"--topology={topology}: XLA's GPU compiler does not start ({' '.join(str(error).split())[:160]}); "
            f"expected a CUDA plugin for jax {jax.__version__}: {EXTRA.format('plan-gpu')}, or uninstall the "
            "plugin to plan with CPUs in place of GPUs"
        ) from error
    return tuple(found.devices)


def _tpu_devices(topology: str) -> tuple[Any, ...]:
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"--topology={topology}: libtpu is not installed, and it is the compiler: {EXTRA.format('plan')}; or "
            "--fast, which only estimates"
        )
    for name, value in NOT_ON_A_TPU.items():
        os.environ.setdefault(name, value)
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    slices, kind, shape = parts(topology)
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if set(re.findall(r"\d+", shape)) == {"1"}:  # libtpu takes hosts of 2 x 2 chips
        options |= {"chips_per_host_bounds": (1, 1, 1)}
    options |= {"chip_config_name": "megacore"} if kind == "v4" else {}  # a device a chip; libtpu takes half chips
    try:
        return tuple(topologies.get_topology_desc(f"{kind}:{shape}", "tpu", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        raise unknown(topology, f" ({' '.join(str(error).split())[:160]})") from error
