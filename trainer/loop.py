"""The training loop of one rank: steps, validation after every epoch, checkpoints, exact resume.

Called by ``launch`` in every rank with the same arguments; all ranks take the same steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist

from pipeline.batch import Batch, DataFacts, TrainingData
from trainer import checkpoint as checkpoints
from trainer.checkpoint import Checkpoint
from trainer.errors import TrainError
from trainer.evaluate import Score, evaluate
from trainer.geometry import num_parameters
from trainer.launch import Rank
from trainer.learner import Learner
from trainer.metrics import Meter, Recorder, StepResult
from trainer.recipe import Phase, Recipe
from trainer.schedule import phase_after
from trainer.start import RunOptions, start_parameters
from trainer.verdict import Balance
from trainer.waiting import LONG_S, Waiting

NO_LIGHTING = "-no-lighting"  # of an augmentation's name
DIVERGED = 10.0  # times the loss of guessing


def last_step(epoch: int, facts: DataFacts) -> int:
    """The number of steps after which every sample came ``epoch`` times."""
    return -(-epoch * facts.num_train // facts.batch_size)


def train(rank: Rank, data: TrainingData, options: RunOptions) -> None:
    """Train to the end of the last epoch. Every rank of the run calls this."""
    trainer = Trainer(rank, data, options)
    try:
        trainer.run()
    finally:
        trainer.waiting.close()
        trainer.recorder.close()


class Trainer:
    """The state of one rank's run."""

    def __init__(self, rank: Rank, data: TrainingData, options: RunOptions) -> None:
        """Start anew, or from the newest checkpoint if the options say resume."""
        self.rank, self.data, self.options = rank, data, options
        self.facts = data.facts()
        restored = checkpoints.restore(options.folder) if options.resume else None
        state = restored.state if restored else None
        self.step = state.step if state else 0
        self.errors = list(state.errors) if state else []
        start = state.parameters if state else start_parameters(options, self.facts)
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
        self.waiting = Waiting(f"rank {rank.columns.part.index}", min(LONG_S, options.timeout_s / 2))
        self._unread: StepResult | None = None
        self._balance = Balance()

    def run(self) -> None:
        """Train epoch by epoch from where the state stands."""
        self.recorder.say(self._opening())
        if len(self.errors) >= self.options.epochs:
            self.recorder.say(
                f"nothing to do: epoch {len(self.errors)} of {self.options.epochs} is finished", result=True
            )
        lighting, batches = None, None
        while len(self.errors) < self.options.epochs:
            phase = phase_after(self.errors, self.options.recipe)
            if batches is None or phase.lighting != lighting:
                lighting, batches = phase.lighting, self._batches(phase.lighting)
            self._epoch(batches, phase)
        verdict = self._balance.verdict()
        if verdict is not None:
            self.recorder.say(verdict.line(), result=True)

    def _batches(self, lighting: bool) -> Iterator[Batch]:
        columns, name = self.rank.columns, self.facts.augmentation
        if not lighting and name != "none" and not name.endswith(NO_LIGHTING):
            name += NO_LIGHTING
        exchange = self.waiting.exchange(columns.exchange)
        return self.data.training(self.step, columns.part, exchange, self.rank.device, augmentation=name)

    def _opening(self) -> str:
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
            f"{num_parameters(len(facts.classes), options.recipe):,} parameters; "
            f"{facts.num_train:,} training and {facts.num_val:,} validation images of {len(facts.classes)} classes; "
            f"augmentation {facts.augmentation}, order {facts.order}; "
            f"{decoded}; from step {self.step} to {last_step(options.epochs, facts)}"
        )

    def _epoch(self, batches: Iterator[Batch], phase: Phase) -> None:
        epoch = len(self.errors)
        meter = Meter(self.options.log_every, last_step(self.options.epochs, self.facts) - self.step)
        while self.step < last_step(epoch + 1, self.facts):
            self._one_step(batches, phase, meter)
            every = self.options.checkpoint_every
            if every and self.step % every == 0 and self.step < last_step(epoch + 1, self.facts):
                self._read(meter)
                self._save()
        self._read(meter)
        self._end_epoch(phase)

    def _one_step(self, batches: Iterator[Batch], phase: Phase, meter: Meter) -> None:
        start, start_cpu = time.perf_counter(), time.process_time()
        with self.waiting.on(f"the data of step {self.step + 1}; the disk or the object store gives none"):
            batch = next(batches)
        waited = time.perf_counter() - start
        measured = self.learner.step(batch, self.step, phase)
        self.step += 1
        # Read one step later: a GPU goes on working meanwhile.
        previous, self._unread = (
            self._unread,
            StepResult(
                step=self.step,
                epoch=len(self.errors) + 1,
                phase=phase,
                images=self.facts.batch_size,
                measured=measured,
                start_s=start,
                start_cpu_s=start_cpu,
                wait_s=waited,
                stages=batch.stages,
            ),
        )
        if previous is not None:
            self._take(previous, meter, until_s=start, until_cpu_s=start_cpu)

    def _read(self, meter: Meter) -> None:
        """Take the result of the step that is still unread."""
        if self._unread is not None:
            result, self._unread = self._unread, None
            self._take(result, meter, until_s=time.perf_counter(), until_cpu_s=time.process_time())

    def _take(self, result: StepResult, meter: Meter, until_s: float, until_cpu_s: float) -> None:
        loss, accuracy = result.measured.tolist()
        elapsed, busy = until_s - result.start_s, (until_cpu_s - result.start_cpu_s) / torch.get_num_threads()
        self.recorder.step(result, loss=loss, accuracy=accuracy, elapsed_s=elapsed, busy_s=busy)
        meter.add(images=result.images, loss=loss, accuracy=accuracy, elapsed_s=elapsed, wait_s=result.wait_s)
        self._balance.add(elapsed_s=elapsed, wait_s=result.wait_s, busy_s=busy, stages=result.stages)
        self._require_sane(result, meter.mean_loss() if math.isfinite(loss) else loss)
        if meter.is_due():
            total = last_step(self.options.epochs, self.facts)
            self.recorder.say(
                f"epoch {result.epoch}/{self.options.epochs}  step {result.step}/{total}  lr {result.phase.rate:g}  "
                f"{meter.line()}"
            )

    def _require_sane(self, result: StepResult, loss: float) -> None:
        remedy = "the last checkpoint is intact: start again with a smaller --lr"
        if not math.isfinite(loss):
            raise TrainError(f"the loss is not a number at step {result.step}; {remedy}")
        guessing = math.log(max(2, len(self.facts.classes)))
        if loss > DIVERGED * guessing:
            raise TrainError(
                f"the loss diverges: {loss:.1f} around step {result.step}, and guessing gives {guessing:.1f}; {remedy}"
            )

    def _end_epoch(self, phase: Phase) -> None:
        epoch = len(self.errors) + 1
        line = f"epoch {epoch}/{self.options.epochs}  step {self.step}  lr {phase.rate:g}"
        score = self._validate()
        if score is None:
            self.errors.append(float("nan"))
            self.recorder.say(f"{line}  no validation split", result=True)
        else:
            self.errors.append(1.0 - score.top1)
            self.recorder.epoch(epoch=epoch, step=self.step, score=score)
            self.recorder.say(f"{line}  {score.line()}", result=True)
        self._save()

    def _validate(self) -> Score | None:
        if self.facts.num_val == 0:
            return None
        columns = self.rank.columns
        exchange = self.waiting.exchange(columns.exchange)
        batches = self.data.validation(columns.part, exchange, self.rank.device)
        batches = self.waiting.each(batches, "the data of the validation; the disk or the object store gives none")
        if columns.replicas == 1:
            return evaluate(self.learner.model, batches)
        try:
            mine = evaluate(self.learner.model, batches)
        except ValueError:  # all that came to this replica was padding
            mine = Score(num_images=0, loss=0.0, top1=0.0, top5=0.0)
        sums = torch.tensor([1.0, mine.loss, mine.top1, mine.top5], dtype=torch.float64) * mine.num_images
        sums = sums.to(self.rank.device)
        dist.all_reduce(sums, group=columns.replica_group)
        count, loss, top1, top5 = sums.tolist()
        return Score(num_images=round(count), loss=loss / count, top1=round(top1) / count, top5=round(top5) / count)

    def _save(self) -> None:
        """Join both columns' shares on the main rank and write them."""
        if self.rank.columns.replica > 0:
            return
        parameters, velocity = self.learner.state()
        if self.rank.is_main:
            state = Checkpoint(
                step=self.step,
                errors=tuple(self.errors),
                recipe=self.options.recipe,
                data=checkpoints.checkpoint_data(self.facts),
                parameters=parameters,
                velocity=velocity,
            )
            path = checkpoints.save(self.options.folder, state, self.options.keep)
            self.recorder.say(f"checkpoint {path}")
