"""The training core, with its optimisers, schedules and checkpoints, and the trainings that use it."""
