"""The model flow: versions, verdicts, packages, and the registry that holds them.

Nothing is imported here, so that a follower of the flow can load `read` and `package` alone and stay small.
"""
