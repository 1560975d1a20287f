"""Write the layouts of sources, and read what a source is understood as."""

import hashlib
from pathlib import Path

from alexstream.sharding import listing
from alexstream.sharding.sources.detect import detect_source
from alexstream.sharding.sources.reader import Reader
from alexstream.sharding.split_plans import ShardRequest, plan_splits
from tests.support import imagenet_miniature as mini

LAST, TAR = -1, 0


def make_files(root, *paths):
    """Write an empty file at each path; a path that ends with a slash is a folder."""
    for path in paths:
        if path.endswith("/"):
            (root / path).mkdir(parents=True, exist_ok=True)
        else:
            mini.write(root / path, path.encode())
    return root


def pack_tar(target, *paths):
    """Write a tar of files, each of which holds its path."""
    mini.write(target, mini.tar_bytes([(path, path.encode()) for path in paths if not path.endswith("/")]))
    return target


def read_classes(src, **options):
    """The class of every image, by split and by path below the source."""
    request = ShardRequest(source=Path(src), folder=Path("/nowhere/out"), **options)
    return {
        plan.request.split: {i.path: i.wnid for i in listing.iter_images(plan.listing.table, plan.listing.classes)}
        for plan in plan_splits(request)
    }


def plan_source(src, **options):
    """The plans of a source, one for each split."""
    return list(plan_splits(ShardRequest(source=Path(src), folder=Path("/nowhere/out"), **options)))


def list_splits(src):
    """List all splits, val labelled by the classes of train."""
    out, classes = {}, None
    for split, find in detect_source(src).splits.items():
        out[split] = listing.build_listing(find, classes, where=str(src))
        classes = classes or out[split].classes
    return out


def hash_content(src):
    """Label and sha256 of every image, by split and key."""
    reader = Reader(src)
    return {
        split: {
            image.key: (
                image.label,
                hashlib.sha256(reader.read(image.container, image.offset, image.size).data).hexdigest(),
            )
            for image in listing.iter_images(lst.table, lst.classes)
        }
        for split, lst in list_splits(src).items()
    }


def expected_content():
    """What ``hash_content`` gives for each form of the miniature."""
    return {
        split: {
            p.name.removesuffix(".JPEG"): (mini.WNIDS.index(p.wnid), hashlib.sha256(p.data).hexdigest()) for p in images
        }
        for split, images in mini.pictures().items()
    }
