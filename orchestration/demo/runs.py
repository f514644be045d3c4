"""Dagster runs, asked for by Dagster's own schedules and sensors but executed here and now.

A daemon would pick a sensor's request up seconds later, in wall-clock time; the replay's time passes hundreds of
times faster, so the demo ticks the same sensor definitions against the same instance and executes the runs they
ask for in this process. The runs are real: they are in the instance's history with the sensor's own tags.
"""

from collections.abc import Iterator

import dagster as dg

from ml_core.errors import PlatformError
from orchestration.resources import Platform

# the history of a run is in the instance; the console has a story to tell
_QUIET = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


class Runs:
    """Ticks sensors and executes runs against one Dagster instance."""

    def __init__(self, definitions: dg.Definitions, platform: Platform, instance: dg.DagsterInstance) -> None:
        self._definitions = definitions
        self._repository = definitions.get_repository_def()
        self._platform = platform
        self._instance = instance
        self._cursors: dict[str, str | None] = {}
        self._asked: set[str] = set()
        self.run_ids: list[str] = []

    def tick(self, sensor_name: str) -> Iterator[str]:
        """Evaluate a sensor once and execute each run it asks for; yield the runs' ids."""
        return (self.answer(sensor_name, request) for request in self.asked(sensor_name))

    def asked(self, sensor_name: str) -> list[dg.RunRequest]:
        """Evaluate a sensor once; return the runs it asks for that it has not asked for before."""
        sensor = self._repository.get_sensor_def(sensor_name)
        with dg.build_sensor_context(
            instance=self._instance,
            cursor=self._cursors.get(sensor_name),
            definitions=self._definitions,
            sensor_name=sensor_name,
            resources={"platform": self._platform},
        ) as context:
            tick = sensor.evaluate_tick(context)
        self._cursors[sensor_name] = tick.cursor
        new = [request for request in tick.run_requests or () if request.run_key not in self._asked]
        self._asked |= {
            request.run_key for request in new if request.run_key
        }  # the daemon, too, starts one run per key
        return new

    def answer(self, sensor_name: str, request: dg.RunRequest) -> str:
        """Execute the run a sensor asked for, with the tags the daemon would give it; return its id."""
        tags = dict(request.tags) | {"dagster/sensor_name": sensor_name}
        if request.run_key is not None:
            tags["dagster/run_key"] = request.run_key
        job_name = request.job_name or str(self._repository.get_sensor_def(sensor_name).job_name)
        return self.execute(job_name, tags=tags, run_config=dict(request.run_config))

    def execute(
        self, job_name: str, *, tags: dict[str, str] | None = None, run_config: dict[str, object] | None = None
    ) -> str:
        """Execute a job in this process and return the run's id; raise PlatformError when it fails."""
        job = self._definitions.resolve_job_def(job_name)
        result = job.execute_in_process(
            instance=self._instance, tags=tags, run_config=_QUIET | (run_config or {}), raise_on_error=True
        )
        self.run_ids.append(result.run_id)
        if not result.success:
            raise PlatformError(f"run {result.run_id} of {job_name} failed; see it in the Dagster UI")
        return result.run_id
