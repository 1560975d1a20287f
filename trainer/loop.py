"""Training loop of one rank: steps, validation after every epoch, checkpoints, exact resume.

Runs in every rank with the same arguments; all ranks take the same steps.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import torch
import torch.distributed as dist

from alexstream.core.progress import FIRST_LINE_S, LINE_S
from alexstream.core.text import count_of
from alexstream.pipeline.batch import Batch, DataFacts, TrainingData
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.checkpoint import Checkpoint
from alexstream.trainer.distributed.launch import Rank, make_run_setting
from alexstream.trainer.distributed.watchdog import FIRST_REPORT_S, StallWatchdog
from alexstream.trainer.errors import TrainError
from alexstream.trainer.evaluation.evaluate import Score, Totals, count_results
from alexstream.trainer.guessing import TOLD_AT_STEPS, WINDOW_STEPS, describe_guessing
from alexstream.trainer.metrics import Metrics, ProgressMeter, Recorder, StepResult
from alexstream.trainer.network.geometry import count_parameters
from alexstream.trainer.optim.schedule import choose_phase
from alexstream.trainer.recipe import Phase, Recipe
from alexstream.trainer.run_setup import RunOptions, load_start_parameters
from alexstream.trainer.train_step import Learner
from alexstream.trainer.verdict import RunSetting

NO_LIGHTING_SUFFIX = "-no-lighting"  # suffix of an augmentation's name
DIVERGENCE_FACTOR = 10.0  # a mean loss this many times that of guessing ends the run


def last_step_of_epoch(epoch: int, facts: DataFacts) -> int:
    """Return the number of steps after which every sample has been read ``epoch`` times."""
    return -(-epoch * facts.num_train // facts.batch_size)


def train(rank: Rank, data: TrainingData, options: RunOptions) -> None:
    """Train to the end of the last epoch. Every rank of the run calls this.

    Args:
        rank: This process's columns and device.
        data: Where the batches come from.
        options: How long the run lasts and what it leaves.
    """
    trainer = Trainer(rank, data, options)
    try:
        trainer.run()
    finally:
        trainer.watchdog.close()
        trainer.recorder.close()


class Trainer:
    """The state of one rank's run, new or, to resume, from the newest checkpoint."""

    def __init__(self, rank: Rank, data: TrainingData, options: RunOptions) -> None:
        self.rank, self.data, self.options = rank, data, options
        self.facts = data.facts()
        restored = checkpoints.restore_checkpoint(options.folder) if options.resume else None
        state = restored.state if restored else None
        self.step = state.step if state else 0
        self.val_errors = list(state.errors) if state else []
        start = state.parameters if state else load_start_parameters(options, self.facts)
        self.learner = Learner(
            rank,
            options.recipe,
            start,
            state.velocity if state else None,
            seed=self.facts.seed,
            precision=options.precision,
            compiled=options.compile,
        )
        folder = options.folder if rank.is_main else None
        self.recorder = Recorder(folder, quiet=options.quiet, start_step=self.step, tensorboard=options.tensorboard)
        self.watchdog = rank.columns.watchdog or StallWatchdog("rank 0", min(FIRST_REPORT_S, options.timeout_s / 2))
        self._pending: StepResult | None = None
        self._losses: deque[float] = deque(maxlen=WINDOW_STEPS)
        self._opened: RunSetting | None = None  # of a stream that no step has used yet
        self._has_recorded = False

    def run(self) -> None:
        """Train the epochs that are left."""
        self.recorder.print_line(self._describe_run())
        self._count_step()
        if self.options.compile:
            self.recorder.print_line("the first steps compile the network, which takes about a minute")
        if len(self.val_errors) >= self.options.epochs:
            self.recorder.print_line(
                f"nothing to do: epoch {len(self.val_errors)} of {self.options.epochs} is finished", result=True
            )
            return
        lighting, batches = None, None
        while len(self.val_errors) < self.options.epochs:
            phase = choose_phase(self.val_errors, self.options.recipe)
            if batches is None or phase.lighting != lighting:
                lighting, batches = phase.lighting, self._open_stream(phase.lighting)
            if not self._train_epoch(batches, phase):
                return
        if self.rank.is_main:
            self._print_verdict()

    def _print_verdict(self) -> None:
        """Print the verdict on the whole run, from its metrics, as ``report`` does."""
        with suppress(TrainError):  # a damaged file of metrics fails no run that is finished
            times = Metrics.read(self.options.folder).step_times
            verdict = times.verdict()
            if verdict is not None:
                self.recorder.print_line(verdict.to_text(times.setting or RunSetting()), result=True)

    def _open_stream(self, lighting: bool) -> Iterator[Batch]:
        columns, name = self.rank.columns, self.facts.augmentation
        if not lighting and name != "none" and not name.endswith(NO_LIGHTING_SUFFIX):
            name += NO_LIGHTING_SUFFIX
        self._opened = make_run_setting(self.rank, self.options.precision, self.data)
        return self.data.training(self.step, columns.batch_slice, columns.exchange, self.rank.device, augmentation=name)

    def _describe_run(self) -> str:
        facts, columns, options = self.facts, self.rank.columns, self.options
        ranks = "1 process holds both columns" if columns.count == 1 else f"{columns.count} ranks, one column each"
        if options.recipe.columns == 1:
            ranks = "1 process holds the one column"
        if columns.replicas > 1:
            ranks = f"{columns.replicas} replicas ({ranks})"
        backend = "" if columns.group is None else f" ({dist.get_backend(columns.group)})"
        decoded = self.data.decode_path(self.rank.device, columns.count > 1)
        changed = options.recipe.differences(Recipe(name=options.recipe.name))
        recipe = options.recipe.name + "".join(
            f", {name} {value!r}" for name, (value, _) in changed.items() if name != "phases"
        )
        return (
            f"{ranks}, on {self.rank.device.type}{backend}, {options.precision}; recipe {recipe}; "
            f"{count_parameters(len(facts.classes), options.recipe):,} parameters; "
            f"{facts.num_train:,} training and {count_of(facts.num_val, 'validation image')} of "
            f"{count_of(len(facts.classes), 'class', 'classes')}; "
            f"augmentation {facts.augmentation}, order {facts.order}; "
            f"{decoded}; from step {self.step} to {last_step_of_epoch(options.epochs, facts)}"
        )

    def _count_step(self) -> bool:
        """Tell the processes of this machine how far this rank is; return whether it is to stop here."""
        stop = self.rank.stop
        return stop is not None and stop.advance(self.rank.columns.index, self.step)

    def _train_epoch(self, batches: Iterator[Batch], phase: Phase) -> bool:
        """Train what is left of an epoch, and validate. Returns False if the run was asked to stop, and is saved."""
        epoch = len(self.val_errors)
        remaining = last_step_of_epoch(self.options.epochs, self.facts) - self.step
        meter = ProgressMeter(self.options.log_every, remaining, LINE_S if self._has_recorded else FIRST_LINE_S)
        while self.step < last_step_of_epoch(epoch + 1, self.facts):
            self._train_step(batches, phase, meter)
            if self._count_step():
                self._flush(meter)
                self._save_checkpoint()
                return False
            every = self.options.checkpoint_every
            if every and self.step % every == 0 and self.step < last_step_of_epoch(epoch + 1, self.facts):
                self._flush(meter)
                self._save_checkpoint()
        self._flush(meter)
        self._end_epoch(phase)
        return True

    def _train_step(self, batches: Iterator[Batch], phase: Phase, meter: ProgressMeter) -> None:
        self.recorder.require_written()
        start, start_cpu = time.perf_counter(), time.process_time()
        with self.watchdog.watch(f"the data of step {self.step + 1}; the disk or the object store gives none"):
            batch = next(batches)
        waited = time.perf_counter() - start
        measured = self.learner.step(batch, self.step, phase)
        self.step += 1
        # Record the result of the step before only now: reading a result waits for the GPU, which by now has this
        # step's work to go on with.
        previous, self._pending = (
            self._pending,
            StepResult(
                step=self.step,
                epoch=len(self.val_errors) + 1,
                phase=phase,
                images=self.facts.batch_size,
                measured=measured,
                start_s=start,
                start_cpu_s=start_cpu,
                wait_s=waited,
                stages=batch.stages,
                setting=self._opened,
            ),
        )
        self._opened = None
        if previous is not None:
            self._record(previous, meter, until_s=start, until_cpu_s=start_cpu)

    def _flush(self, meter: ProgressMeter) -> None:
        """Record the result of the last step, if that is still pending."""
        if self._pending is not None:
            result, self._pending = self._pending, None
            self._record(result, meter, until_s=time.perf_counter(), until_cpu_s=time.process_time())

    def _record(self, result: StepResult, meter: ProgressMeter, until_s: float, until_cpu_s: float) -> None:
        self._has_recorded = True
        loss, accuracy = result.measured.tolist()
        elapsed, busy = until_s - result.start_s, (until_cpu_s - result.start_cpu_s) / torch.get_num_threads()
        self.recorder.step(result, loss=loss, accuracy=accuracy, elapsed_s=elapsed, busy_s=busy)
        meter.add(images=result.images, loss=loss, accuracy=accuracy, elapsed_s=elapsed, wait_s=result.wait_s)
        self._check_loss(result, meter.mean_loss() if math.isfinite(loss) else loss)
        self._losses.append(loss)
        if result.step in TOLD_AT_STEPS:
            hint = describe_guessing(result.step, list(self._losses), len(self.facts.classes))
            if hint:
                self.recorder.print_line(f"note: {hint}")
        if meter.is_due():
            total = last_step_of_epoch(self.options.epochs, self.facts)
            self.recorder.print_line(
                f"epoch {result.epoch}/{self.options.epochs}  step {result.step}/{total}  lr {result.phase.rate:g}  "
                f"{meter.to_text(len(self.facts.classes))}"
            )

    def _check_loss(self, result: StepResult, loss: float) -> None:
        remedy = checkpoints.restart_advice(self.options.folder)
        if not math.isfinite(loss):
            raise TrainError(f"the loss is not a number at step {result.step}; {remedy}")
        guessing = math.log(max(2, len(self.facts.classes)))
        if loss > DIVERGENCE_FACTOR * guessing:
            raise TrainError(
                f"the loss diverges: {loss:.1f} around step {result.step}, and guessing gives {guessing:.1f}; {remedy}"
            )

    def _end_epoch(self, phase: Phase) -> None:
        epoch = len(self.val_errors) + 1
        line = f"epoch {epoch}/{self.options.epochs}  step {self.step}  lr {phase.rate:g}"
        score = self._validate()
        self.val_errors.append(float("nan") if score is None else 1.0 - score.top1)
        if score is not None:
            self.recorder.epoch(epoch=epoch, step=self.step, score=score)
        self._save_checkpoint()
        found = f"validation {score.to_text(len(self.facts.classes))}" if score else "no validation split"
        self.recorder.print_line(f"{line}  {found}", result=True)

    def _validate(self) -> Score | None:
        if self.facts.num_val == 0:
            return None
        columns = self.rank.columns
        batches = self.data.validation(columns.batch_slice, columns.exchange, self.rank.device)
        batches = self.watchdog.each(batches, "the data of the validation; the disk or the object store gives none")
        if self.rank.stop is not None:
            batches = self.rank.stop.count(columns.index, batches)
        mine = count_results(self.learner.model, batches).totals(len(self.facts.classes))
        return self._sum_over_replicas(mine).score()

    def _sum_over_replicas(self, mine: Totals) -> Totals:
        """Sum the counts of all replicas; one may have had nothing but padding."""
        columns, device = self.rank.columns, self.rank.device
        if columns.replicas == 1:
            return mine
        loss = torch.tensor(mine.loss, dtype=torch.float64, device=device)
        counts = torch.from_numpy(np.append(mine.places_2T.ravel(), mine.num_images)).to(device)
        with columns.wait_for("another replica's validation"):
            for sums in (loss, counts):
                dist.all_reduce(sums, group=columns.replica_group)
        *places, num_images = counts.tolist()
        return Totals(num_images=num_images, loss=loss.item(), places_2T=np.array(places).reshape(2, -1))

    def _save_checkpoint(self) -> None:
        """Gather both columns' shares on the main rank, which writes a checkpoint."""
        if self.rank.columns.replica > 0:
            return
        parameters, velocity = self.learner.state()
        if self.rank.is_main:
            state = Checkpoint(
                step=self.step,
                errors=tuple(self.val_errors),
                recipe=self.options.recipe,
                data=checkpoints.make_checkpoint_data(self.facts),
                parameters=parameters,
                velocity=velocity,
                preprocessing=self.facts.preprocessing,
            )
            path = checkpoints.save_checkpoint(self.options.folder, state, self.options.keep)
            self.recorder.print_line(f"checkpoint {path}")
            self.recorder.require_written()  # after the checkpoint, so that a full metrics disk loses no training
