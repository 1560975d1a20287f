"""Options of the command line for the parameters that messages of the library name."""

from __future__ import annotations

import click

# A parameter of the library, and the options for it: the first that the running command has, else the first.
_FLAGS = {
    "batch_size": ("--batch-size",),
    "cache": ("--cache",),
    "cache_bytes": ("--cache-size",),
    "checkpoints": ("--checkpoint",),
    "device": ("--device",),
    "devices": ("--devices",),
    "drop_after": ("--drop-after",),
    "fit_on": ("--fit-weights",),
    "folder": ("--run", "--out"),
    "init_from": ("--init-from",),
    "keys": ("--key",),
    "learning_rate": ("--lr",),
    "name": ("--recipe",),
    "on_bad_sample": ("--on-bad-sample",),
    "order": ("--order",),
    "augmentation": ("--augment",),
    "num_threads": ("--threads",),
    "path": ("--out", "--predictions"),
    "precision": ("--precision",),
    "predictions": ("--predictions",),
    "removed": ("--remove",),
    "resume": ("--resume",),
    "rounds": ("--rounds",),
    "steps": ("--steps",),
    "tensorboard": ("--tensorboard",),
    "timeout_s": ("--timeout",),
    "train": ("--data",),
    "val": ("--val",),
    "width": ("--width",),
}


def flags_for(command: click.Command) -> dict[str, str]:
    """Return the option for each parameter that a message may name while a command runs."""
    own = {word for parameter in command.params for word in parameter.opts}
    return {name: next((flag for flag in flags if flag in own), flags[0]) for name, flags in _FLAGS.items()}
