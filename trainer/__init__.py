"""Stage 3: batches in; checkpoints and reports out.

The two-column AlexNet of Krizhevsky, Sutskever and Hinton (2012), one process per device. Takes any
iterable of ``pipeline.batch.Batch`` and never loads DALI itself.
"""
