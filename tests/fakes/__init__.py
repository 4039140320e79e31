"""Real small servers that stand in for what is elsewhere, and misbehave when asked to."""
