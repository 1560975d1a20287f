"""docs/training.md and the checkpoint of docs/formats.md are enough: network, first weights, masks, steps, files.

What stands here is written from the words of the pages, in float64, and as two columns that hold what the pages say.
The program is imported only for what is compared.
"""

import hashlib
import json
import math
import re
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexstream.pipeline.batch import Batch, DataFacts, ImagePreprocessing, StageTimes
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.checkpoint import Checkpoint
from alexstream.trainer.distributed.launch import Rank
from alexstream.trainer.errors import CheckpointError
from alexstream.trainer.evaluation.evaluate import Score
from alexstream.trainer.metrics import Recorder, StepResult
from alexstream.trainer.network.columns import Columns
from alexstream.trainer.network.geometry import cut_parameter, make_initial_parameters, parameter_shapes
from alexstream.trainer.network.model import AlexNet
from alexstream.trainer.optim.schedule import choose_phase
from alexstream.trainer.optim.update import PaperSGD, choose_rate
from alexstream.trainer.recipe import ORIGINAL, PAPER, Phase, Recipe
from alexstream.trainer.train_step import Learner
from alexstream.trainer.verdict import RunSetting
from tests.support.doc_pages import block, quoted, tables

PAGE, FORMATS = "training.md", "formats.md"
RECIPES = {"paper": PAPER, "original": ORIGINAL}
CPU = torch.device("cpu")


# --- The generator that weights and masks are drawn from


class Words:
    """MT19937 with its authors' `init_genrand`: 32-bit words, one after the other."""

    def __init__(self, seed):
        state = [seed & 0xFFFFFFFF]
        for i in range(1, 624):
            state.append((1812433253 * (state[-1] ^ (state[-1] >> 30)) + i) & 0xFFFFFFFF)
        self._generator = np.random.MT19937()
        self._generator.state = {
            "bit_generator": "MT19937",
            "state": {"key": np.array(state, np.uint32), "pos": 624},
        }

    def take(self, count):
        return self._generator.random_raw(count)

    def uniform(self, count):
        """The lower 24 bits ÷ 2²⁴."""
        return (self.take(count) & 0xFFFFFF) / 2.0**24

    def normal(self, count):
        """Standard normals, 16 uniforms at a time; the last 16 anew where there are fewer."""
        numbers = np.concatenate([box_muller(self.uniform(count))[: count - count % 16], np.empty(count % 16)])
        if count % 16:
            numbers[-16:] = box_muller(self.uniform(16))
        return numbers


