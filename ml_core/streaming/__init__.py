"""Kafka: facts in, the resident learner, the model topic.

Beside `serving.stream` and `serving.topic` this is the only room that imports kafka, and it does so when a connection
is opened, not before.
"""
