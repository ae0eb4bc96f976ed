"""The training core with optimisers, schedules and checkpoints, and the trainings that use it."""
