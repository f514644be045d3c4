"""Training: full, incremental, and the judgement of what they made."""
