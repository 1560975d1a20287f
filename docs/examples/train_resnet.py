"""Train a ResNet-18 on shards of original files: alexstream as a library in a plain PyTorch loop.

Shards that keep the original files, then this script, resumable at any step::

    python cli.py shard --src images/ --out shards/ --encode keep
    python docs/examples/train_resnet.py --data shards/ --epochs 90

Under ``torchrun --nproc-per-node N`` every process takes its part of each batch. What is alexstream's is marked; the
rest is the usual loop.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from alexstream import ShardedData  # alexstream
from alexstream.core.limits import count_cores  # alexstream
from alexstream.pipeline.batch import BatchSlice  # alexstream


def block(inputs, outputs, stride):
    """Make two 3 × 3 convolutions and the shortcut around them (He et al., 2016)."""
    layers = [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)]
    shortcut = nn.Identity()
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return Residual(nn.Sequential(*layers), shortcut)


class Residual(nn.Module):
    """relu(body(x) + shortcut(x))."""

    def __init__(self, body, shortcut):
        """From the two ways."""
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        """Both ways, added."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(num_classes, width=64):
    """Make the network that torchvision has; use that one if it is installed:

    ``torchvision.models.resnet18(num_classes=…)``.
    """
    stem = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    sizes = [width, width, 2 * width, 4 * width, 8 * width]
    blocks = [
        block(sizes[i if k == 0 else i + 1], sizes[i + 1], 2 if i and k == 0 else 1) for i in range(4) for k in (0, 1)
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, num_classes)]
    return nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), *blocks, *head)


@torch.no_grad()
def accuracy(model, batches):
    """Share of right answers; entries with label -1 only fill up the last batch."""
    right = total = 0
    model.eval()
    for batch in batches:
        real = batch.labels_N >= 0
        right += int((model(batch.images_NCHW)[real].argmax(1) == batch.labels_N[real]).sum())
        total += int(real.sum())
    model.train()
    return right / total


def main():
    """Train, validate after every epoch, keep a checkpoint; resume if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch-size", type=int, default=256, help="over all processes")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--checkpoint", type=Path, default=Path("resnet.pt"))
    args = parser.parse_args()

    part, device = BatchSlice(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if "RANK" in os.environ:  # torchrun
        dist.init_process_group()
        part = BatchSlice(index=dist.get_rank(), count=dist.get_world_size())  # alexstream
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device.type == "cuda" else device
    torch.manual_seed(0)

    data = ShardedData(  # alexstream
        train=args.data / "train", val=args.data / "val", batch_size=args.batch_size, augmentation="inception",
        num_threads=count_cores(),
    )  # fmt: skip
    loader = data.loader(part, device)  # alexstream: images and labels on the device, a length, a state
    model = resnet18(len(data.facts().classes), args.width).to(device)
    training = nn.parallel.DistributedDataParallel(model) if dist.is_initialized() else model
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=1e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(loader))
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "loader": loader}
    if args.checkpoint.exists():
        for name, state in torch.load(args.checkpoint, weights_only=True).items():
            parts[name].load_state_dict(state)

    while loader.epoch < args.epochs:
        for images, labels in loader:
            loss = nn.functional.cross_entropy(training(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if part.index == 0:
            top1 = accuracy(model, data.validation(device=device))  # alexstream
            print(f"epoch {loader.epoch}  loss {loss.item():.3f}  top-1 {100 * top1:.1f} %", flush=True)
            torch.save({name: p.state_dict() for name, p in parts.items()}, args.checkpoint.with_suffix(".tmp"))
            os.replace(args.checkpoint.with_suffix(".tmp"), args.checkpoint)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
