"""How a flight will end: early, on time, late or cancelled."""
