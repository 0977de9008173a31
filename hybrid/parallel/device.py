"""The devices that a network runs on, and the flag that names one."""

import argparse

from ngram.terminal import UsageError

DEVICES = ("auto", "cuda", "cpu")


def known_device(name: str) -> str:
    """The name, if it is one of DEVICES.  Raises UsageError for any other, rather than run on the CPU unasked."""
    if name in DEVICES:
        return name
    if name.startswith("cuda:"):
        raise UsageError(f"--device {name}: give cuda; CUDA_VISIBLE_DEVICES says which GPU that is")
    reason = "Apple's GPUs are not supported" if name.startswith("mps") else "no such device"
    raise UsageError(f"--device {name}: {reason}; give one of {', '.join(DEVICES)}")


def add_device_flag(parser: argparse._ActionsContainer, default: str = "auto", purpose: str = "where the network runs") -> None:
    """--device, refused while flags are read, before any work."""
    parser.add_argument("--device", type=known_device, choices=DEVICES, default=default, help=f"{purpose} [{default}]")
