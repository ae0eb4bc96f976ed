"""The one training loop, its optimisers and schedules, its checkpoints."""
