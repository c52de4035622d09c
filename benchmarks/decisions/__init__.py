"""Are a plan's decisions right? Runner-ups are forced, and what they lose is measured beside what was predicted."""
