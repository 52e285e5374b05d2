"""The processors that videofib can compute on."""

from __future__ import annotations

from collections.abc import Iterator

from videofib.doctor.finding import Finding, State


def devices() -> Iterator[Finding]:
    """The CPU, with the cores and threads that this process may use, and each CUDA device."""
    import torch

    from videofib.tracking.environment import machine

    found = machine()
    cores = f"{found['cpu_cores_usable']} of {found['cpu_cores']} cores usable"
    threads = f"threads of torch: {torch.get_num_threads()}"
    yield Finding(State.KNOWN, "CPU", f"{found['cpu']}; {cores}; {threads}; {found['memory_gib']} GiB memory")
    for number, gpu in enumerate(found["gpus"]):
        text = f"{gpu['name']}, {gpu['memory_gib']} GiB, compute capability {gpu['capability']}"
        yield Finding(State.KNOWN, f"CUDA device {number}", f"{text}; CUDA {found['cuda']}, cuDNN {found['cudnn']}")
    if not found["gpus"]:
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        yield Finding(State.KNOWN, "CUDA devices", f"none; {built}")
