"""What assets, checks and sensors are given: the flow's store and its registry, made from the project file."""

from datetime import datetime
from pathlib import Path

import dagster as dg

from ml_core.clock import SystemClock
from ml_core.data.store import FeatureStore
from ml_core.flow.registry import Registry, registry_of
from ml_core.project import Flow, Project, load_project


class Platform(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The way from Dagster to `ml_core`: one per code location.

    `home`, `tracking_uri` and `root` are empty in a deployment, where the project file around the working directory and
    its two environment variables decide; the demo and tests set them.
    """

    root: str = ""
    home: str = ""
    tracking_uri: str = ""

    def project(self) -> Project:
        """Return the project as this resource places it."""
        environment = {"MODELFLOW_HOME": self.home, "MLFLOW_TRACKING_URI": self.tracking_uri}
        place = Path(self.root) if self.root else None
        # one flow's mistake is that flow's alone
        return load_project(place, environment=environment if self.home or self.tracking_uri else None, broken={})

    def now(self) -> datetime:
        """Return the current instant."""
        return SystemClock().now()

    def store(self, flow: Flow) -> FeatureStore:
        """Return the flow's feature store."""
        project = self.project()
        return FeatureStore(flow, root=project.root, home=project.home)

    def registry(self) -> Registry:
        """Return the model registry."""
        return registry_of(self.project())


def platform_of(project: Project) -> Platform:
    """Return the resource for a project as it was read."""
    return Platform(root=str(project.root), home=str(project.home), tracking_uri=project.tracking_uri)
