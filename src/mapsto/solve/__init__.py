"""The least sum of tables over variables of few choices each: `best.solve` is the way in."""
