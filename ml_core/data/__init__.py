"""The event log and the feature store: facts in, point-in-time feature rows and ordered examples out."""

from ml_core.data.log import EventLog, Segment
from ml_core.data.progress import Progress
from ml_core.data.store import Absorbed, FeatureStore

__all__ = ["Absorbed", "EventLog", "FeatureStore", "Progress", "Segment"]
