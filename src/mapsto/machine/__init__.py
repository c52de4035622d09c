"""Machines: what devices can do, as data, and what work costs on them."""
