"""What a flat table seems to hold: types, time columns, candidates for key and label, and what knows too much.

Nothing is decided here that a person could not overrule: every finding ends up as a line of the project file. Types are
found over all rows, because the reader is as strict; what is only a suspicion is found on a sample of rows.
"""

from ml_core.data.inspect.findings import Column, Inspection
from ml_core.data.inspect.inspection import inspect_source

__all__ = ["Column", "Inspection", "inspect_source"]
