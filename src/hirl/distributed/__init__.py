"""What several processes of one training share: collectives, parallel layers, launching, devices."""