def box_muller(uniform):
    """Whole blocks of 16; what is left over is dropped."""
    u = uniform[: len(uniform) // 16 * 16].reshape(-1, 2, 8)
    radius, angle = np.sqrt(-2 * np.log(1 - u[:, 0])), 2 * np.pi * u[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()


# --- Layers


def shapes(classes, width=1.0):
    """Weight shapes by layer, from the table of parameters in formats.md, for two columns that talk."""
    found = {}
    for name, shape, _ in tables(FORMATS, "Parameters")[0]:
        layer, kind = name.split(".")
        if kind == "weight":
            found[layer] = [classes if size == "classes" else int(size) for size in shape.split(" × ")]
    if width != 1.0:
        for layer, shape in found.items():
            keep = {"conv1": [False, True], "fc8": [True, False]}.get(layer, [False, False])
            shape[:2] = [size if kept else int(size * width) for size, kept in zip(shape[:2], keep, strict=True)]
    return found


def first_parameters(recipe, seed, classes, width):
    """Name → float64 array, by the page's table of first values."""
    table = {layer: (dict(paper=p, original=o), bias) for layer, p, o, bias in tables(PAGE, "First parameters")[0]}
    words, made = Words(seed), {}
    for layer, shape in shapes(classes, width).items():
        sd, bias = table[layer]
        made[f"{layer}.weight"] = float(sd[recipe]) * words.normal(math.prod(shape)).reshape(shape)
        made[f"{layer}.bias"] = np.full(shape[0], float(bias))
    return made


def test_first_weights_of_the_page():
    made = first_parameters("paper", 1, 10, 0.125)
    for name, place, value in tables(PAGE, "First parameters")[1]:
        index = tuple(map(int, re.findall(r"\d+", place)))
        assert made[name][index] == pytest.approx(float(value), abs=2e-8)


@pytest.mark.parametrize("recipe", RECIPES)
def test_first_parameters_of_the_program_are_those_of_the_page(recipe):
    seed = 2**32 + 3
    made = make_initial_parameters(5, Recipe(**{**asdict(RECIPES[recipe]), "phases": (), "width": 0.125}), seed)
    expected = first_parameters(recipe, seed, 5, 0.125)
    assert list(made) == list(expected)
    for name, tensor in made.items():
        assert tensor.shape == expected[name].shape
        assert np.abs(tensor.numpy() - expected[name]).max() < 2e-7


# --- Dropout masks


def mask(seed, step, layer, column, batch_size, units):
    """0 or 1 by (place in the batch, unit of the column)."""
    hashed = hashlib.sha256(f"dropout:{seed}:{step}:{layer}:{column}".encode()).digest()
    words = Words(int.from_bytes(hashed[:7], "big")).take(batch_size * units)
    return (words >> 23 & 1).reshape(batch_size, units)


def test_masks_of_the_page():
    for seed, step, layer, column, place, expected in tables(PAGE, "Dropout masks")[0]:
        made = mask(int(seed), int(step), layer, int(column), int(place) + 1, 2048)
        assert "".join(map(str, made[int(place), :32])) == expected


# --- The network, as two columns


def normalized(x, alpha):
    """Over five maps; `x`: the maps of one column."""
    squares = F.pad(x * x, (0, 0, 0, 0, 2, 2))
    total = sum(squares[:, i : i + x.shape[1]] for i in range(5))
    return x / (2 + alpha * total) ** 0.75


def spatially_normalized(x):
    total = F.conv2d(x.flatten(0, 1)[:, None] ** 2, torch.ones(1, 1, 5, 5, dtype=x.dtype), padding=2)
    return x / (1 + 4e-5 * total.view_as(x)) ** 0.75


def pooled(x):
    return F.max_pool2d(x, 3, 2)


def after_conv1(x, recipe):
    if recipe == "original":
        return F.relu(pooled(normalized(x, 2e-5)))
    return pooled(normalized(F.relu(x), 1e-4))


def after_conv2(x, recipe):
    x = normalized(F.relu(x), {"paper": 1e-4, "original": 2e-5}[recipe])
    return pooled(spatially_normalized(x) if recipe == "original" else x)


def columns_of(parameters, name):
    """A parameter's two halves: column 0 has the first half of the kernels or units."""
    return parameters[name].chunk(2, 1 if name == "fc8.weight" else 0)


def convolved(parameters, layer, inputs, stride=1, padding=0):
    """A convolution in both columns; `inputs`: what each sees."""
    weights, biases = (columns_of(parameters, f"{layer}.{kind}") for kind in ("weight", "bias"))
    return [F.conv2d(x, w, b, stride, padding) for x, w, b in zip(inputs, weights, biases, strict=True)]


def logits(parameters, images, recipe, masks):
    """`masks`: a function of layer, column and units, or None in evaluation."""
    images = F.pad(images, (0, 3, 0, 3))
    x = [after_conv1(y, recipe) for y in convolved(parameters, "conv1", [images] * 2, stride=4)]
    x = [after_conv2(y, recipe) for y in convolved(parameters, "conv2", x, padding=2)]
    x = [F.relu(y) for y in convolved(parameters, "conv3", [torch.cat(x, 1)] * 2, padding=1)]
    x = [F.relu(y) for y in convolved(parameters, "conv4", x, padding=1)]
    x = [pooled(F.relu(y)).flatten(1) for y in convolved(parameters, "conv5", x, padding=1)]
    for layer in ("fc6", "fc7"):
        both = torch.cat(x, 1)
        weights, biases = (columns_of(parameters, f"{layer}.{kind}") for kind in ("weight", "bias"))
        x = [F.relu(both @ w.T + b) for w, b in zip(weights, biases, strict=True)]
        x = [y * (0.5 if masks is None else masks(layer, column, y.shape[1])) for column, y in enumerate(x)]
    parts = [y @ w.T for y, w in zip(x, columns_of(parameters, "fc8.weight"), strict=True)]
    return parts[0] + parts[1] + parameters["fc8.bias"]


def small(recipe, classes=5, seed=3):
    """Recipe and float64 parameters of a small network, as the page says but of larger weights, so that all matters."""
    made = first_parameters(recipe, seed, classes, 0.125)
    tensors = {name: torch.from_numpy(value) for name, value in made.items()}
    scaled = {name: value * (3 if name.endswith("weight") else 1) for name, value in tensors.items()}
    return Recipe(**{**asdict(RECIPES[recipe]), "phases": (), "width": 0.125}), scaled


def images_of(count, seed=5):
    return 60 * torch.randn(count, 3, 224, 224, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_network_of_the_program_is_that_of_the_page(recipe):
    settings, parameters = small(recipe)
    images = images_of(1)
    with torch.no_grad():
        found = AlexNet(parameters, Columns(), settings, seed=9)(images)
    assert torch.allclose(found, logits(parameters, images, recipe, None), rtol=1e-9, atol=1e-9)


# --- A step


def updated(recipe, parameters, velocity, gradients, rates):
    """Parameters and velocity after a step; `rates`: conv1's weights, conv1's biases, other weights, other biases."""
    w, v = {}, {}
    for name, gradient in gradients.items():
        is_bias = name.endswith("bias")
        rate = rates[is_bias + (0 if name.startswith("conv1") else 2)]
        decay = 0.0 if recipe == "original" and is_bias else 0.0005
        v[name] = 0.9 * velocity[name] - decay * rate * parameters[name] - rate * gradient
        w[name] = parameters[name] + v[name]
        if rate == 0:
            w[name], v[name] = parameters[name], velocity[name]
    return w, v


def moving(parameters):
    """A velocity such as an earlier step may have left."""
    generator = torch.Generator().manual_seed(6)
    return {name: 1e-3 * torch.randn(w.shape, dtype=w.dtype, generator=generator) for name, w in parameters.items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_of_the_program_is_that_of_the_page(recipe):
    settings, w = small(recipe)
    images, labels, v = images_of(2), torch.tensor([0, 4]), moving(w)
    learner = Learner(Rank(columns=Columns(), device=CPU), settings, w, v, seed=4)
    leaves = {name: value.clone().requires_grad_() for name, value in w.items()}
    said = logits(leaves, images, recipe, lambda *of: torch.from_numpy(mask(4, 17, *of[:2], 2, of[2])))
    loss = (torch.logsumexp(said, 1) - said[range(2), labels]).mean()
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    conv1, others, biases = (1e-3, 3e-3, 4e-3) if recipe == "original" else (3e-3, 3e-3, 3e-3)
    phase = Phase(start=0, rate=others, conv1_rate=conv1, bias_rate=biases)
    expected = updated(recipe, w, v, gradients, (conv1, biases, others, biases))
    measured = learner.step(Batch(images_NCHW=images, labels_N=labels, ids_N=labels), 17, phase).tolist()
    assert measured == pytest.approx([loss.item(), (said.argmax(1) == labels).double().mean().item()], rel=1e-6)
    for values, found in zip(expected, learner.state(), strict=True):
        for name, value in values.items():
            assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-5 * value.abs().max().item()), name


def test_rate_0_freezes_the_first_layer_of_the_program_as_on_the_page():
    w = {name: torch.ones(3, dtype=torch.float64) for name in ("conv1.weight", "conv1.bias", "fc8.weight", "fc8.bias")}
    v, rates = moving(w), (0.0, 0.0, 1e-4, 2e-3)
    update = PaperSGD({name: torch.nn.Parameter(value.clone()) for name, value in w.items()}, ORIGINAL)
    update.restore(w, v)
    for parameter in update.parameters.values():
        parameter.grad = torch.full_like(parameter, 2.0)
    update.step(Phase(start=0, rate=rates[2], conv1_rate=rates[0], bias_rate=rates[3]))
    expected = updated("original", w, v, {name: torch.full_like(value, 2.0) for name, value in w.items()}, rates)
    for values, found in zip(expected, (update.master, update.velocity), strict=True):
        assert all(torch.allclose(found[name], value, rtol=1e-12) for name, value in values.items())


# --- Rates


def test_rates_of_original_are_those_of_the_page():
    rows = tables(PAGE, "The script of `original`")[0]
    named = ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")
    seen = 0
    for epochs, *rates, noise in rows:
        first, last = map(int, epochs.split(" to "))
        assert first == seen + 1
        for epoch in range(first, last + 1):
            phase = choose_phase([math.nan] * (epoch - 1), ORIGINAL)
            assert [choose_rate(name, phase) for name in named] == pytest.approx([float(rate) for rate in rates])
            assert phase.lighting == (noise == "on")
        seen = last
    assert seen == 93


def drops_after(errors, patience):
    """The number of drops after each error, by the words of the page; nan: not validated."""
    lowest, count, drops, made = math.inf, 0, 0, []
    for error in errors:
        if not math.isnan(error):
            count = 0 if error < lowest else count + 1
            lowest = min(lowest, error)
            if count == patience and drops < 3:
                count, drops = 0, drops + 1
        made.append(drops)
    return made


def test_drops_of_the_page_and_of_the_program():
    for patience, errors, expected in tables(PAGE, "When the rate drops")[0]:
        values = [math.nan if word == "–" else float(word) for word in errors.split()]
        assert drops_after(values, int(patience)) == [int(word) for word in expected.split()]
        recipe = Recipe(patience_epochs=int(patience))
        rates = [choose_phase(values[: i + 1], recipe).rate for i in range(len(values))]
        assert rates == pytest.approx([0.01 / 10 ** int(word) for word in expected.split()])


# --- What a run leaves


def test_metrics_have_the_fields_of_the_page(tmp_path):
    recorder = Recorder(tmp_path, quiet=True)
    phase = Phase(start=0, rate=0.01, conv1_rate=0.001, bias_rate=0.02)
    result = StepResult(
        step=1, epoch=1, phase=phase, images=4, measured=torch.zeros(2), start_s=0.0, start_cpu_s=0.0, wait_s=0.1,
        stages=StageTimes(), setting=RunSetting(),
    )  # fmt: skip
    recorder.step(result, loss=1.0, accuracy=0.5, elapsed_s=1.0, busy_s=0.5)
    recorder.epoch(epoch=1, step=1, score=Score(num_images=4, loss=1.0, top1=0.5, top5=1.0))
    recorder.close()
    step, validation = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    of_step, of_validation = tables(PAGE, "`metrics.jsonl`")
    assert (flat(step), flat(validation)) == (names_in(of_step), names_in(of_validation))
    assert step["learning_rate"] == 0.01


def names_in(rows):
    """The first cells' names, of which a cell may have several."""
    return [name for cell, _ in rows for name in cell.split("`, `")]


def flat(row):
    return [f"{name}.{inner}" if inner else name for name, value in row.items() for inner in keys(value)]


def keys(value):
    return value if isinstance(value, dict) else [""]


# --- Checkpoints


def test_shapes_of_the_page_are_those_of_the_program():
    listed = {name: shape for name, shape, _ in tables(FORMATS, "Parameters")[0]}
    expected = {
        name: tuple(int(n) for n in shape.replace("classes", "1000").split(" × ")) for name, shape in listed.items()
    }
    assert list(parameter_shapes(1000).items()) == list(expected.items())
    assert quoted(PAGE, "The network", r"([\d,]+) parameters at 1,000") == [
        f"{sum(map(math.prod, expected.values())):,}"
    ]


def shapes_of(*, talk=True, sixth=False, removed="", half=False, width=1.0):
    """Weight shapes of the paper's experiments, 1,000 classes, by the paragraph below the table."""
    columns = 1 if half else 2
    kernels = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256}
    if half:
        kernels = {"conv1": 48, "conv2": 128, "conv3": 192, "conv4": 192, "conv5": 256}
    kernels |= {"conv6": 256} if sixth else {}
    kernels.pop(removed, None)
    before, made = 3, {}
    for layer, count in kernels.items():
        outputs, side = int(count * width), {"conv1": 11, "conv2": 5}.get(layer, 3)
        both = layer == "conv1" or (layer == "conv3" and talk)
        made[layer] = (outputs, before if both else before // columns, side, side)
        before = outputs
    units = int(4096 * width)
    share = 1 if talk else columns
    return {**made, "fc6": (units, 36 * before // share), "fc7": (units, units // share), "fc8": (1000, units)}


EXPERIMENTS = [
    ({}, {}),
    ({"talk": False}, {"columns_talk": False}),
    ({"sixth": True}, {"sixth_conv": True}),
    ({"half": True}, {"columns": 1}),
    ({"width": 0.25, "sixth": True}, {"width": 0.25, "sixth_conv": True}),
    *(({"removed": layer}, {"removed": layer}) for layer in ("conv2", "conv3", "conv4", "conv5")),
]


@pytest.mark.parametrize(("words", "fields"), EXPERIMENTS)
def test_shapes_of_the_experiments_are_those_of_the_page(words, fields):
    found = parameter_shapes(1000, recipe=Recipe(**fields))
    weights = {name.removesuffix(".weight"): shape for name, shape in found.items() if name.endswith(".weight")}
    assert list(weights.items()) == list(shapes_of(**words).items())


def test_halves_of_parameters_are_the_columns_of_the_page():
    for name, shape in parameter_shapes(10, recipe=Recipe(width=0.125)).items():
        whole = torch.arange(float(math.prod(shape))).view(shape)
        halves = [whole, whole] if name == "fc8.bias" else columns_of({name: whole}, name)
        assert all(torch.equal(cut_parameter(name, whole, column), half) for column, half in enumerate(halves))


def test_recipes_in_checkpoints_are_those_of_the_page():
    shown = json.loads(block(FORMATS, "Recipe"))
    changed = json.loads(block(FORMATS, "Recipe", 1))
    assert asdict(PAPER) == {**shown, "phases": ()}
    assert json.loads(json.dumps(asdict(ORIGINAL))) == {**shown, **changed}


def page_state():
    """A checkpoint's content from the page's words alone."""
    names = {name: shape for name, shape in parameter_shapes(2, recipe=Recipe(width=0.125)).items()}
    return {
        "schema": "alexstream-checkpoint/2",
        "step": 12,
        "errors": [0.5, math.nan],
        "recipe": {**json.loads(block(FORMATS, "Recipe")), "width": 0.125},
        "data": {"train_digest": "d", "augmentation": "paper", "order": "grouped", "seed": 1, "batch_size": 8,
                 "classes": ["a", "b"]},
        "parameters": {name: torch.full(shape, 0.5) for name, shape in names.items()},
        "velocity": {name: torch.zeros(shape) for name, shape in names.items()},
        "preprocessing": {
            "encode": {"encoding": "jpeg", "size_px": 256, "resize_filter": "lanczos", "quality": 95,
                       "chroma": "4:2:0", "dct": "accurate"},
            "mean": torch.full((3, 256, 256), 110.0), "divisors": [1.0, 1.0, 1.0], "class_names": [],
        },
    }  # fmt: skip


def sealed(path):
    """Announce a comment of 82 bytes in the last record of the archive, then write it."""
    data = path.read_bytes()
    assert data[-22:-18] == b"PK\x05\x06"
    data = data[:-2] + (82).to_bytes(2, "little")
    path.write_bytes(data + f"alexstream sha256 {hashlib.sha256(data).hexdigest()}".encode())


def test_a_checkpoint_written_from_the_page_is_read_by_the_program(tmp_path):
    path = tmp_path / "checkpoint-00000012.pt"
    torch.save(page_state(), path)
    with pytest.raises(CheckpointError):
        checkpoints.load_checkpoint(path)
    sealed(path)
    read = checkpoints.load_checkpoint(path)
    assert (read.step, read.errors[0], read.data["order"], read.recipe) == (12, 0.5, "grouped", Recipe(width=0.125))
    assert read.parameters["fc8.weight"].shape == (2, 512)
    assert read.preprocessing.encode == EncodeRecipe() and read.preprocessing.mean[2, 255, 255] == 110.0


def test_a_checkpoint_of_the_program_is_what_the_page_says(tmp_path):
    state = page_state()
    state.pop("schema")
    prepared = state.pop("preprocessing")
    state["preprocessing"] = ImagePreprocessing(**{**prepared, "encode": EncodeRecipe()})
    facts = DataFacts(
        num_train=8, num_val=0, classes=("a", "b"), train_digest="d", val_digest="", augmentation="paper", seed=1,
        batch_size=8, order="grouped",
    )  # fmt: skip
    facts_and_recipe = {"data": checkpoints.make_checkpoint_data(facts), "recipe": Recipe(width=0.125)}
    path = checkpoints.save_checkpoint(tmp_path, Checkpoint(**{**state, **facts_and_recipe}))
    data = path.read_bytes()
    comment = f"alexstream sha256 {hashlib.sha256(data[:-82]).hexdigest()}".encode()
    assert data[-82:] == comment == zipfile.ZipFile(path).comment
    read = torch.load(path, weights_only=True)
    listed = names_in(tables(FORMATS, "Checkpoint (`alexstream-checkpoint/2`)")[0])
    assert sorted(flat({name: read[name] if name in ("data", "preprocessing") else 0 for name in read})) == sorted(
        listed
    )
    assert read["data"] == state["data"] and read["preprocessing"]["encode"] == prepared["encode"]
    assert path.name == f"checkpoint-{read['step']:08d}.pt"
    assert (tmp_path / "latest").read_text() == f"{path.name}\n"
