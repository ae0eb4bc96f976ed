"""Record runs, show them in MLflow, publish their weights."""
