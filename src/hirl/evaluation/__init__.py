"""How good the representation is: one file per protocol, all on the same cached features of the frozen backbone."""
