"""The core of Model Flow: data, pipeline models, training and the flow itself. No Dagster, no web framework."""
