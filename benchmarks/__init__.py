"""Measurements that a person can repeat."""
