"""What a run leaves behind: its record, its copy in MLflow, its published weights."""
