"""What the processes of one training share: collectives, parallel layers, the launcher, devices."""
