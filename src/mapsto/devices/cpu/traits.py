"""What the CPU asks of a plan; the same for every instruction set, so that they differ in code alone."""

from __future__ import annotations

from mapsto.plan.traits import Traits

TRAITS = Traits(
    block=16,  # f32 lanes of the widest vector; two, or four, of narrower ones
    least_blocked=8,  # half of a block: of a shorter dim most lanes would be empty
    least_columns=4,  # fewer leave most lanes of the template idle: the generic lowering does as well
    least_channels=16,  # fill a vector
    least_of_a_group=16,  # below (a depthwise layer with a multiplier) loops over all groups fill the lanes better
)
