"""tf.data from a TFRecord file: decoding of the window alone, and the finish on the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from stream_store import BATCH, CROP, MARGIN, THREADS, Stored, Stream

SHUFFLED = 1000


def stream(stored: Stored) -> Stream:
    """Random crops, flips and lighting from TensorFlow; the mean colour is subtracted."""
    path = stored.folder / "jpeg.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i in range(len(stored)):
            writer.write(stored.content(i).tobytes())
    colour, matrix = tf.constant(stored.colour_C, tf.float32), tf.constant(stored.matrix_CC, tf.float32)

    def sample(content: Any) -> Any:
        y, x = (tf.random.uniform([], 0, MARGIN + 1, tf.int32) for _ in range(2))
        window = tf.io.decode_and_crop_jpeg(content, tf.stack([y, x, CROP, CROP]), channels=3)
        window = tf.ensure_shape(window, [CROP, CROP, 3])
        return tf.cond(tf.random.uniform([]) < 0.5, lambda: tf.reverse(window, [1]), lambda: window)

    def finish(windows: Any) -> Any:
        light = tf.random.normal([BATCH, 3]) @ tf.transpose(matrix) - colour
        return tf.transpose(tf.cast(windows, tf.float32) + light[:, None, None, :], [0, 3, 1, 2])

    images = tf.data.TFRecordDataset(str(path)).repeat().shuffle(SHUFFLED).map(sample, num_parallel_calls=THREADS)
    options = tf.data.Options()
    options.threading.private_threadpool_size = THREADS
    batches = images.batch(BATCH, drop_remainder=True).map(finish).prefetch(2).with_options(options)
    return Stream(_arrays(batches), path.stat().st_size / len(stored))


def _arrays(batches: Any) -> Iterator[Any]:
    for batch in batches:
        yield batch.numpy()
