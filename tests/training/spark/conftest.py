"""Spark for the slow tests of training, as those of features have it."""

from tests.data.spark.conftest import pyspark

__all__ = ["pyspark"]
