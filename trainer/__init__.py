"""Stage 3: train and evaluate the two-column AlexNet of Krizhevsky, Sutskever and Hinton (2012).

Reads batches (``pipeline.batch.Batch``) from any source that provides them, without loading DALI itself; writes
checkpoints, metrics and pictures. Each device has one process.
"""
