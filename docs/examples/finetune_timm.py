"""Fine-tune a network of timm on shards of your photographs, in a loop of your own; stop it, go on, name a picture.

    alexstream shard --src photos --out shards --val-share 0.1 --encode keep
    python finetune_timm.py shards --epochs 10                  # the same command goes on after a stop
    python finetune_timm.py shards --picture photos/cat/1.jpg

What is alexstream's is marked; the rest is the usual loop.
"""

import argparse
import os
from pathlib import Path

import timm
import torch
from torch import nn

import alexstream  # alexstream
from alexstream.pipeline.single_image import ImagePreprocessor  # alexstream
from alexstream.sharding.images.decode import prepare_image  # alexstream

RECIPE = (
    "inception"  # random resized crops, as modern networks are trained; subtracts the mean, divides by the deviation
)


def parse_options():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="folder with train/ and val/")
    parser.add_argument("--model", default="resnet18", help="any name of timm.list_models()")
    parser.add_argument("--pretrained", action="store_true", help="start from timm's weights, which are downloaded")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--checkpoint", type=Path, default=Path("finetuned.pt"))
    parser.add_argument("--picture", type=Path, help="name this picture instead of training")
    return parser.parse_args()


@torch.no_grad()
def count_right(model, batches):
    """Return how many validation images the network names rightly; label -1 only fills up the last batch."""
    model.eval()
    right = sum(int((model(batch.images_NCHW).argmax(1) == batch.labels_N).sum()) for batch in batches)
    model.train()
    return right


def train(options, data, model, device):
    """Train from where the checkpoint stands to the last epoch, and save after each."""
    facts, loader = data.facts(), data.loader(device=device)  # alexstream
    optimizer = torch.optim.AdamW(model.parameters(), options.lr)
    parts = {"model": model, "optimizer": optimizer, "loader": loader}
    if options.checkpoint.exists():
        for name, state in torch.load(options.checkpoint, weights_only=True).items():
            parts[name].load_state_dict(state)
        print(f"going on after epoch {loader.epoch}")
    while loader.epoch < options.epochs:
        for images, labels in loader:  # alexstream: other crops in another order in every epoch
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        right = count_right(model, data.validation(device=device))  # alexstream
        chance = facts.num_val / len(facts.classes)
        print(f"epoch {loader.epoch}: {right} of {facts.num_val} validation images right; guessing has {chance:.0f}")
        torch.save({name: part.state_dict() for name, part in parts.items()}, options.checkpoint.with_suffix(".tmp"))
        os.replace(options.checkpoint.with_suffix(".tmp"), options.checkpoint)


@torch.no_grad()
def name_picture(options, data, model, device):
    """Print the three most probable classes of a picture, prepared as the data set was."""
    model.load_state_dict(torch.load(options.checkpoint, weights_only=True)["model"])
    facts = data.facts()  # alexstream
    pixels_SSC = prepare_image(options.picture.read_bytes(), facts.preprocessing.encode).pixels_HWC  # alexstream
    batch = ImagePreprocessor(facts.preprocessing, RECIPE, device).batch(pixels_SSC[None])  # alexstream
    likely = model.eval()(batch.images_NCHW).softmax(1)[0].topk(3)
    print(options.picture)
    for share, label in zip(likely.values.tolist(), likely.indices.tolist(), strict=True):
        print(f"  {100 * share:6.2f} %  {facts.classes[label]}")


def main():
    """Train, or name a picture."""
    options = parse_options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    data = alexstream.ShardedData(  # alexstream
        options.shards, batch_size=options.batch_size, augmentation=RECIPE, num_threads=os.cpu_count() or 1
    )
    classes = len(data.facts().classes)
    model = timm.create_model(options.model, pretrained=options.pretrained, num_classes=classes).to(device)
    (name_picture if options.picture else train)(options, data, model, device)


if __name__ == "__main__":
    main()
