"""The demonstration: a real year of flights, replayed through the real platform, ending in a report."""
