"""Orchestration: Dagster's definitions of every flow, and the processes of a running platform."""
