"""A whole platform copied while it runs, and put back elsewhere: event logs, feature stores, registry and ledger.

What makes the copy one moment, although nothing stops:

1. the databases of registry and ledger are dumped between two looks at every flow's ledger that agree, none with a
   transition under way. If one moved meanwhile, they are dumped again;
2. then the artifacts, which never change once a version is registered: all those of the dump are there;
3. then each flow's store and event log, under the store's own lock. They may be ahead of the registry, never behind:
   no version of the copy has learned an example that the copy lacks.

So the restored flow's head finds its watermark in the store, and goes on with the next example, bit for bit. What is
derived is left out: learner checkpoints, sidecars' caches, Dagster's history of runs, the prediction log.
"""

from ml_core.flow.backup.restoring import restore
from ml_core.flow.backup.taking import Place, take

__all__ = ["Place", "restore", "take"]
