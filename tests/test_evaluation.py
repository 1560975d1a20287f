"""evaluate, predict, kernels and neighbours as a user calls them, on untrained networks, against the same by hand."""

import csv
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexstream.pipeline.stream import ShardedData
from alexstream.sharding.dataset_v1.catalog import load_catalog
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats
from alexstream.sharding.lookup import SampleLookup
from alexstream.sharding.pack import shard_all
from alexstream.sharding.split_plans import ShardRequest
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.checkpoint import Checkpoint, make_checkpoint_data
from alexstream.trainer.evaluation.neighbors import Split, choose_queries
from alexstream.trainer.network.columns import Columns
from alexstream.trainer.network.geometry import make_initial_parameters
from alexstream.trainer.network.model import AlexNet
from alexstream.trainer.recipe import Recipe
from tests.support.commands import call, error_of
from tests.support.logit_images import softmax

# Its weights are so far apart that an untrained network of a quarter of the width tells images apart.
RECIPE = Recipe(weight_sd=0.04, upper_conv_sd=0.06, width=0.25)


@pytest.fixture(scope="module")
def images(sample_images, tmp_path_factory):
    """One validation image of each class of the sample set: ten views of each are work enough."""
    folder = tmp_path_factory.mktemp("images")
    for source in sorted((sample_images / "val").iterdir()):
        (folder / source.name).mkdir()
        shutil.copy(min(source.iterdir()), folder / source.name)
    return folder


@pytest.fixture(scope="module")
def shards(images, sample_shards, tmp_path_factory):
    """The sample set's training split, and ``images`` as its validation split."""
    folder = tmp_path_factory.mktemp("looking")
    shutil.copytree(sample_shards / "train", folder / "train")
    list(shard_all(ShardRequest(source=images, folder=folder / "val", split="val"), quiet=True))
    return folder


@pytest.fixture(scope="module")
def runs(shards, tmp_path_factory):
    """Two run folders, each with a checkpoint of its own seed."""
    folders = [tmp_path_factory.mktemp("runs") / name for name in "ab"]
    facts = ShardedData(train=shards / "train").facts()
    for seed, folder in enumerate(folders):
        folder.mkdir()
        parameters = make_initial_parameters(len(facts.classes), RECIPE, seed)
        state = Checkpoint(
            step=seed,
            errors=(),
            recipe=RECIPE,
            data=make_checkpoint_data(facts),
            parameters=parameters,
            velocity={},
            preprocessing=facts.preprocessing,
        )
        checkpoints.save_checkpoint(folder, state)
    return folders


