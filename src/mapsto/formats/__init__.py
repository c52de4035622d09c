"""Which number formats a network is computed in where its model says f32: what is asked for, and the graph made so."""
