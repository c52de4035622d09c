"""The decisions as data: groups, layouts, schedules, steps; each with its reason."""
