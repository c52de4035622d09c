"""Generic lowering: any kernel to the loop language, on any device that has pointers and vectors."""

from mapsto.devices.generic.epilogue import EpilogueContext, emit_scalar
from mapsto.devices.generic.lower import lower, zero_borders
from mapsto.devices.generic.schedule import RowSchedule, choose_schedule, scratch_temps

__all__ = ["EpilogueContext", "RowSchedule", "choose_schedule", "emit_scalar", "lower", "scratch_temps", "zero_borders"]
