"""Who runs the units of a plan."""
