"""Options of the command line for the parameters that messages of the library name."""

from __future__ import annotations

import click

# A parameter of the library, and the options for it: the first that the running command has, else the first.
_FLAGS = {
    "batch_size": ("--batch-size",),
    "classes": ("--classes",),
    "classes_at": ("--classes-at",),
    "cache": ("--cache",),
    "cache_bytes": ("--cache-size",),
    "checkpoints": ("--checkpoint",),
    "device": ("--device",),
    "devices": ("--devices",),
    "drop_after": ("--drop-after",),
    "epochs": ("--epochs",),
    "data": ("--data",),
    "fetch_to": ("--fetch",),
    "fit_on": ("--fit-weights",),
    "folder": ("--run", "--out"),
    "init_from": ("--init-from",),
    "keys": ("--key",),
    "learning_rate": ("--lr",),
    "labels": ("--labels",),
    "labels.columns": ("--label-columns",),
    "labels.partial": ("--labels-partial",),
    "max_bad": ("--max-bad",),
    "name": ("--recipe",),
    "on_bad_sample": ("--on-bad-sample",),
    "order": ("--order",),
    "augmentation": ("--augment",),
    "num_threads": ("--threads",),
    "num_workers": ("--workers",),
    "out": ("--out",),
    "path": ("--out", "--predictions"),
    "precision": ("--precision",),
    "predictions": ("--predictions",),
    "removed": ("--remove",),
    "resume": ("--resume",),
    "rounds": ("--rounds",),
    "steps": ("--steps",),
    "seed": ("--seed",),
    "source": ("--src",),
    "split": ("--split",),
    "tensorboard": ("--tensorboard",),
    "timeout_s": ("--timeout",),
    "train": ("--data",),
    "val": ("--val",),
    "val_share": ("--val-share",),
    "width": ("--width",),
}


def flags_for(command: click.Command) -> dict[str, str]:
    """Return the option for each parameter that a message may name while a command runs."""
    own = {word for parameter in command.params for word in parameter.opts}
    return {name: next((flag for flag in flags if flag in own), flags[0]) for name, flags in _FLAGS.items()}