def stdout_of(*words):
    result = call(*words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def said(shards, runs, tmp_path_factory):
    """Number of views → (what evaluate says in JSON, its predictions by key), averaged over both networks."""
    found = {}
    for views in (1, 10):
        path = tmp_path_factory.mktemp("said") / "said.csv"
        options = ["--checkpoint", runs[0], "--checkpoint", runs[1], "--views", views, "--batch-size", 8]
        words = ["evaluate", "--data", shards, *options, "--predictions", path, "--per-class", "--json"]
        score = json.loads(stdout_of(*words))
        found[views] = score, {row["key"]: row for row in csv.DictReader(path.read_text().splitlines())}
    return found


def views_by_hand(pixels_HWC, mean_image_HWC):
    """The paper's ten views minus the mean under them, in NumPy: float32 (10, 3, 224, 224)."""
    whole = pixels_HWC.astype(np.float32) - mean_image_HWC.astype(np.float32)
    corners = [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    crops = [whole[y : y + 224, x : x + 224] for y, x in corners]
    return np.stack([*crops, *(crop[:, ::-1] for crop in crops)]).transpose(0, 3, 1, 2)


def test_evaluate_averages_ten_views_and_two_networks_as_by_hand(shards, runs, said):
    lookup, train = SampleLookup.from_folder(shards / "val"), shards / "train"
    mean_image = load_mean_image(train, load_stats(train, load_manifest(train)))
    views = torch.from_numpy(np.ascontiguousarray(views_by_hand(lookup.pixels(3), mean_image)))
    each = []
    for run in runs:
        state = checkpoints.load_checkpoint(run)
        with torch.no_grad():
            each.append(softmax(AlexNet(state.parameters, Columns(), state.recipe, 0)(views).double().numpy()))
    expected = {1: np.mean([p[4] for p in each], axis=0), 10: np.mean(each, axis=(0, 1))}
    assert np.abs(expected[1] - expected[10]).max() > 1e-3
    for count, p in expected.items():
        row = said[count][1][lookup.keys[3]]
        own = [lookup.manifest.classes.index(row[f"class_{place}"]) for place in range(1, 6)]
        assert own == np.argsort(-p)[:5].tolist()
        assert [float(row[f"probability_{place}"]) for place in range(1, 6)] == pytest.approx(p[own].tolist(), rel=1e-4)


def test_the_score_is_that_of_the_predictions_and_classes_sum_to_it(said):
    for score, rows in said.values():
        assert score["num_images"] == len(rows) == sum(row["num_images"] for row in score["classes"]) == 8
        right = [row["class"] == row["class_1"] for row in rows.values()]
        among = [row["class"] in [row[f"class_{place}"] for place in range(1, 6)] for row in rows.values()]
        assert (score["top1"], score["top5"]) == (pytest.approx(np.mean(right)), pytest.approx(np.mean(among)))
    assert said[1][0]["loss"] != said[10][0]["loss"]


def test_the_score_is_printed_even_if_the_predictions_cannot_be_written(shards, runs, tmp_path):
    if not Path("/dev/full").is_char_device():
        pytest.skip("there is no /dev/full here")
    out = tmp_path / "said.csv"
    out.symlink_to("/dev/full")
    result = call("evaluate", "--data", shards, "--checkpoint", runs[0], "--predictions", out, "--quiet")
    assert result.exit_code == 1 and result.stdout.startswith("validation loss ")
    assert result.stderr == f"Error: cannot write {out}: No space left on device\n"


def test_one_view_of_one_network_is_what_training_validates_with(shards, runs):
    from alexstream.trainer.evaluation.evaluate import evaluate_model

    state = checkpoints.load_checkpoint(runs[0])
    data = ShardedData(train=shards / "train", val=shards / "val", batch_size=8)
    score = evaluate_model(AlexNet(state.parameters, Columns(), state.recipe, 0), data.validation())
    stdout = stdout_of("evaluate", "--data", shards, "--checkpoint", runs[0], "--batch-size", 8)
    assert stdout.strip() == f"validation {score.to_text(8)}"


def test_fitted_weights_are_said_and_score_the_rest(shards, runs):
    words = ["evaluate", "--data", shards, "--checkpoint", runs[0], "--checkpoint", runs[1]]
    half = json.loads(stdout_of(*words, "--fit-weights", 0.5, "--json"))
    assert half["fit"]["num_images"] == half["num_images"] == 4
    assert half["fit"]["loss_fitted"] <= half["fit"]["loss_equal"]
    assert sum(row["weight"] for row in half["checkpoints"]) == pytest.approx(1)
    lines = stdout_of(*words, "--val", shards / "train", "--fit-weights", shards / "val").splitlines()
    assert "fitted on 8 other images" in lines[2] and lines[-1].endswith("(67 images)")


def test_predict_says_of_a_file_what_evaluate_says_of_its_sample(images, shards, runs, said):
    lookup = SampleLookup.from_folder(shards / "val")
    sources = load_catalog(lookup.folder, lookup.manifest, ("source",))["source"]
    files = [images / sources[i] for i in (0, 7)]
    for views, (_, rows) in said.items():
        options = ["--checkpoint", runs[0], "--checkpoint", runs[1], "--views", views, "--json"]
        lines = stdout_of("predict", *files, "--data", shards, *options).splitlines()
        for file, line, sample in zip(files, lines, (0, 7), strict=True):
            found, row = json.loads(line), rows[lookup.keys[sample]]
            assert found["image"] == str(file)
            assert [one["class"] for one in found["classes"]] == [row[f"class_{place}"] for place in range(1, 6)]
            for place, one in enumerate(found["classes"], 1):
                assert one["probability"] == pytest.approx(float(row[f"probability_{place}"]), rel=1e-4)


def test_predict_needs_no_data_set(images, shards, runs, tmp_path):
    """The checkpoint alone, in a folder where nothing else is, says what it says beside its data set."""
    files = sorted(images.glob("*/*"))[:3]
    alone = tmp_path / "laptop"
    alone.mkdir()
    shutil.copy(next(runs[0].glob("*.pt")), alone / "net.pt")
    for options in (["--views", 1, "--json"], ["--views", 10, "--json"], []):
        beside = stdout_of("predict", *files, "--data", shards, "--checkpoint", runs[0], *options)
        assert stdout_of("predict", *files, "--checkpoint", alone / "net.pt", *options) == beside


def test_a_training_saves_what_pictures_are_prepared_with(trained_run, sample_shards):
    train, made = sample_shards / "train", checkpoints.load_checkpoint(trained_run).preprocessing
    manifest = load_manifest(train)
    expected = load_mean_image(train, load_stats(train, manifest)).astype(np.float32).transpose(2, 0, 1)
    assert np.array_equal(made.mean.numpy(), expected) and made.divisors == (1.0, 1.0, 1.0)
    assert made.encode == manifest.encode
    assert "preprocessing" not in json.loads((trained_run / "run.json").read_text())["data"]


def test_a_checkpoint_of_before_asks_predict_for_the_data_set(images, shards, runs, tmp_path):
    old = replace(checkpoints.load_checkpoint(runs[0]), preprocessing=None)
    checkpoints.save_checkpoint(tmp_path, old)
    file = next(images.glob("*/*"))
    with zipfile.ZipFile(next(tmp_path.glob("*.pt"))) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    assert b"preprocessing" not in pickled  # so it is the file that version 0.2.0 saved
    said = error_of("predict", file, "--checkpoint", tmp_path)
    assert "does not hold the mean image" in said and "give the data set that it was trained on as --data" in said
    words = ["predict", file, "--checkpoint", tmp_path, "--data", shards]
    assert stdout_of(*words) == stdout_of("predict", file, "--checkpoint", runs[0])


def test_predict_takes_folders_of_pictures(images, runs, tmp_path):
    """Every picture below a folder, in the order of names; no tables, no files of the system."""
    folder, single = tmp_path / "new", next(images.glob("*/*"))
    (folder / "b").mkdir(parents=True)
    for name in ("z.jpg", "b/a.jpg", "b/no extension"):
        shutil.copy(single, folder / name)
    for name in ("labels.csv", ".DS_Store", "b/Thumbs.db"):
        (folder / name).write_text("no picture")
    lines = stdout_of("predict", folder, single, "--checkpoint", runs[0], "--json").splitlines()
    expected = [folder / "b/a.jpg", folder / "b/no extension", folder / "z.jpg", single]
    assert [json.loads(line)["image"] for line in lines] == list(map(str, expected))
    shutil.rmtree(folder / "b")
    (folder / "z.jpg").unlink()
    assert "holds no images" in error_of("predict", folder, "--checkpoint", runs[0])


def test_latest_is_a_name_for_the_newest_intact_checkpoint(images, runs, tmp_path):
    state, file = checkpoints.load_checkpoint(runs[0]), next(images.glob("*/*"))
    other = {name: tensor * 2 for name, tensor in state.parameters.items()}
    for step, parameters in ((1, state.parameters), (2, other)):
        checkpoints.save_checkpoint(tmp_path, replace(state, step=step, parameters=parameters))
    first, second = (stdout_of("predict", file, "--checkpoint", path) for path in sorted(tmp_path.glob("*.pt")))
    assert first != second == stdout_of("predict", file, "--checkpoint", tmp_path / "latest")
    (tmp_path / "checkpoint-00000002.pt").write_bytes(b"cut short")
    result = call("predict", file, "--checkpoint", tmp_path / "latest")
    assert result.stdout == first and result.stderr.startswith("note: ")
    assert "checkpoint-00000002.pt: no readable" in result.stderr and "checkpoint-00000001.pt" in result.stderr
    assert "holds no checkpoint" in error_of("predict", file, "--checkpoint", images / "latest")


def test_predict_goes_on_after_files_that_are_no_images(images, shards, runs, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    good = next(images.glob("*/*"))
    words = ["predict", tmp_path / "notes.txt", tmp_path / "gone.jpg", good, "--data", shards]
    result = call(*words, "--checkpoint", runs[0])
    assert result.exit_code == 1
    assert [line.split(": ")[:2] for line in result.stderr.splitlines()] == [
        ["Error", str(tmp_path / "notes.txt")],
        ["Error", str(tmp_path / "gone.jpg")],
    ]
    lines = result.stdout.splitlines()
    assert lines[0] == str(good) and len(lines) == 6 and all("%" in line for line in lines[1:])


def test_kernels_of_a_checkpoint_are_drawn(runs, tmp_path):
    stdout = stdout_of("kernels", "--checkpoint", runs[0], "--out", tmp_path / "kernels.png")
    assert "24 kernels in 2 columns" in stdout
    with Image.open(tmp_path / "kernels.png") as picture:
        page = np.asarray(picture)
    weight = checkpoints.load_checkpoint(runs[0]).parameters["conv1.weight"].numpy()[:12]
    first = np.rint(255 * (weight[0, :, 0, 0] - weight.min()) / (weight.max() - weight.min()))
    assert (page[..., :3] == first).all(-1).any()


def neighbours_by_hand(shards, run, key, count):
    """Keys of the nearest training images, from all features at once."""
    state = checkpoints.load_checkpoint(run)
    model = AlexNet(state.parameters, Columns(), state.recipe, 0)
    data = ShardedData(train=shards / "train", val=shards / "val", batch_size=67)
    with torch.no_grad():
        query, train = (
            model.features(next(iter(replace(data, val=shards / split).validation())).images_NCHW)
            for split in ("val", "train")
        )
    (val_lookup, train_lookup) = (SampleLookup.from_folder(shards / split) for split in ("val", "train"))
    distances = (train - query[val_lookup.find(key)]).norm(dim=1)
    return [train_lookup.keys[i] for i in distances.argsort()[:count].tolist()]


def test_neighbours_are_those_of_brute_force_and_a_training_image_finds_itself(shards, runs, tmp_path):
    asked = [SampleLookup.from_folder(shards / split).keys[5] for split in ("val", "train")]
    options = ["--key", asked[0], "--key", asked[1], "--nearest", 4, "--batch-size", 16, "--json"]
    words = ["--data", shards, "--checkpoint", runs[0], "--out", tmp_path / "n.png", *options]
    of_val, of_train = map(json.loads, stdout_of("neighbours", *words).splitlines())
    assert (of_val["query"]["key"], of_val["query"]["split"]) == (asked[0], "val")
    assert [one["key"] for one in of_val["nearest"]] == neighbours_by_hand(shards, runs[0], asked[0], 4)
    assert of_train["query"]["split"] == "train" and of_train["nearest"][0]["key"] == asked[1]
    assert of_train["nearest"][0]["distance"] == 0 < of_train["nearest"][1]["distance"]
    assert of_train["nearest"][0]["class"] == of_train["query"]["class"]
    with Image.open(tmp_path / "n.png") as page:
        assert page.size[0] > 700


def test_queries_are_chosen_by_the_seed_or_named_in_either_split(shards):
    named = {name: SampleLookup.from_folder(shards / name) for name in ("val", "train")}
    splits = [Split(name=name, catalog=lookup, data=None) for name, lookup in named.items()]
    assert choose_queries(splits, (), 3, 1) == choose_queries(splits, (), 3, 1) != choose_queries(splits, (), 3, 2)
    assert all(split.name == "val" for split, _ in choose_queries(splits, (), 99, 1))
    assert len({i for _, i in choose_queries(splits, (), 99, 1)}) == 8
    keys = (named["train"].keys[9], named["val"].keys[2])
    assert [(split.name, i) for split, i in choose_queries(splits, keys, 5, 1)] == [("train", 9), ("val", 2)]


def test_what_cannot_be_looked_at_is_one_line(shards, runs, tmp_path):
    data, run = ["--data", shards], ["--checkpoint", runs[0]]
    out = ["--out", tmp_path / "n.png"]
    assert "no sample of val or train" in error_of("neighbours", *data, *run, *out, "--key", "nobody")
    assert "a picture's name" in error_of("kernels", *run, "--out", tmp_path / "kernels.txt")
    assert ".csv or .parquet" in error_of("evaluate", *data, *run, "--predictions", tmp_path / "said.txt")
    assert "expected several" in error_of("evaluate", *data, *run, "--fit-weights", 0.5)
    both = [*data, *run, *run]
    assert "the one that is scored" in error_of("evaluate", *both, "--fit-weights", shards / "val")
    assert "does not exist; give the folder" in error_of("evaluate", *both, "--fit-weights", tmp_path / "nowhere")
    assert "between 0 and 1" in error_of("evaluate", *data, *run, "--fit-weights", 1.5, exit_code=2)
    assert "does not exist" in error_of("kernels", "--checkpoint", tmp_path / "none.pt", *out)
    val_only = error_of("predict", "image.jpg", "--data", shards / "val", *run)
    assert "no split 'train'" in val_only


def test_a_network_of_other_data_is_refused_by_every_command_that_needs_its_mean(images, runs, tmp_path):
    for split in ("train", "val"):
        request = ShardRequest(source=images, folder=tmp_path / split, split=split)
        list(shard_all(request, quiet=True))
    options = ["--data", tmp_path, "--checkpoint", runs[0]]
    mine, other = (
        checkpoints.load_checkpoint(runs[0]).data["train_digest"],
        load_manifest(tmp_path / "train").digest,
    )
    for words in (["evaluate"], ["predict", "image.jpg"], ["neighbours", "--out", tmp_path / "n.png"]):
        line = error_of(*words, *options)
        assert mine in line and other in line
