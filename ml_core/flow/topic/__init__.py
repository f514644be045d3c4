"""The codec of the model topic: a snapshot now and then, what changed in between, in chunks a broker takes.

A streamed model is a graph without its numbers (the *skeleton*) and the numbers (*parameters*), which a predictor binds
as inputs: as long as the skeleton stays, new numbers need no new session. A delta holds, bit for bit, the entries of
each parameter that differ from the publication before.

Invariant: a reader that returns a model returns exactly what the writer was given. Each publication carries the digest
of its own bytes, and a delta the digest of the publication it continues. Whatever is missing, altered or out of place
makes the reader wait for the next snapshot, and say so.

Keys are made for compaction: a snapshot's chunks take turns between two sets of keys, so that the last whole one stays
until the next is whole, and a delta's key is its distance from the snapshot. A topic that is never compacted reads the
same. Nothing here speaks Kafka, and nothing is pickled.
"""

from ml_core.flow.topic.chunks import CHUNK_BYTES, Chunk, ModelReader, ModelWriter
from ml_core.flow.topic.publication import StreamedModel
from ml_core.flow.topic.skeleton import put_together, take_apart

__all__ = [
    "CHUNK_BYTES",
    "Chunk",
    "ModelReader",
    "ModelWriter",
    "StreamedModel",
    "put_together",
    "take_apart",
]
