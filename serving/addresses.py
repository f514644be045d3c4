"""Which follower a model address asks for: the registry's, or that of a model topic."""

from typing import Any

from ml_core.flow.read import ModelAddress
from serving.board import Peers
from serving.follower import Follower
from serving.following import FollowerSettings, Following

_TOPICS = "kafka://"


def flow_of(uri: str) -> str:
    """Return the flow of a model address; raise ProjectError where it is none."""
    return str(_parsed(uri).flow)


def follower_of(uri: str, tracking_uri: str, *, settings: FollowerSettings, peers: Peers | None = None) -> Following:
    """Return the follower of a model address.

    Parameters
    ----------
    uri : str
        ``models:/...`` of the registry at `tracking_uri`, or ``kafka://host:port/<flow>.model``.

    Raises
    ------
    ProjectError
        It is no model address.
    """
    address = _parsed(uri)
    if isinstance(address, ModelAddress):
        return Follower(address, tracking_uri, settings=settings, peers=peers)
    from serving.topic import TopicFollower

    return TopicFollower(address, settings=settings)


def _parsed(uri: str) -> Any:
    if not uri.startswith(_TOPICS):
        return ModelAddress.parse(uri)
    from serving.topic import TopicAddress  # a sidecar of the registry needs nothing of Kafka

    return TopicAddress.parse(uri)
