"""Downstream evaluation: one file per protocol, on cached features of the frozen backbone or by training from it."""
