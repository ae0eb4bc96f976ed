"""Data sets that are drawn, with a known class hierarchy: the taxonomy, its sketches, scenes for detection."""
