"""The pipeline model: feature transforms and a learner, trained, saved and exported as one artifact."""

from ml_core.pipeline.model import PipelineModel

__all__ = ["PipelineModel"]
