"""The decisions as data: which nodes one kernel computes, where each value lies, how each is made; with the reasons."""
