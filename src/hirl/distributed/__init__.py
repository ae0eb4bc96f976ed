"""Training on several processes: collectives, parallel layers, launching, devices."""
