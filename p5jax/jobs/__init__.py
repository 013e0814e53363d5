"""What is started: one file a job."""
