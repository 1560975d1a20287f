"""The training loop of one rank: steps, validation after every epoch, checkpoints, exact resume.

Called by ``launch`` in every rank with the same arguments; all ranks take the same steps.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from pipeline.batch import DataFacts, TrainingData
from trainer import checkpoint as checkpoints
from trainer.checkpoint import Checkpoint, Tensors
from trainer.errors import TrainError
from trainer.evaluate import Score, evaluate
from trainer.geometry import cut, initial_parameters, join, num_parameters
from trainer.launch import Rank
from trainer.model import AlexNet
from trainer.recipe import Recipe
from trainer.report import CONFIG, Meter, Report
from trainer.schedule import learning_rate
from trainer.update import PaperUpdate, Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How long a run lasts and what it leaves. ``checkpoint_every`` counts steps; 0 means at epoch ends only."""

    folder: Path
    epochs: int = 90
    recipe: Recipe = Recipe()
    resume: bool = False
    checkpoint_every: int = 0
    log_every: int = 10
    quiet: bool = False


def prepare(options: RunOptions, facts: DataFacts, num_devices: int = 1) -> None:
    """Check, before any rank starts, that the run folder fits; make it and record the run in ``run.json``.

    Raises TrainError if the devices cannot share a batch evenly, if the folder holds a run and ``resume`` is off or
    none and it is on; CheckpointError if the checkpoint belongs to other data or another recipe.
    """
    if facts.batch_size % num_devices:
        raise TrainError(
            f"--batch-size: received {facts.batch_size}, expected a multiple of {num_devices}, the number of --devices"
        )
    newest = checkpoints.latest(options.folder)
    if newest is not None and not options.resume:
        raise TrainError(
            f"--run {options.folder} holds a run ({newest.name}); continue it with --resume, or give another"
        )
    if newest is None and options.resume:
        raise TrainError(f"--resume: {options.folder} holds no checkpoint; start without --resume")
    if newest is not None:
        checkpoints.load(newest).require(facts, options.recipe, newest)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        config = {"data": asdict(facts), "recipe": asdict(options.recipe), "epochs": options.epochs}
        (options.folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise TrainError(f"cannot write to --run {options.folder}: {error.strerror}") from error


def last_step(epoch: int, facts: DataFacts) -> int:
    """The number of steps after which every sample came ``epoch`` times."""
    return -(-epoch * facts.num_train // facts.batch_size)


def train(rank: Rank, data: TrainingData, options: RunOptions) -> None:
    """Train to the end of the last epoch. Every rank of the run calls this."""
    trainer = Trainer(rank, data, options)
    try:
        trainer.run()
    finally:
        trainer.report.close()


class Trainer:
    """The state of one rank's run."""

    def __init__(self, rank: Rank, data: TrainingData, options: RunOptions) -> None:
        """Start anew, or from the newest checkpoint if the options say resume."""
        self.rank, self.data, self.options = rank, data, options
        self.facts = data.facts()
        recipe, seed = options.recipe, self.facts.seed
        state = checkpoints.load(options.folder) if options.resume else None
        self.step = state.step if state else 0
        self.errors = list(state.errors) if state else []
        start = state.parameters if state else initial_parameters(len(self.facts.classes), recipe, seed)
        self.model = AlexNet(start, rank.columns, recipe, seed).to(rank.device)
        self.update = PaperUpdate(self.model.named(), recipe)
        if state:
            self._restore_velocity(state.velocity)
        folder = options.folder if rank.is_main else None
        self.report = Report(folder, quiet=options.quiet, start_step=self.step)

    def run(self) -> None:
        """Train epoch by epoch from where the state stands."""
        torch.use_deterministic_algorithms(True)
        columns = self.rank.columns
        batches = self.data.training(self.step, columns.part, columns.exchange, self.rank.device)
        self.report.say(self._opening())
        if len(self.errors) >= self.options.epochs:
            self.report.say(
                f"nothing to do: epoch {len(self.errors)} of {self.options.epochs} is finished", result=True
            )
        for epoch in range(len(self.errors), self.options.epochs):
            rate = learning_rate(self.errors, self.options.recipe)
            meter = Meter()
            while self.step < last_step(epoch + 1, self.facts):
                self._one_step(batches, epoch, rate, meter)
            self._end_epoch(epoch, rate)

    def _opening(self) -> str:
        facts, columns = self.facts, self.rank.columns
        ranks = "1 process holds both columns" if columns.count == 1 else f"{columns.count} ranks, one column each"
        backend = "" if columns.group is None else f" ({dist.get_backend(columns.group)})"
        decoded = self.data.decode_path(self.rank.device, columns.count > 1)
        last = last_step(self.options.epochs, facts)
        return (
            f"{ranks}, on {self.rank.device.type}{backend}; {num_parameters(len(facts.classes)):,} parameters; "
            f"{facts.num_train:,} training and {facts.num_val:,} validation images of {len(facts.classes)} classes; "
            f"augmentation {facts.augmentation}, order {facts.order}; "
            f"{decoded}; from step {self.step} to {last}"
        )

    def _one_step(self, batches: object, epoch: int, rate: float, meter: Meter) -> None:
        start = time.perf_counter()
        batch = next(batches)  # type: ignore[call-overload]
        waited = time.perf_counter() - start
        loss = F.cross_entropy(self.model(batch.images_NCHW, self.step), batch.labels_N)
        loss.backward()  # type: ignore[no-untyped-call]
        self.update.step(Rates(conv1=rate, weights=rate, biases=rate * self.options.recipe.bias_rate_factor))
        value = loss.item()
        self.step += 1
        elapsed = time.perf_counter() - start
        self.report.step(epoch=epoch + 1, step=self.step, loss=value, rate=rate, elapsed_s=elapsed, wait_s=waited)
        meter.add(images=len(batch.labels_N), loss=value, elapsed_s=elapsed, wait_s=waited)
        if value != value:
            raise TrainError(
                f"the loss is not a number at step {self.step}; the last checkpoint is intact: "
                "start again with a smaller --lr"
            )
        if meter.steps % self.options.log_every == 0:
            total = last_step(self.options.epochs, self.facts)
            self.report.say(
                f"epoch {epoch + 1}/{self.options.epochs}  step {self.step}/{total}  lr {rate:g}  {meter.line()}"
            )
            meter.clear()
        every = self.options.checkpoint_every
        if every and self.step % every == 0 and self.step < last_step(epoch + 1, self.facts):
            self._save()

    def _end_epoch(self, epoch: int, rate: float) -> None:
        line = f"epoch {epoch + 1}/{self.options.epochs}  step {self.step}  lr {rate:g}"
        score = self._validate()
        if score is None:
            self.errors.append(float("nan"))
            self.report.say(f"{line}  no validation split", result=True)
        else:
            self.errors.append(1.0 - score.top1)
            self.report.epoch(epoch=epoch + 1, step=self.step, score=score)
            self.report.say(f"{line}  {score.line()}", result=True)
        self._save()

    def _validate(self) -> Score | None:
        if self.facts.num_val == 0:
            return None
        columns = self.rank.columns
        return evaluate(self.model, self.data.validation(columns.part, columns.exchange, self.rank.device))

    def _save(self) -> None:
        """Join both columns' shares on the main rank and write them."""
        names = self.model.named()
        parameters = self._joined({name: p.detach() for name, p in names.items()})
        velocity = self._joined(self.update.velocity)
        if self.rank.is_main:
            state = Checkpoint(
                step=self.step,
                errors=tuple(self.errors),
                recipe=self.options.recipe,
                data=checkpoints.checkpoint_data(self.facts),
                parameters=parameters,
                velocity=velocity,
            )
            path = checkpoints.save(self.options.folder, state)
            self.report.say(f"checkpoint {path}")

    def _joined(self, shares: Tensors) -> Tensors:
        columns, whole = self.rank.columns, {}
        for name, share in shares.items():
            halves = [share]
            if columns.count > 1:
                halves = [torch.empty_like(share) for _ in range(columns.count)]
                dist.all_gather(halves, share.contiguous(), group=columns.group)
            if self.rank.is_main:
                whole[name] = join(name, halves).cpu()
        return whole

    def _restore_velocity(self, velocity: Tensors) -> None:
        columns = self.rank.columns
        for name, mine in self.update.velocity.items():
            share = velocity[name] if columns.count == 1 else cut(name, velocity[name], columns.index)
            mine.copy_(share)
