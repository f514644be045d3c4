"""How much warmer it will be in six hours at New York's three airports."""
