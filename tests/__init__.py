"""The tests, a package so that another distribution's top-level `tests` cannot stand in for it in a new process."""
