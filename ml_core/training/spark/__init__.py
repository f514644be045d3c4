"""Training on Spark: the rows of a training in shards of consecutive offsets, learned by our own kernels in its tasks.

`plan` says which shards learn after one another and which side by side; `shards` is what runs in a task; `learning`
hands rows over, merges states and keeps the evidence honest. None of it imports pyspark.
"""

from ml_core.training.spark.learning import learn, require_mergeable

__all__ = ["learn", "require_mergeable"]
