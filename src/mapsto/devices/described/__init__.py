"""Devices that are only described: works are decided and planned for them, and no code is made."""
